"""Train the segmenter."""

from __future__ import annotations

import logging
from typing import Any

from cascade.command_line.first_rows import first_rows
from cascade.command_line.options import load_splits, load_table, with_masks, with_pseudo_masks
from cascade.command_line.parser import OK, CommandParser, settings
from cascade.command_line.training import (
    add_start,
    add_training,
    refuse_to_replace_training,
    training_command,
)
from cascade.config import SegmentationTrainConfig, SegmenterConfig, shrinkage_warning

log = logging.getLogger(__name__)


def build_parser() -> CommandParser:
    """The command's flags."""
    parser = CommandParser(
        "cascade seg-train",
        "Train the first stage, the segmenter that finds the lesion.",
        example="python seg_train_pipeline.py --epochs 20 --encoder mobilenet --optimizer adam "
        "--learning_rate 0.001 --momentum 0.9 --weight_decay 0.5\n"
        "  python seg_train_pipeline.py --config configs/segmentation.yaml --data_path dataset",
    )
    add_training(parser, SegmentationTrainConfig, SegmenterConfig, output="segmenter")
    add_start(parser)
    parser.add_argument(
        "--pseudo_masks",
        type=str,
        default=None,
        help="folder of predicted masks (cascade segment --agreement) for training images that "
        "have none of their own; images that are without any are left out",
    )
    return parser


@training_command(build_parser)
def main(arguments: Any) -> int:
    """Run the command; returns its exit code."""
    refuse_to_replace_training(arguments)
    training = settings(SegmentationTrainConfig, arguments)
    config = settings(SegmenterConfig, arguments, size=arguments.image_size)
    table = load_table(arguments, labels=False)
    splits = load_splits(arguments, table)
    table = first_rows(arguments, table, splits)
    if arguments.pseudo_masks:
        table = with_pseudo_masks(arguments.pseudo_masks, table, splits)
    table = with_masks(arguments, table)
    steps = training.epochs * max(1, len(splits.parts(table)[0]) // training.batch_size)
    warning = shrinkage_warning(training, steps=steps)
    if warning:
        log.warning("warning: %s", warning)

    from cascade.command_line.outputs import finish_training
    from cascade.training.segmentation import train_segmenter

    segmenter = train_segmenter(
        table,
        splits,
        config=config,
        training=training,
        weights=arguments.encoder_weights,
        initial_model=arguments.initial_model,
        output=arguments.output,
        device=arguments.device,
        resume=arguments.resume,
        overwrite=arguments.overwrite,
        resume_changed=arguments.resume_changed,
    )
    finish_training(arguments.output, segmenter.metrics)
    return OK
