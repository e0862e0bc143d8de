"""What the commands share that predict files, folders, patterns and tables of images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cascade.command_line.options import (
    add_any_cascade,
    add_output,
    add_runtime,
    add_switch,
    runtime_options,
)
from cascade.command_line.parser import CommandParser
from cascade.imaging import ImageLimits

if TYPE_CHECKING:
    from cascade.pipeline import Cascade


def add_prediction(parser: CommandParser, *, output: str, table: str) -> None:
    """Add the inputs, the model and how it is used, and where results go.

    Args:
        parser: where to add them.
        output: the default folder.
        table: file name of the results.
    """
    parser.add_argument(
        "inputs",
        nargs="+",
        type=str,
        help="image files, folders, patterns, or CSV tables with a column name or path",
    )
    add_any_cascade(parser)
    add_output(parser, f"folder for {table} and images", default=output, resume=True)
    add_runtime(parser)
    parser.add_shared("limit", "tta", "cutoff", "operating_point", "max_megapixels")
    add_switch(parser, "--allow_truncated", "take damaged JPEGs too, with a warning")
    add_switch(parser, "--not_recursive", "leave out folders within folders")


def load_cascade(arguments: Any, **use: Any) -> Cascade:
    """The cascade that the flags name; ``use`` joins what they say about its use."""
    from cascade.pipeline import Cascade

    return Cascade.load(arguments.model, **runtime_options(arguments), **use_of(arguments), **use)


def use_of(arguments: Any) -> dict[str, Any]:
    """What :meth:`cascade.Cascade.load` is to be told about the use of the cascade."""
    return {
        "cutoff": arguments.cutoff,
        "operating_point": arguments.operating_point,
        "limits": ImageLimits(
            max_pixels=int(min(arguments.max_megapixels, 1e6) * 1e6),
            allow_truncated=arguments.allow_truncated,
        ),
    }
