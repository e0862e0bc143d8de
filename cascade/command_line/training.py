"""What the commands that train share: flags, earlier runs, and several processes."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from cascade.command_line.options import add_data, add_output, add_switch
from cascade.command_line.outputs import refuse_to_replace
from cascade.command_line.parser import CommandParser, command, default_folder
from cascade.errors import ConfigError

TRAINING_FILES = (
    "config.yaml", "best.safetensors", "last.safetensors", "previous.safetensors", "history.csv",
    "curves.png",
)  # fmt: skip
"""What a training writes to its output folder."""


def add_start(parser: CommandParser) -> None:
    """Add the start of a single training: its division and an earlier training to go on from."""
    parser.add_shared("splits", "limit")
    parser.add_argument(
        "--initial_model",
        type=str,
        default=None,
        help="trained model of the same architecture to go on from, for instance with larger "
        "images; its weights replace those of --encoder_weights",
    )


def add_training(parser: CommandParser, config: type, network: type, *, output: str) -> None:
    """Add what all training commands have.

    Args:
        parser: where to add it.
        config: settings of the training.
        network: settings of what is trained.
        output: name of the default folder in ``models``.
    """
    parser.add_shared("device", "encoder_weights")
    parser.add_settings(config)
    parser.add_settings(network, rename={"size": "image_size"})
    add_output(
        parser,
        "folder for models, history.csv and config.yaml",
        default=str(default_folder("models") / output),
    )
    parser.add_argument(
        "--resume",
        type=bool | Literal["auto"],
        nargs="?",
        const=True,
        default=False,
        help="go on with the training that was stopped; auto starts where there is none, so that "
        "one command can be queued again and again",
    )
    add_switch(
        parser,
        "--resume_changed",
        "with --resume, go on although settings, data or the number of processes are others; the "
        "model's file will tell",
    )
    parser.add_argument(
        "--validation_fraction",
        type=float,
        default=0.15,
        help="share of the training table that validates, in [0, 1]",
    )
    add_data(parser, table="train_data.csv")


def refuse_to_replace_training(arguments: Any, *more: str) -> None:
    """Refuse a training where another one is; ``more`` names what this command writes besides.

    ``--resume auto`` becomes what it means here.
    """
    if arguments.resume_changed and not arguments.resume:
        raise ConfigError("--resume_changed says how --resume goes on; give both")
    if arguments.tracker != "none":
        from cascade.training.trackers import require_tracker

        require_tracker(arguments.tracker)
    if arguments.resume == "auto" and not arguments.overwrite:
        arguments.resume = (Path(arguments.output) / "config.yaml").is_file()
    refuse_to_replace(
        arguments, *(Path(arguments.output) / name for name in (*TRAINING_FILES, *more))
    )
    if several_processes():
        from cascade.training import processes

        processes.wait()  # before the first one writes what would be in the way of the others


def several_processes() -> bool:
    """Whether this process is one of several that torchrun or a queue has started."""
    return os.environ.get("WORLD_SIZE", "1") != "1"


def refuse_several_processes() -> None:
    """Refuse where the command's trainings are not made to be shared.

    Raises:
        ConfigError: this process is one of several.
    """
    if several_processes():
        raise ConfigError("this command trains in one process; start it without torchrun")


def training_command(
    build_parser: Callable[[], CommandParser],
) -> Callable[[Callable[[Any], int]], Callable[..., int]]:
    """Make a command's ``main(argv)`` whose body may run in several processes at once."""

    def decorate(body: Callable[[Any], int]) -> Callable[..., int]:
        def join(arguments: Any) -> int:
            if not several_processes():
                return body(arguments)
            from cascade.training import processes

            with processes.joined(arguments.device):
                return body(arguments)

        join.__doc__ = body.__doc__
        return command(build_parser)(join)

    return decorate
