"""Write a model card from a model's file and the folders of its evaluations."""

from __future__ import annotations

import json
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from cascade.command_line.main import module_of
from cascade.command_line.options import add_model, add_output
from cascade.command_line.outputs import found_files, refuse_to_replace, say
from cascade.command_line.parser import OK, CommandParser, command
from cascade.errors import ConfigError
from cascade.lesion.policy import MaskPolicy

_STAGES = {"segmenter": "seg-train", "classifier": "cls-train"}


def build_parser() -> CommandParser:
    """The command's flags."""
    parser = CommandParser(
        "cascade card",
        "Write a model card in Markdown: what the model is, for whom, its main numbers with their "
        "intervals, and its limits, with every other number in a second file; or its model facts, "
        "one page to print. Numbers come from files only.",
        example="cascade evaluate --model models/cascade.safetensors --output results/a\n"
        "  cascade card --model models/cascade.safetensors --evaluations results/a "
        "--output models/card.md --images models/card",
    )
    add_model(parser, "a cascade", required=True)
    parser.add_argument(
        "--evaluations",
        type=str,
        nargs="+",
        default=[],
        help="folders that cascade evaluate has written with this model",
    )
    add_output(parser, "Markdown or HTML file", required=True)
    parser.add_argument(
        "--format",
        type=Literal["markdown", "facts"],
        default="markdown",
        help="the whole card as Markdown, or model facts: one A4 page of HTML for a reviewer",
    )
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
        default=[],
        help="what the segmenter learnt from: isic_task1, ham10000, synthetic, whose licences are "
        "known, or own words",
    )
    parser.add_argument(
        "--classifier_data",
        type=str,
        nargs="+",
        default=[],
        help="the same of the classifier; both decide which licence the card names",
    )
    return parser


@command(build_parser)
def main(arguments: Any) -> int:
    """Run the command; returns its exit code."""
    from cascade.evaluation.model_card import PLOTS, details_path, write_model_card
    from cascade.evaluation.model_facts import write_model_facts
    from cascade.models.artifact import read_document

    output = Path(arguments.output)
    if arguments.format == "markdown":
        refuse_to_replace(arguments, output, details_path(output))
    else:
        refuse_to_replace(arguments, output)
    if arguments.format == "facts":
        if arguments.images:
            raise ConfigError("--images: model facts have no plots; leave it out")
        write_model_facts(
            Path(arguments.output),
            model=Path(arguments.model),
            evaluations=[Path(folder) for folder in arguments.evaluations],
            segmenter_data=arguments.segmenter_data,
            classifier_data=arguments.classifier_data,
        )
        say(f"written: {arguments.output}")
        return OK
    if arguments.images:
        copies = [f"*-{name.replace('_', '-')}.png" for name in PLOTS]
        refuse_to_replace(arguments, *found_files(arguments.images, copies), flag="--images")
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
    say(f"written: {output} and {details_path(output).name}")
    return OK


def training_commands(provenance: Mapping[str, Any]) -> list[str]:
    """Command lines with the recorded settings, stage by stage, the first training first."""
    return [
        line
        for stage, command in _STAGES.items()
        for line in _Commands(stage, command).of(provenance.get(stage, {}))
    ]


class _Commands:
    """The commands that made one stage; what two of them start from is trained once."""

    def __init__(self, stage: str, command: str) -> None:
        self._stage, self._command = stage, command
        self._lines: list[str] = []
        self._files: dict[str, str | None] = {}
        self._counts: Counter[str] = Counter()

    def of(self, made: Mapping[str, Any]) -> list[str]:
        """All lines for a network with this provenance."""
        self._file(made)
        return self._lines

    def _file(self, made: Mapping[str, Any]) -> str | None:
        """Where the network's file is, once the lines that make it were added."""
        from cascade.training.images_seen import without_images

        known = without_images(made)
        record = json.dumps(known, sort_keys=True, default=str)
        if record not in self._files:
            others = known.pop("averaged_with", ())
            how = {"size": known.pop("averaged_at", None), **known.pop("batch_statistics", {})}
            one = self._average([known, *others], how) if others else self._training(known)
            self._files[record] = one
        return self._files[record]

    def _training(self, made: Mapping[str, Any]) -> str | None:
        before = made.get("initial_model")
        start = self._file(before) if isinstance(before, Mapping) else None
        if not made.get("settings"):
            return start
        folder = self._next("training")
        settings = dict(made["settings"])
        if start is not None:
            settings["initial_model"] = start  # where it is; recorded is its name alone
        flags = [*_flags(self._command, {**made, "settings": settings}), "--output", folder]
        self._lines.append(f"cascade {self._command} --data_path DATA {shlex.join(flags)}")
        return f"{folder}/best.safetensors"

    def _average(self, averaged: Sequence[Mapping[str, Any]], how: Mapping[str, Any]) -> str:
        members = [file for made in averaged if (file := self._file(made)) is not None]
        output = self._next("average") + ".safetensors"
        flags = [*_flags("average", {"settings": how}), "--output", output]
        data = "--data_path DATA " * ("batch_statistics" in how)
        self._lines.append(f"cascade average {shlex.join(members)} {data}{shlex.join(flags)}")
        return output

    def _next(self, kind: str) -> str:
        self._counts[kind] += 1
        number = self._counts[kind]
        return f"models/{self._stage}" + (f"_{number}" if number > 1 else "")


def _flags(command: str, training: Mapping[str, Any]) -> list[str]:
    """The flags of a training command whose recorded values are not the defaults."""
    module = module_of(command)
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
