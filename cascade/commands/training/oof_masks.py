"""Write out-of-fold predicted masks, to train the classifier on masks like those in use."""

from __future__ import annotations

from typing import Any

from cascade.command_line.options import load_table, with_masks
from cascade.command_line.outputs import say
from cascade.command_line.parser import OK, CommandParser, settings
from cascade.command_line.training import add_training, refuse_to_replace_training, training_command
from cascade.config import SegmentationTrainConfig, SegmenterConfig


def build_parser() -> CommandParser:
    """The command's flags."""
    parser = CommandParser(
        "cascade oof-masks",
        "Train k segmenters by group and write, for each training image, the mask predicted by the "
        "one that did not see it.",
        example="cascade oof-masks --folds 5 --config configs/segmentation.yaml "
        "--output models/oof\n"
        "  cascade cls-train --masks models/oof/masks",
    )
    parser.add_argument("--folds", type=int, default=5, help="number of folds, at least 2")
    add_training(parser, SegmentationTrainConfig, SegmenterConfig, output="oof")
    return parser


@training_command(build_parser)
def main(arguments: Any) -> int:
    """Run the command; returns its exit code."""
    refuse_to_replace_training(arguments, "masks")
    table = with_masks(arguments, load_table(arguments, labels=False))

    from cascade.training.folds import out_of_fold_masks

    masks = out_of_fold_masks(
        table,
        folds=arguments.folds,
        config=settings(SegmenterConfig, arguments, size=arguments.image_size),
        training=settings(SegmentationTrainConfig, arguments),
        weights=arguments.encoder_weights,
        output=arguments.output,
        device=arguments.device,
        validation_fraction=arguments.validation_fraction,
        seed=arguments.seed,
        resume=arguments.resume,
        overwrite=arguments.overwrite,
        resume_changed=arguments.resume_changed,
    )
    say(f"written: {len(table)} masks in {masks}")
    return OK
