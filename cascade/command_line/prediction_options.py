"""What the commands share that predict files, folders, patterns and tables of images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from cascade.command_line.options import (
    add_cutoff,
    add_device,
    add_operating_point,
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
    parser.add_argument(
        "--model",
        type=str,
        default=None,
        help="file of a cascade, or folder of an exported one; by default the cascade in models/, "
        "or the one that comes with the library",
    )
    parser.add_argument(
        "--output", type=str, default=output, help=f"folder for {table} and pictures"
    )
    add_device(parser)
    add_runtime(parser)
    parser.add_argument(
        "--tta",
        type=Literal["none", "flips", "dihedral"],
        default="none",
        help="test-time augmentation: average 1, 4 or 8 views",
    )
    add_cutoff(parser)
    add_operating_point(parser)
    parser.add_argument(
        "--max_megapixels", type=float, default=50.0, help="larger images get an error row"
    )
    add_switch(parser, "--allow_truncated", "take damaged JPEGs too, with a warning")
    add_switch(parser, "--not_recursive", "leave out folders within folders")
    add_switch(parser, "--resume", f"keep the rows that {table} has and go on")
    add_switch(parser, "--overwrite", f"replace {table}")


def load_cascade(arguments: Any, **use: Any) -> Cascade:
    """The cascade that the flags name; ``use`` joins what they say about its use."""
    from cascade.pipeline import Cascade

    return Cascade.load(
        arguments.model,
        **runtime_options(arguments),
        cutoff=arguments.cutoff,
        operating_point=arguments.operating_point,
        limits=ImageLimits(
            max_pixels=int(min(arguments.max_megapixels, 1e6) * 1e6),
            allow_truncated=arguments.allow_truncated,
        ),
        **use,
    )
