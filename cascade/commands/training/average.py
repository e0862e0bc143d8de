"""Average the weights of classifiers that were trained on from one start."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cascade.command_line.options import (
    add_data,
    add_device,
    add_masks,
    add_splits,
    add_switch,
    load_table,
    stored_splits,
    with_crop_masks,
)
from cascade.command_line.outputs import refuse_to_replace, say
from cascade.command_line.parser import OK, CommandParser, default_folder, run
from cascade.config import Augmentation
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
        "more it gains from --batch_statistics.",
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
    parser.add_argument(
        "--output",
        type=str,
        default=str(default_folder("models") / "average.safetensors"),
        help="file to write",
    )
    parser.add_argument(
        "--batch_statistics",
        type=int | None,
        default=None,
        help="estimate the mean and variance of batch normalisation anew on crops of this many "
        "training images, such as 2048; by default they are averaged like the weights",
    )
    parser.add_argument(
        "--augmentation",
        type=Augmentation,
        default="none",
        help="with --batch_statistics, how these crops are augmented; as in the trainings",
    )
    parser.add_argument(
        "--whole_image_share",
        type=float,
        default=0.0,
        help="with --batch_statistics, share of whole images among them; as in the trainings",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of what is drawn")
    parser.add_argument("--num_workers", type=int, default=0, help="processes that cut crops")
    add_device(parser)
    add_masks(parser)
    add_splits(parser)
    add_data(parser, table="train_data.csv")
    add_switch(parser, "--overwrite", "replace the output file")
    return parser


def _main(argv: Sequence[str] | None) -> int:
    arguments = build_parser().parse_args(argv)
    output = Path(arguments.output)
    refuse_to_replace(output, overwrite=arguments.overwrite)
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
    from cascade.models.device import resolve_device
    from cascade.training.batch_statistics import estimate_batch_statistics

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


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return run(_main, argv)
