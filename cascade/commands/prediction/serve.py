"""``cascade serve``: predictions over HTTP."""

from __future__ import annotations

import os
from typing import Any

from cascade.command_line.options import add_any_cascade
from cascade.command_line.parser import OK, CommandParser, command, settings
from cascade.errors import MissingExtraError
from cascade.serving.rest.settings import ServiceSettings


def build_parser() -> CommandParser:
    """The command's flags."""
    parser = CommandParser(
        "cascade serve",
        "Serve predictions over HTTP, with a description of the interface at /docs. Nothing of the "
        "images is kept. Research software, not for diagnosis.",
        example="cascade serve --port 8000\n"
        "  curl -F images=@photo.jpg http://127.0.0.1:8000/v1/predict",
    )
    add_any_cascade(parser)
    parser.add_settings(ServiceSettings)
    return parser


@command(build_parser)
def main(arguments: Any) -> int:
    """Run the command; returns its exit code."""
    service = settings(ServiceSettings, arguments)
    if service.threads:  # read when torch is imported
        os.environ["OMP_NUM_THREADS"] = str(service.threads)
    try:
        from cascade.serving.rest.server import serve
    except ImportError as error:
        raise MissingExtraError(
            f"the service needs more packages ({error.name} is missing); run: pip install "
            "'cascade[serve]'"
        ) from error
    serve(service)
    return OK
