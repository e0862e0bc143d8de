"""The console command ``cascade``: one word chooses the command, and only that one is loaded."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

from cascade.commands.arguments import OK, USAGE
from cascade.config import did_you_mean
from cascade.version import __version__

COMMANDS = {
    "prepare": "bring a public or synthetic data set into the project's layout",
    "check": "look for faults in a data set",
    "seg-train": "train the segmenter",
    "seg-eval": "score a segmenter",
    "oof-masks": "write out-of-fold predicted masks to train the classifier on",
    "segment": "write the predicted mask of every image of a table",
    "cls-train": "train the classifier on masked crops",
    "average": "average the weights of classifiers that share their start",
    "ensemble": "join cross-validated classifiers, and score what that brings",
    "cls-eval": "score a classifier",
    "mask-modes": "train and compare the classifier under each masking mode",
    "calibrate": "fit probabilities, cutoffs and limits, and join both stages into one file",
    "evaluate": "score the whole cascade, end to end and by stage",
    "predict": "mask and probability for files, folders or tables of images",
    "explain": "heat maps of where the classifier looked, for the same inputs",
    "export": "write a cascade as ONNX graphs, which run without torch",
    "app": "show a web page for photographs",
    "serve": "predictions over HTTP",
    "default-model": "make the default cascade again, from the images to the model card",
    "score": "score anybody's masks or probabilities by the public protocols",
    "card": "write a model card from a model's file and its evaluations",
    "doctor": "say which versions and devices there are, and what is wrong",
}


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
    module = importlib.import_module(f"cascade.commands.{name.replace('-', '_')}")
    result: int = module.main(arguments[1:])
    return result


def _overview() -> str:
    lines = [f"  {name:<10} {what}" for name, what in COMMANDS.items()]
    return (
        "usage: cascade COMMAND [flags]\n\n"
        "Two-stage analysis of skin-lesion photographs. Research software, not for diagnosis.\n\n"
        "commands:\n" + "\n".join(lines) + "\n\n"
        "cascade COMMAND --help lists a command's flags.\n"
    )
