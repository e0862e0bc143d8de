"""Show the web page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cascade.command_line.options import add_device
from cascade.command_line.parser import OK, CommandParser, run
from cascade.serving.page.settings import PageSettings, Runtime


def build_parser() -> CommandParser:
    """The command's flags."""
    default = PageSettings()
    parser = CommandParser(
        "cascade app",
        "A web page for photographs: outline, heat map, probability, measurements and a report to "
        "keep. Pictures stay in this computer's memory. Research software, not for diagnosis.",
        example="cascade app --model models/cascade.safetensors --port 8501",
    )
    parser.add_argument(
        "--model",
        type=str,
        default=None,
        help="file of a cascade, or folder of an exported one; by default the one that comes with "
        "the library",
    )
    parser.add_argument(
        "--models", type=str, default=None, help="folder with more of them to choose from"
    )
    parser.add_argument(
        "--runtime",
        type=Runtime,
        default=default.runtime,
        help="what computes the networks; auto goes by the model",
    )
    add_device(parser)
    parser.add_argument(
        "--host",
        type=str,
        default="127.0.0.1",
        help="address to listen on; 0.0.0.0 lets other computers in, without a password",
    )
    parser.add_argument("--port", type=int, default=8501, help="port to listen on; 0 takes any")
    parser.add_argument(
        "--max_upload_mb",
        type=int,
        default=default.max_upload_mb,
        help="largest file in megabytes",
    )
    parser.add_argument(
        "--max_megapixels",
        type=float,
        default=default.max_megapixels,
        help="largest picture in millions of pixels; memory grows with it",
    )
    return parser


def _main(argv: Sequence[str] | None) -> int:
    arguments = build_parser().parse_args(argv)
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


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return run(_main, argv)
