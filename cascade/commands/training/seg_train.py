"""Train the segmenter."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from cascade.command_line.options import (
    add_data,
    add_device,
    add_start,
    add_training,
    load_splits,
    load_table,
    with_masks,
)
from cascade.command_line.parser import OK, CommandParser, run, settings
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
    add_device(parser)
    parser.add_settings(SegmentationTrainConfig)
    parser.add_settings(SegmenterConfig, rename={"size": "image_size"})
    add_training(parser, output="segmenter")
    add_start(parser)
    add_data(parser, table="train_data.csv")
    return parser


def _main(argv: Sequence[str] | None) -> int:
    arguments = build_parser().parse_args(argv)
    training = settings(SegmentationTrainConfig, arguments)
    config = settings(SegmenterConfig, arguments, size=arguments.image_size)
    table = load_table(arguments, labels=False)
    splits = load_splits(arguments, table)
    table = with_masks(arguments, table)
    steps = training.epochs * max(1, len(splits.train) // training.batch_size)
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
    )
    finish_training(arguments.output, segmenter.metrics)
    return OK


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return run(_main, argv)
