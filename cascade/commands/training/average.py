"""Average the weights of classifiers that were trained on from one start."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from cascade.command_line.options import (
    add_data,
    add_output,
    load_table,
    stored_splits,
    with_crop_masks,
)
from cascade.command_line.outputs import refuse_to_replace, say
from cascade.command_line.parser import OK, CommandParser, command, default_folder
from cascade.config import ClassificationTrainConfig
from cascade.errors import ConfigError

if TYPE_CHECKING:
    from cascade.models.classifier import Classifier


def build_parser() -> CommandParser:
    """The command's flags."""
    parser = CommandParser(
        "cascade average",
        "Average the weights of classifiers that were trained on from the same weights with other "
        "settings or seeds (a model soup). The average is one network, as fast as each of them. "
        "Score it on validation images: it is not always better. The further apart they are, the "
        "more it gains from --batch_statistics; with it go the --augmentation and "
        "--whole_image_share of the trainings.",
        example="cascade cls-train --initial_model models/start/best.safetensors "
        "--augmentation strong --output models/a\n"
        "  cascade cls-train --initial_model models/start/best.safetensors "
        "--seed 1 --output models/b\n"
        "  cascade average models/a/best.safetensors models/b/best.safetensors\n"
        "  cascade average models/a/best.safetensors models/b/best.safetensors "
        "--batch_statistics 2048 --augmentation strong",
    )
    parser.add_argument(
        "classifiers", nargs="+", type=str, help="files of trained classifiers, at least two"
    )
    parser.add_argument(
        "--image_size",
        type=int,
        default=None,
        help="side of the input in pixels; by default that of the first. Somewhat more than they "
        "were trained at can be better",
    )
    add_output(
        parser, "file of the average", default=str(default_folder("models") / "average.safetensors")
    )
    parser.add_argument(
        "--batch_statistics",
        type=int | None,
        default=None,
        help="estimate the mean and variance of batch normalisation anew on crops of this many "
        "training images, such as 2048; by default they are averaged like the weights",
    )
    parser.add_shared("device", "masks", "splits")
    parser.add_settings(
        ClassificationTrainConfig,
        only=("augmentation", "whole_image_share", "seed", "num_workers"),
    )
    parser.set_defaults(augmentation="none")
    add_data(parser, table="train_data.csv")
    return parser


@command(build_parser)
def main(arguments: Any) -> int:
    """Run the command; returns its exit code."""
    output = Path(arguments.output)
    refuse_to_replace(arguments, output)
    _refuse_needless(arguments)

    from cascade.training.averaging import average_classifiers

    average = average_classifiers(arguments.classifiers, size=arguments.image_size)
    if arguments.batch_statistics is not None:
        _estimate(average, arguments)
    average.save(output)
    say(f"written: {output}, the average of {len(arguments.classifiers)} at {average.size} pixels")
    return OK


def _refuse_needless(arguments: Any) -> None:
    """Augmentation without new statistics would be ignored in silence."""
    for name, idle in (("augmentation", "none"), ("whole_image_share", 0.0)):
        if arguments.batch_statistics is None and arguments[name] != idle:
            raise ConfigError(
                f"--{name} {arguments[name]} tells how the crops of --batch_statistics look; give "
                f"that too, or leave out --{name}"
            )


def _estimate(average: Classifier, arguments: Any) -> None:
    from cascade.models.network import resolve_device
    from cascade.training.averaging import estimate_batch_statistics

    average.to(resolve_device(arguments.device))
    table = load_table(arguments)
    estimate_batch_statistics(
        average,
        with_crop_masks(arguments, table, average.policy),
        stored_splits(arguments, table),
        images=arguments.batch_statistics,
        augmentation=arguments.augmentation,
        whole_image_share=arguments.whole_image_share,
        seed=arguments.seed,
        num_workers=arguments.num_workers,
    )
