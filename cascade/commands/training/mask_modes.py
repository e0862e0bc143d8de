"""Train and compare the classifier under each masking mode."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cascade.command_line.options import (
    MaskMode,
    add_crop_shape,
    load_splits,
    load_table,
    with_masks,
)
from cascade.command_line.outputs import say, say_table
from cascade.command_line.parser import OK, CommandParser, command, settings
from cascade.command_line.training import (
    add_training,
    refuse_several_processes,
    refuse_to_replace_training,
)
from cascade.config import ClassificationTrainConfig, ClassifierConfig
from cascade.errors import ConfigError
from cascade.lesion.policy import MASK_MODES, MaskPolicy

if TYPE_CHECKING:
    from cascade.data.splits import Splits
    from cascade.data.tables import Table

log = logging.getLogger(__name__)

TRUTH, PREDICTED = "truth", "predicted"


def build_parser() -> CommandParser:
    """The command's flags."""
    parser = CommandParser(
        "cascade mask-modes",
        "Train one classifier for each masking mode with the same settings and images, score all "
        "on the test table, and report each one's difference in ROC AUC to the whole image with a "
        "paired interval. A run that was stopped goes on with --resume, which also takes more "
        "modes or repeats.",
        example="cascade mask-modes --config configs/classification.yaml "
        "--predicted_masks models/oof/masks \\\n"
        "      --segmenter models/segmenter/best.safetensors --output models/mask_modes",
    )
    parser.add_argument(
        "--modes",
        type=MaskMode,
        nargs="+",
        default=list(MASK_MODES),
        help="what the classifiers see; the whole image, which all are compared with, is always "
        "among them",
    )
    parser.add_argument(
        "--masks",
        type=Literal["truth", "predicted"],
        nargs="+",
        default=[TRUTH, PREDICTED],
        help="masks that cut the test images: truth (masks_all) and predicted ones",
    )
    parser.add_argument(
        "--predicted_masks",
        type=str,
        default=None,
        help="folder of predicted masks of the training images, such as out-of-fold masks from "
        "cascade oof-masks; without it, classifiers trained on true masks judge predicted ones",
    )
    parser.add_argument(
        "--predicted_test_masks",
        type=str,
        default=None,
        help="folder of predicted masks of the test images; or name a --segmenter, whose masks are "
        "kept in test_masks in the output folder",
    )
    parser.add_argument(
        "--repeats",
        type=int,
        default=1,
        help="trainings of each mode, from --seed on; their probabilities are averaged",
    )
    parser.add_argument(
        "--test_table",
        type=str,
        default="test_data.csv",
        help="table of the images to compare on, in the data folder, or a path",
    )
    parser.add_shared("segmenter", "splits")
    add_training(parser, ClassificationTrainConfig, ClassifierConfig, output="mask_modes")
    add_crop_shape(parser)
    parser.add_argument(
        "--mask_mode",
        type=MaskMode,
        default=None,
        help="not used; it may stand in a --config file that is shared with cls-train",
    )
    return parser


def load_training(arguments: Any) -> tuple[dict[str, Table], Splits]:
    """The training table by the kind of its masks, and its division."""
    table = load_table(arguments)
    splits = load_splits(arguments, table)
    predicted = PREDICTED in arguments.masks and arguments.predicted_masks is not None
    tables = {}
    if TRUTH in arguments.masks or not predicted:
        table = tables[TRUTH] = with_masks(arguments, table)
    if predicted:
        tables[PREDICTED] = table.with_masks_from(arguments.predicted_masks)
    return tables, splits


def load_tests(arguments: Any) -> dict[str, Table]:
    """The test table by the kind of its masks; predicts those that are to be predicted."""
    named = arguments.clone()
    named.table = arguments.test_table
    table = load_table(named)
    tests = {}
    if TRUTH in arguments.masks:
        table = tests[TRUTH] = with_masks(named, table)
    if PREDICTED in arguments.masks:
        folder = arguments.predicted_test_masks
        if arguments.segmenter is not None:
            from cascade.training.mask_mode_trial import predict_test_masks

            folder = predict_test_masks(
                arguments.segmenter,
                table,
                Path(arguments.output) / "test_masks",
                device=arguments.device,
                overwrite=arguments.overwrite,
            )
        tests[PREDICTED] = table.with_masks_from(folder)
    return tests


def check_sources(arguments: Any) -> None:
    """Refuse predicted masks from nowhere or from two places.

    Raises:
        ConfigError: not exactly one source of predicted test masks was given.
    """
    given = [arguments.predicted_test_masks, arguments.segmenter].count(None)
    if PREDICTED in arguments.masks and given != 1:
        raise ConfigError(
            "--masks predicted needs the test images' masks: give either --predicted_test_masks "
            "FOLDER or --segmenter FILE; or compare with --masks truth alone"
        )


@command(build_parser)
def main(arguments: Any) -> int:
    """Run the command; returns its exit code."""
    refuse_several_processes()
    refuse_to_replace_training(
        arguments, "test_masks", "scores.csv", "mask_modes.csv", "mask_modes.md", "mask_modes.png"
    )
    training = settings(ClassificationTrainConfig, arguments)
    config = settings(ClassifierConfig, arguments, size=arguments.image_size)
    policy = MaskPolicy(
        margin=arguments.margin, dilation=arguments.dilation, feather=arguments.feather
    )
    check_sources(arguments)
    tables, splits = load_training(arguments)
    tests = load_tests(arguments)

    from cascade.evaluation.mask_mode_comparison import evaluate_mask_modes
    from cascade.evaluation.mask_mode_report import HEADERS, table_rows, write_mask_modes
    from cascade.training.mask_mode_trial import train_mask_modes

    classifiers = train_mask_modes(
        tables,
        splits,
        next(iter(tests.values())),
        modes=arguments.modes,
        config=config,
        training=training,
        policy=policy,
        weights=arguments.encoder_weights,
        output=arguments.output,
        device=arguments.device,
        repeats=arguments.repeats,
        resume=arguments.resume,
        overwrite=arguments.overwrite,
        resume_changed=arguments.resume_changed,
    )
    report = evaluate_mask_modes(
        classifiers,
        tests,
        device=arguments.device,
        batch_size=training.batch_size,
        num_workers=training.num_workers,
        seed=training.seed,
    )
    written = write_mask_modes(report, arguments.output)
    say_table(HEADERS, table_rows(report))
    say(f"written: {', '.join(str(path) for path in written)}")
    return OK
