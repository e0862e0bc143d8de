"""Average the weights of classifiers that were trained on from one start."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cascade.commands.arguments import OK, CommandParser, default_folder, run
from cascade.commands.options import add_switch
from cascade.commands.outputs import refuse_to_replace, say


def build_parser() -> CommandParser:
    """The command's flags."""
    parser = CommandParser(
        "cascade average",
        "Average the weights of classifiers that were trained on from the same weights with other "
        "settings or seeds (a model soup). The average is one network, as fast as each of them. "
        "Score it on validation images: it is not always better.",
        example="cascade cls-train --initial_model models/start/best.safetensors "
        "--augmentation strong --output models/a\n"
        "  cascade cls-train --initial_model models/start/best.safetensors "
        "--seed 1 --output models/b\n"
        "  cascade average models/a/best.safetensors models/b/best.safetensors",
    )
    parser.add_argument(
        "classifiers", nargs="+", type=str, help="files of trained classifiers, at least two"
    )
    parser.add_argument(
        "--image_size",
        type=int,
        default=None,
        help="side of the input in pixels, one of theirs; by default that of the first",
    )
    parser.add_argument(
        "--output",
        type=str,
        default=str(default_folder("models") / "average.safetensors"),
        help="file to write",
    )
    add_switch(parser, "--overwrite", "replace the output file")
    return parser


def _main(argv: Sequence[str] | None) -> int:
    arguments = build_parser().parse_args(argv)
    output = Path(arguments.output)
    refuse_to_replace(output, overwrite=arguments.overwrite)

    from cascade.training.averaging import average_classifiers

    average = average_classifiers(arguments.classifiers, size=arguments.image_size)
    average.save(output)
    say(f"written: {output}, the average of {len(arguments.classifiers)} at {average.size} pixels")
    return OK


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return run(_main, argv)
