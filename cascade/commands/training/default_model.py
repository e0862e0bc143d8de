"""Make the default cascade again, from the images to the model card, in steps that resume."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cascade.command_line.main import module_of
from cascade.command_line.options import add_output, add_switch
from cascade.command_line.outputs import refuse_to_replace, say
from cascade.command_line.parser import OK, REPOSITORY, CommandParser, command
from cascade.command_line.training import refuse_several_processes
from cascade.errors import ConfigError, DataError, TrainingError

log = logging.getLogger(__name__)

ISIC, HAM10000 = "isic", "ham10000"
VALIDATION_FRACTION = 0.1
CLASSIFIER_SIZE = 256
"""Side of the crops in use, in pixels; the last training's are a little smaller."""


@dataclass(frozen=True)
class Step:
    """One command of the chain.

    Attributes:
        name: what the user is told, and the name of the mark that it is finished.
        command: word of the console command.
        flags: its flags.
        run: folder of a training, which goes on where it was stopped.
    """

    name: str
    command: str
    flags: tuple[str, ...]
    run: Path | None = None


def build_parser() -> CommandParser:
    """The command's flags."""
    parser = CommandParser(
        "cascade default-model",
        "Make the default cascade: segmenter, out-of-fold masks, classifier on both data sets, "
        "calibration, evaluation, model card. Finished steps are kept and a stopped one goes on, "
        "so the same command is simply given again. The recipes are in configs/default.",
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
        help="the same for the classifier, an EfficientNet-Lite0; the segmenters are MobileNetV2",
    )
    add_output(
        parser,
        "folder for all steps, beside --model and --card",
        default="models/default_run",
    )
    parser.add_argument(
        "--model", type=str, default="models/default.safetensors", help="file to write"
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


def steps(arguments: Any) -> list[Step]:
    """The chain, in order."""
    data, output = Path(arguments.data), Path(arguments.output)
    isic, ham = str(data / ISIC), str(data / HAM10000)
    masks = str(output / "out_of_fold" / "masks")
    splits = str(output / "splits.json")
    device = ("--device", arguments.device)
    weights = ("--encoder_weights", arguments.encoder_weights)
    both = ("--data_path", isic, "--more_data", ham)
    cut = (*both, "--splits", splits, "--masks", masks)

    def recipe(name: str) -> tuple[str, ...]:
        return ("--config", str(Path(arguments.recipes) / f"{name}.yaml"), *device)

    def best(name: str) -> str:
        return str(output / name / "best.safetensors")

    def training(name: str, command: str, *flags: str) -> Step:
        folder = output / name
        return Step(name, command, (*recipe(name), *flags, "--output", str(folder)), folder)

    def onward(name: str, start: str) -> Step:
        return training(name, "cls-train", *cut, "--initial_model", start)

    def average(name: str, *paths: str) -> Step:
        return Step(name, "average", (*paths, "--output", mean(name), "--overwrite"))

    def mean(name: str) -> str:
        return str(output / f"{name}.safetensors")

    shared = ("--data_path", isic, "--splits", str(output / f"splits_{ISIC}.json"))
    evaluations = {
        f"evaluation_{ISIC}": ("--data_path", isic),
        f"evaluation_{HAM10000}": ("--data_path", ham),
        "evaluation_both": both,
    }
    return [
        training("segmenter", "seg-train", *shared, *weights),
        training(
            "segmenter_large", "seg-train", *shared, "--initial_model", best("segmenter")
        ),
        training("out_of_fold", "oof-masks", "--data_path", isic, *weights),
        Step(
            "masks", "segment",
            ("--model", best("segmenter_large"), "--data_path", ham, *device,
             "--output", masks, "--resume"),
        ),
        training(
            "classifier", "cls-train", *cut, "--encoder_weights", arguments.classifier_weights
        ),
        onward("classifier_160", best("classifier")),
        onward("classifier_192", best("classifier")),
        average("average", best("classifier_160"), best("classifier_192")),
        onward("classifier_192_strong", mean("average")),
        onward("classifier_224", best("classifier_192_strong")),
        average("average_224", best("classifier_224"), best("classifier_192_strong")),
        onward("classifier_224_second", mean("average_224")),
        average("average_second", mean("average_224"), best("classifier_224_second")),
        onward("classifier_224_long", mean("average_second")),
        Step(
            "calibration", "calibrate",
            ("--segmenter", best("segmenter_large"),
             "--classifier", best("classifier_224_long"),
             "--image_size", str(CLASSIFIER_SIZE),
             *cut, *device, "--output", arguments.model, "--half", "--overwrite"),
        ),
        Step(
            "diagnoses", "fit-diagnoses",
            ("--model", arguments.model, *both, "--splits", splits, *device,
             "--output", arguments.model, "--overwrite"),
        ),
        *(
            Step(
                name, "evaluate",
                ("--model", arguments.model, *where, *device, "--subgroups",
                 "--output", str(output / name), "--overwrite"),
            )
            for name, where in evaluations.items()
        ),
        Step(
            "card", "card",
            ("--model", arguments.model, "--output", arguments.card, "--evaluations",
             *(str(output / name) for name in evaluations),
             "--images", str(Path(arguments.card).parent / "card"), "--overwrite"),
        ),
    ]  # fmt: skip


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
    for name, flag in (("calibration", "model"), ("card", "card")):
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
    say(f"written: {arguments.model} and {arguments.card}")
    return OK
