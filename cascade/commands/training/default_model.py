"""Make the default cascade again, from the images to the model card, in steps that resume."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from cascade.command_line.main import module_of
from cascade.command_line.options import add_output, add_switch
from cascade.command_line.outputs import refuse_to_replace, say
from cascade.command_line.parser import OK, REPOSITORY, CommandParser, command
from cascade.command_line.training import refuse_several_processes
from cascade.commands.training.default_steps import HAM10000, ISIC, Step, steps
from cascade.errors import ConfigError, DataError, TrainingError

log = logging.getLogger(__name__)

VALIDATION_FRACTION = 0.1


def build_parser() -> CommandParser:
    """The command's flags."""
    parser = CommandParser(
        "cascade default-model",
        "Make the default cascade and the fast one: segmenters, masks, classifier on both data "
        "sets, calibration, evaluation, model card. Finished steps are kept and a stopped one goes "
        "on, so the same command is simply given again. The recipes are in configs/default.",
        example="cascade default-model --data DATA --output models/default_run "
        "--model models/default.safetensors",
    )
    parser.add_argument(
        "--data",
        type=str,
        required=True,
        help="folder with isic/ (masks and classes) and ham10000/ (classes), each with images_all "
        "and its tables",
    )
    parser.add_shared("device", encoder_weights="imagenet")
    parser.add_argument(
        "--classifier_weights",
        type=str,
        default="imagenet",
        help="the same for what is an EfficientNet-Lite0: the classifier, and the segmenter of the "
        "default cascade; the other segmenters are MobileNetV2",
    )
    add_switch(
        parser,
        "--without_pseudo_masks",
        "train segmenters on the true masks of isic alone: they are then under CC-0 as its images "
        "are, else under HAM10000's CC BY-NC 4.0",
    )
    add_output(
        parser,
        "folder for all steps, beside --model and --card",
        default="models/default_run",
    )
    parser.add_argument(
        "--model", type=str, default="models/default.safetensors", help="file to write"
    )
    parser.add_argument(
        "--fast",
        type=str,
        default="models/fast_onnx",
        help="folder to write of the fast cascade, which is exported",
    )
    parser.add_argument("--card", type=str, default="models/README.md", help="model card to write")
    parser.add_argument(
        "--recipes",
        type=str,
        default=str(REPOSITORY / "configs" / "default"),
        help="folder of the steps' settings",
    )
    add_switch(parser, "--list", "show the commands and run none")
    return parser


def divide(data: Path, output: Path) -> None:
    """Write the division of each data set and of both, so that all stages share it."""
    from cascade.data.joined import join_splits, join_tables
    from cascade.data.splits import load_or_make_splits, write_splits
    from cascade.data.tables import read_table

    tables, parts = [], []
    for name in (ISIC, HAM10000):
        path = data / name / "train_data.csv"
        if not path.is_file():
            raise DataError(f"--data {data}: there is no {name}/train_data.csv")
        tables.append(read_table(path))
        parts.append(
            load_or_make_splits(
                tables[-1], output / f"splits_{name}.json", fraction=VALIDATION_FRACTION
            )
        )
    if not (output / "splits.json").exists():
        write_splits(output / "splits.json", join_splits(parts, join_tables(tables)))


def _run(step: Step, output: Path) -> None:
    mark = output / f"{step.name}.finished"
    if mark.is_file():
        log.info("%s: finished before", step.name)
        return
    log.info("%s", step.name)
    flags = list(step.flags)
    if step.run is not None and (step.run / "config.yaml").is_file():
        flags.append("--resume")
    module = module_of(step.command)
    code: int = module.main(flags)
    if code != OK:
        raise TrainingError(
            f"{step.name} ended with code {code}; mend what it says above, then give the same "
            "command again: finished steps are kept"
        )
    mark.touch()


def _refuse_to_replace(arguments: Any) -> None:
    """Refuse a model or a card that no step in the output folder has written."""
    for name, flag in (("calibration", "model"), ("card", "card"), ("fast_export", "fast")):
        if not (Path(arguments.output) / f"{name}.finished").is_file():
            refuse_to_replace(arguments, arguments[flag], flag=f"--{flag}")


@command(build_parser)
def main(arguments: Any) -> int:
    """Run the command; returns its exit code."""
    refuse_several_processes()
    output = Path(arguments.output)
    if not Path(arguments.recipes).is_dir():
        raise ConfigError(f"--recipes {arguments.recipes}: there is no such folder")
    chain = steps(arguments)
    if arguments.list:
        for step in chain:
            say(f"cascade {step.command} {' '.join(step.flags)}")
        return OK
    _refuse_to_replace(arguments)
    divide(Path(arguments.data), output)
    for step in chain:
        _run(step, output)
    say(f"written: {arguments.model}, {arguments.card} and {arguments.fast}")
    return OK
