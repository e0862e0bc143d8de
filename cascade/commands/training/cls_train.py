"""Train the classifier on masked crops."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from cascade.command_line.first_rows import first_rows
from cascade.command_line.options import (
    add_mask_policy,
    load_splits,
    load_table,
    mask_policy,
    refuse_leak_into_test,
    with_crop_masks,
)
from cascade.command_line.parser import OK, CommandParser, settings
from cascade.command_line.training import (
    add_start,
    add_training,
    refuse_to_replace_training,
    training_command,
)
from cascade.config import ClassificationTrainConfig, ClassifierConfig, shrinkage_warning
from cascade.errors import ConfigError

if TYPE_CHECKING:
    from cascade.data.splits import Splits
    from cascade.data.tables import Table

log = logging.getLogger(__name__)

_OF_FOLDS = ("ensemble.safetensors", "out_of_fold.csv", "cross_validation.json")


def build_parser() -> CommandParser:
    """The command's flags."""
    parser = CommandParser(
        "cascade cls-train",
        "Train the second stage, the classifier that judges masked crops.",
        example="python classification_train_pipeline.py --epochs 20 --architecture inception "
        "--class_weight 3\n"
        "  python classification_train_pipeline.py --config configs/classification.yaml "
        "--masks models/oof_masks\n"
        "  python classification_train_pipeline.py --config configs/classification.yaml --folds 5",
    )
    add_training(parser, ClassificationTrainConfig, ClassifierConfig, output="classifier")
    add_mask_policy(parser)
    parser.add_shared("masks", "tta")
    parser.add_argument(
        "--folds",
        type=int | None,
        default=None,
        help="cross-validate instead: train this many classifiers by group, score each image by "
        "the one that did not see it, and join them to ensemble.safetensors",
    )
    parser.add_argument(
        "--fold_seed",
        type=int,
        default=0,
        help="seed of the folds; runs with the same folds can be joined by cascade ensemble",
    )
    add_start(parser)
    return parser


@training_command(build_parser)
def main(arguments: Any) -> int:
    """Run the command; returns its exit code."""
    refuse_to_replace_training(arguments, *(_OF_FOLDS if arguments.folds is not None else ()))
    if arguments.classes is not None and not arguments.diagnosis_weight:
        arguments.diagnosis_weight = 1.0
        log.info("also asking for the classes of %s: --diagnosis_weight 1", arguments.classes)
    training = settings(ClassificationTrainConfig, arguments)
    options = _options(arguments, training)
    if arguments.folds is not None and arguments.splits:
        raise ConfigError("--folds divides the table itself; leave out --splits, or --folds")
    if arguments.folds is None and arguments.tta != "none":
        raise ConfigError(
            f"--tta {arguments.tta} averages views of the images that --folds hold out; give "
            "--folds, or --tta none"
        )
    table = load_table(arguments)
    if arguments.folds is None:
        splits = load_splits(arguments, table)
        table = first_rows(arguments, table, splits)
        _warn_of_shrinkage(training, len(splits.parts(table)[0]))
        _train(with_crop_masks(arguments, table, mask_policy(arguments)), splits, options)
    else:
        refuse_leak_into_test(arguments, table)
        table = first_rows(arguments, table)
        table = with_crop_masks(arguments, table, mask_policy(arguments))
        _warn_of_shrinkage(training, round(len(table) * (1 - 1 / max(2, arguments.folds))))
        _cross_validate(arguments, table, options)
    return OK


def _warn_of_shrinkage(training: ClassificationTrainConfig, images: int) -> None:
    steps = training.epochs * max(1, images // training.batch_size)
    warning = shrinkage_warning(training, steps=steps, recipe="configs/classification.yaml")
    if warning:
        log.warning("warning: %s", warning)


def _options(arguments: Any, training: ClassificationTrainConfig) -> dict[str, Any]:
    """What one training and a cross-validation are both told."""
    return {
        "config": settings(ClassifierConfig, arguments, size=arguments.image_size),
        "training": training,
        "policy": mask_policy(arguments),
        "weights": arguments.encoder_weights,
        "initial_model": arguments.initial_model,
        "output": arguments.output,
        "device": arguments.device,
        "resume": arguments.resume,
        "overwrite": arguments.overwrite,
        "resume_changed": arguments.resume_changed,
    }


def _train(table: Table, splits: Splits, options: dict[str, Any]) -> None:
    from cascade.command_line.outputs import finish_training
    from cascade.training.classification import train_classifier

    classifier = train_classifier(table, splits, **options)
    finish_training(options["output"], classifier.metrics)


def _cross_validate(arguments: Any, table: Table, options: dict[str, Any]) -> None:
    from cascade.command_line.outputs import finish_cross_validation
    from cascade.training.cross_validation import cross_validate_classifier

    result = cross_validate_classifier(
        table,
        folds=arguments.folds,
        validation_fraction=arguments.validation_fraction,
        tta=arguments.tta,
        seed=arguments.fold_seed,
        **options,
    )
    finish_cross_validation(result)
