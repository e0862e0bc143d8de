"""Write predicted masks for a whole table, to train the classifier on or to look at."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cascade.command_line.evaluation_options import check_unseen
from cascade.command_line.options import add_data, add_model, add_output, load_table
from cascade.command_line.outputs import refuse_to_replace, say
from cascade.command_line.parser import OK, CommandParser, command


def build_parser() -> CommandParser:
    """The command's flags."""
    parser = CommandParser(
        "cascade segment",
        "Write the predicted mask of every image of a table. Images that the segmenter was trained "
        "on are refused, because their masks are better than those in use: cascade oof-masks makes "
        "honest ones for them.",
        example="cascade segment --model models/segmenter/best.safetensors --data_path ham10000 "
        "--table train_data.csv --output models/masks",
    )
    add_model(parser, "a segmenter or of a cascade", required=True)
    add_data(parser, table="train_data.csv")
    add_output(parser, "folder for the masks, as STEM.png", required=True, resume=True)
    parser.add_shared("device", "threshold", "allow_seen")
    return parser


@command(build_parser)
def main(arguments: Any) -> int:
    """Run the command; returns its exit code."""
    table = load_table(arguments, labels=False)
    folder = Path(arguments.output)
    refuse_to_replace(arguments, *(folder / f"{record.stem}.png" for record in table))

    from cascade.lesion.masking import MaskPolicy
    from cascade.models.segmenter import Segmenter
    from cascade.training.folds import write_masks

    segmenter = Segmenter.load(arguments.model, device=arguments.device)
    check_unseen(arguments, {"segmenter": segmenter.provenance}, table, arguments.model)
    policy = MaskPolicy(threshold=arguments.threshold)
    written = write_masks(segmenter, table, folder, policy, keep=not arguments.overwrite)
    say(f"written: {written} masks in {folder}, {len(table) - written} kept")
    return OK
