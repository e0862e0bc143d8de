"""Write a cascade as ONNX graphs, checked against the networks they were made of."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from cascade.command_line.options import add_model, add_output
from cascade.command_line.outputs import refuse_to_replace, say, say_table
from cascade.command_line.parser import OK, CommandParser, command
from cascade.errors import ConfigError
from cascade.imaging import expand_sources
from cascade.models.exported import FILES


def build_parser() -> CommandParser:
    """The command's flags."""
    parser = CommandParser(
        "cascade export",
        "Write both stages as ONNX graphs into a folder that runs without torch: uint8 RGB in, "
        "probabilities out. The answers are compared with those in torch, on noise and on the "
        "images that are given, and nothing is written where they differ.",
        example="cascade export --model models/cascade.safetensors --output models/cascade_onnx "
        "--images dataset/images_all",
    )
    add_model(parser, "a cascade", default="the default one that comes with the library")
    add_output(parser, "folder of the exported cascade", required=True)
    parser.add_argument(
        "--images",
        type=str,
        nargs="+",
        default=[],
        help="images to compare the answers on: files, folders or patterns",
    )
    parser.add_argument(
        "--max_images", type=int, default=200, help="take at most so many of them, evenly spaced"
    )
    parser.add_argument(
        "--int8",
        type=Literal["none", "segmenter", "classifier", "both", "classifier_weights"],
        default="none",
        help="stages to compute in 8-bit integers, which pays for the segmenter; "
        "classifier_weights only stores these in 8 bits, which saves space and costs no time; "
        "needs --images, and is refused where masks or answers change too much",
    )
    parser.add_argument(
        "--int8_difference",
        type=float,
        default=0.01,
        help="largest change of an image's probability that --int8 may make",
    )
    return parser


def find_images(named: Sequence[str], limit: int) -> list[Path]:
    """At most so many of the image files behind files, folders and patterns, evenly spaced.

    Raises:
        ConfigError: something was named, but there is no image.
    """
    if limit < 1:
        raise ConfigError(f"max_images is {limit}; it must be at least 1")
    found = [item.path for item in expand_sources(named) if item.problem is None]
    if named and not found:
        raise ConfigError(f"--images {' '.join(named)}: there is no image")
    count = min(limit, len(found))
    return [found[place * len(found) // count] for place in range(count)]


@command(build_parser)
def main(arguments: Any) -> int:
    """Run the command; returns its exit code."""
    folder = Path(arguments.output)
    refuse_to_replace(arguments, *(folder / name for name in sorted(FILES)))
    images = find_images(arguments.images, arguments.max_images)

    from cascade.export import export_onnx
    from cascade.models.artifact import required_default_model

    parity = export_onnx(
        arguments.model or required_default_model(),
        arguments.output,
        images=images,
        int8=arguments.int8,
        int8_difference=arguments.int8_difference,
        overwrite=arguments.overwrite,
    )
    say_table(*_rows(parity))
    say(f"written: {arguments.output}")
    return OK


_SHOWN = {
    "images": "{:d}",
    "map_difference": "{:.1e}",
    "mask_pixels": "{:.4%}",
    "mean_mask_iou": "{:.5f}",
    "lowest_mask_iou": "{:.5f}",
    "classifier_difference": "{:.1e}",
    "cascade_difference": "{:.1e}",
    "diagnosis_difference": "{:.1e}",
    "changed_labels": "{:d}",
    "out_of_distribution_difference": "{:.1e}",
}
"""How each of :class:`cascade.export.parity.Differences` is written."""


def _rows(parity: dict[str, Any]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """One column for each comparison, one row for each number."""
    columns = {
        f"{precision}, {kind}": report[kind]
        for precision, report in parity.items()
        for kind in ("noise", "images")
        if kind in report
    }
    rows = [
        (name.replace("_", " "), *(_cell(column[name], form) for column in columns.values()))
        for name, form in _SHOWN.items()
    ]
    return ("difference", *columns), rows


def _cell(value: Any, form: str) -> str:
    return "" if value is None else form.format(value)
