"""Show the web page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cascade.command_line.options import add_any_cascade
from cascade.command_line.parser import OK, CommandParser, command
from cascade.command_line.shared_flags import SHARED
from cascade.models.runtimes import Runtime
from cascade.serving.page.settings import PageSettings


def build_parser() -> CommandParser:
    """The command's flags."""
    default = PageSettings()
    parser = CommandParser(
        "cascade app",
        "A web page for images: lesion mask, heat map, probability, measurements and a report to "
        "download. Images stay in this computer's memory. Research software, not for diagnosis.",
        example="cascade app --model models/cascade.safetensors --port 8501",
    )
    add_any_cascade(parser)
    parser.add_argument(
        "--models", type=str, default=None, help="folder with more of them to choose from"
    )
    parser.add_argument(
        "--runtime",
        type=Runtime,
        default=default.runtime,
        help=SHARED["runtime"].help,
    )
    parser.add_shared("device", "host", port=8501, max_megapixels=default.max_megapixels)
    parser.add_argument(
        "--max_upload_mb",
        type=int,
        default=default.max_upload_mb,
        help="largest file in megabytes",
    )
    return parser


@command(build_parser)
def main(arguments: Any) -> int:
    """Run the command; returns its exit code."""
    settings = PageSettings(
        model=None if arguments.model is None else Path(arguments.model),
        models=None if arguments.models is None else Path(arguments.models),
        runtime=arguments.runtime,
        device=arguments.device,
        max_upload_mb=arguments.max_upload_mb,
        max_megapixels=arguments.max_megapixels,
    )

    from cascade.serving.page.server import serve_page

    serve_page(settings, host=arguments.host, port=arguments.port)
    return OK
