"""Write a model card from a model's file and the folders of its evaluations."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cascade.commands.arguments import OK, CommandParser, run
from cascade.commands.outputs import say
from cascade.mask_policy import MaskPolicy

_STAGES = {"segmenter": "seg-train", "classifier": "cls-train"}


def build_parser() -> CommandParser:
    """The command's flags."""
    parser = CommandParser(
        "cascade card",
        "Write a model card in Markdown: what the model is, what it learnt from, every measured "
        "number with its interval, and its limits. Numbers come from files only.",
        example="cascade evaluate --path models/cascade.safetensors --output results/a\n"
        "  cascade card --model models/cascade.safetensors --evaluations results/a "
        "--output models/card.md --images models/card",
    )
    parser.add_argument("--model", type=str, required=True, help="file of a cascade")
    parser.add_argument(
        "--evaluations",
        type=str,
        nargs="+",
        default=[],
        help="folders that cascade evaluate has written with this model",
    )
    parser.add_argument("--output", type=str, required=True, help="Markdown file to write")
    parser.add_argument(
        "--images",
        type=str,
        default=None,
        help="folder for copies of the plots, which the card then shows",
    )
    parser.add_argument(
        "--segmenter_data",
        type=str,
        nargs="+",
        default=["isic_task1"],
        help="what the segmenter learnt from: isic_task1, ham10000, synthetic",
    )
    parser.add_argument(
        "--classifier_data",
        type=str,
        nargs="+",
        default=["isic_task1", "ham10000"],
        help="what the classifier learnt from; decides which licence the card names",
    )
    return parser


def _main(argv: Sequence[str] | None) -> int:
    arguments = build_parser().parse_args(argv)

    from cascade.evaluation.model_card import write_model_card
    from cascade.models.artifact import read_document

    model = Path(arguments.model)
    write_model_card(
        Path(arguments.output),
        model=model,
        evaluations=[Path(folder) for folder in arguments.evaluations],
        images=Path(arguments.images) if arguments.images else None,
        segmenter_data=arguments.segmenter_data,
        classifier_data=arguments.classifier_data,
        commands=training_commands(read_document(model)["provenance"]),
    )
    say(f"written: {arguments.output}")
    return OK


def training_commands(provenance: Mapping[str, Any]) -> list[str]:
    """Command lines with the recorded settings, stage by stage, the first training first."""
    from cascade.evaluation.model_card import trainings_of

    lines = []
    for stage, command in _STAGES.items():
        made = provenance.get(stage, {})
        trainings = [training for training in trainings_of(made) if training.get("settings")]
        outputs: list[str] = []
        for training in trainings:
            lines.append(_line(command, stage, training, outputs[-1:], len(outputs) + 1))
            outputs.append(_folder(stage, len(outputs) + 1))
        averaged = made.get("averaged_with", [])
        start = outputs[-2:-1]  # all were trained on from there
        for number, other in enumerate(averaged, start=len(outputs) + 1):
            lines.append(_line(command, stage, other, start, number))
        if averaged:
            ends = range(len(outputs), len(outputs) + len(averaged) + 1)
            files = [f"{_folder(stage, number)}/best.safetensors" for number in ends]
            lines.append(f"cascade average {shlex.join(files)} --output models/{stage}.safetensors")
    return lines


def _folder(stage: str, number: int) -> str:
    return f"models/{stage}" + (f"_{number}" if number > 1 else "")


def _line(
    command: str, stage: str, training: Mapping[str, Any], start: Sequence[str], number: int
) -> str:
    """One training's command; ``start`` holds the folder that it goes on from, if any."""
    earlier = [
        flag for folder in start for flag in ("--initial_model", f"{folder}/best.safetensors")
    ]
    flags = [*_flags(command, training), *earlier, "--output", _folder(stage, number)]
    return f"cascade {command} --data_path DATA {shlex.join(flags)}"


def _flags(command: str, training: Mapping[str, Any]) -> list[str]:
    """The flags of a training command whose recorded values are not the defaults."""
    from importlib import import_module

    module = import_module(f"cascade.commands.{command.replace('-', '_')}")
    known = module.build_parser()._option_string_actions
    values = dict(training["settings"])
    if isinstance(policy := values.pop("mask_policy", None), Mapping):
        values |= {**policy, "mask_mode": MaskPolicy.from_dict(policy).mode}
    if "size" in values:
        values["image_size"] = values.pop("size")
    if "encoder_weights" in values:
        values["encoder_weights"] = Path(values["encoder_weights"]).name
    if (fraction := training.get("splits", {}).get("fraction")) is not None:
        values["validation_fraction"] = fraction
    flags: list[str] = []
    for name, value in values.items():
        action = known.get(f"--{name}")
        if action is None or value is None or value == action.default:
            continue
        flags.append(f"--{name}")
        if value is not True:
            flags += [str(item) for item in (value if isinstance(value, list) else [value])]
    return flags


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return run(_main, argv)
