"""The console command ``cascade``: one word chooses the command, and only that one is loaded."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from types import ModuleType

from cascade.command_line.parser import INTERRUPTED, OK, USAGE
from cascade.config import did_you_mean
from cascade.version import __version__

GROUPS = {
    "datasets": {
        "prepare": "bring your own, a public or a synthetic data set into the project's layout",
        "check": "look for faults in a data set",
        "croissant": "describe a data set in Croissant (JSON-LD)",
        "annotate-export": "write predicted masks for Label Studio and as COCO, to be corrected",
    },
    "training": {
        "seg-train": "train the segmenter",
        "oof-masks": "write out-of-fold predicted masks to train the classifier on",
        "cls-train": "train the classifier on masked crops",
        "average": "average the weights of classifiers that share their start",
        "ensemble": "join cross-validated classifiers, and score what that brings",
        "mask-modes": "train and compare the classifier under each masking mode",
        "calibrate": "fit probabilities, cutoffs and limits, and join both stages into one file",
        "fit-diagnoses": "let a finished cascade tell diagnoses, too",
        "fit-metadata": "let a finished cascade use age, sex and site where they are known",
        "default-model": "make the default cascade again, from the images to the model card",
    },
    "evaluation": {
        "seg-eval": "score a segmenter",
        "cls-eval": "score a classifier",
        "evaluate": "score the whole cascade, end to end and by stage",
        "score": "score anybody's masks or probabilities by the public protocols",
        "card": "write a model card from a model's file and its evaluations",
    },
    "prediction": {
        "predict": "mask and probability for files, folders or tables of images",
        "segment": "write the predicted mask of every image of a table",
        "explain": "heat maps of where the classifier looked, for the same inputs",
        "export": "write a cascade as ONNX graphs, which run without torch",
        "app": "show a web page for images",
        "serve": "predictions over HTTP",
        "bench": "measure how fast this machine runs a cascade, by runtime and batch size",
        "completion": "let bash or zsh complete commands and flags",
        "doctor": "say which versions and devices there are, and what is wrong",
    },
}
"""What each command does, by the folder of ``cascade/commands`` that it lives in."""

COMMANDS = {name: what for commands in GROUPS.values() for name, what in commands.items()}


def module_of(name: str) -> ModuleType:
    """Import the module of a command, and only that one."""
    group = next(group for group, commands in GROUPS.items() if name in commands)
    return importlib.import_module(f"cascade.commands.{group}.{name.replace('-', '_')}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        sys.stdout.write(_overview())
        return OK if arguments else USAGE
    if arguments[0] in ("-V", "--version"):
        sys.stdout.write(f"cascade {__version__}\n")
        return OK
    name = arguments[0].replace("_", "-")
    if name not in COMMANDS:
        hint = did_you_mean(name, COMMANDS)
        sys.stderr.write(f"cascade: error: there is no command {name!r}{hint}\n")
        return USAGE
    try:
        result: int = module_of(name).main(arguments[1:])
    except KeyboardInterrupt:  # while libraries are imported; later the command itself stops
        sys.stderr.write("interrupted\n")
        return INTERRUPTED
    return result


def _overview() -> str:
    lines = []
    for group, commands in GROUPS.items():
        lines += [f"\n{group}:", *(f"  {name:<15} {what}" for name, what in commands.items())]
    return (
        "usage: cascade COMMAND [flags]\n\n"
        "Two-stage analysis of skin-lesion images. Research software, not for diagnosis.\n\n"
        + "\n".join(lines).lstrip()
        + "\n\n"
        "cascade COMMAND --help lists a command's flags.\n"
    )
