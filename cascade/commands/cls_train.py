"""Train the classifier on masked crops."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from cascade.commands.arguments import OK, CommandParser, run, settings
from cascade.commands.options import (
    add_data,
    add_device,
    add_mask_policy,
    add_start,
    add_training,
    load_splits,
    load_table,
    mask_policy,
    with_masks,
)
from cascade.config import ClassificationTrainConfig, ClassifierConfig, shrinkage_warning

log = logging.getLogger(__name__)


def build_parser() -> CommandParser:
    """The command's flags."""
    parser = CommandParser(
        "cascade cls-train",
        "Train the second stage, the classifier that judges masked crops.",
        example="python classification_train_pipeline.py --epochs 20 --architecture inception "
        "--class_weight 3\n"
        "  python classification_train_pipeline.py --config configs/classification.yaml "
        "--masks models/oof_masks",
    )
    add_device(parser)
    parser.add_settings(ClassificationTrainConfig)
    parser.add_settings(ClassifierConfig, rename={"size": "image_size"})
    add_mask_policy(parser)
    parser.add_argument(
        "--masks",
        type=str,
        default="truth",
        help="masks that cut the training crops: truth (masks_all), or a folder of predicted masks "
        "such as out-of-fold masks from cascade oof-masks",
    )
    add_training(parser, output="classifier")
    add_start(parser)
    add_data(parser, table="train_data.csv")
    return parser


def _main(argv: Sequence[str] | None) -> int:
    arguments = build_parser().parse_args(argv)
    training = settings(ClassificationTrainConfig, arguments)
    config = settings(ClassifierConfig, arguments, size=arguments.image_size)
    policy = mask_policy(arguments)
    truth = policy.uses_mask and arguments.masks == "truth"
    table = load_table(arguments)
    splits = load_splits(arguments, table)
    if truth:
        table = with_masks(arguments, table)
    elif policy.uses_mask:
        table = table.with_masks_from(arguments.masks)

    steps = training.epochs * max(1, len(splits.train) // training.batch_size)
    warning = shrinkage_warning(training, steps=steps, recipe="configs/classification.yaml")
    if warning:
        log.warning("warning: %s", warning)

    from cascade.commands.outputs import finish_training
    from cascade.training.classification import train_classifier

    classifier = train_classifier(
        table,
        splits,
        config=config,
        training=training,
        policy=policy,
        weights=arguments.encoder_weights,
        initial_model=arguments.initial_model,
        output=arguments.output,
        device=arguments.device,
        resume=arguments.resume,
        overwrite=arguments.overwrite,
    )
    finish_training(arguments.output, classifier.metrics)
    return OK


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return run(_main, argv)
