"""Write predicted masks for a whole table, to train the classifier on or to look at."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cascade.command_line.evaluation_options import check_unseen
from cascade.command_line.first_rows import first_rows
from cascade.command_line.options import add_data, add_model, add_output, load_table
from cascade.command_line.outputs import refuse_to_replace, say
from cascade.command_line.parser import OK, PARTIAL, CommandParser, command
from cascade.command_line.run_settings import RunSettings
from cascade.errors import ConfigError, DataError


def build_parser() -> CommandParser:
    """The command's flags."""
    parser = CommandParser(
        "cascade segment",
        "Write the predicted mask of every image of a table. Images that the segmenter was trained "
        "on are refused, because their masks are better than those in use: cascade oof-masks makes "
        "honest ones for them.",
        example="cascade segment --model models/segmenter/best.safetensors --data_path ham10000 "
        "--table train_data.csv --output models/masks\n"
        "  cascade segment --model first.safetensors --more_models second.safetensors --tta flips "
        "--agreement 0.9 --data_path ham10000 --output models/pseudo_masks",
    )
    add_model(parser, "a segmenter or of a cascade", required=True)
    parser.add_argument(
        "--more_models",
        nargs="+",
        type=str,
        default=[],
        help="further segmenters; the mean of all maps is cut at --threshold",
    )
    parser.add_argument(
        "--agreement",
        type=float,
        default=0.0,
        help="least mean IoU of the single views' masks with their common one, in [0, 1]; an image "
        "below it gets no mask, so that cascade seg-train --pseudo_masks does not learn from it",
    )
    add_data(parser, table="train_data.csv")
    add_output(parser, "folder for the masks, as STEM.png", required=True, resume=True)
    parser.add_shared("device", "threshold", "tta", "limit", "allow_seen")
    return parser


@command(build_parser)
def main(arguments: Any) -> int:
    """Run the command; returns its exit code."""
    if not 0 <= arguments.agreement <= 1:
        raise ConfigError(f"--agreement {arguments.agreement}: give an IoU from 0 to 1")
    table = first_rows(arguments, load_table(arguments, labels=False))
    folder = Path(arguments.output)
    refuse_to_replace(arguments, *(folder / f"{record.stem}.png" for record in table))

    from cascade.lesion.masking import MaskPolicy
    from cascade.models.runtimes import model_identity
    from cascade.models.segmenter import Segmenter
    from cascade.training.predicted_masks import write_masks

    paths = [arguments.model, *arguments.more_models]
    segmenters = [Segmenter.load(path, device=arguments.device) for path in paths]
    for path, segmenter in zip(paths, segmenters, strict=True):
        check_unseen(arguments, {"segmenter": segmenter.provenance}, table, path)
    kept = any((folder / f"{record.stem}.png").is_file() for record in table)
    settings = {
        "model_sha256": [model_identity(path) for path in paths],
        **{name: arguments[name] for name in ("threshold", "tta", "agreement")},
    }
    run = RunSettings(folder.with_name(f"{folder.name}.settings.json"), settings)
    run.go_on(results=kept and not arguments.overwrite)
    result = write_masks(
        segmenters,
        table,
        folder,
        MaskPolicy(threshold=arguments.threshold),
        tta=arguments.tta,
        agreement=arguments.agreement,
        keep=not arguments.overwrite,
        leave_out_unreadable=True,
    )
    doubted = f", {result.doubted} images without one for want of agreement"
    unreadable = f", {result.unreadable} images cannot be read"
    say(
        f"written: {result.written} masks in {folder}, {result.kept} kept"
        f"{doubted if arguments.agreement else ''}{unreadable if result.unreadable else ''}",
        wrong=bool(result.unreadable),
    )
    if not result.written + result.kept:
        raise DataError(f"{folder}: no image has a mask; nothing can learn from it")
    return PARTIAL if result.unreadable else OK
