"""The command that people type after another one, with its flags filled in."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

NEXT = {
    "prepare": "cascade check {output} --output check",
    "check": "cascade seg-train --data_path {dataset} --encoder_weights imagenet",
    "croissant": "cascade check {dataset} --output check",
    "annotate-export": "cascade prepare --source folders --input IMAGES "
    "--masks {output}/EXPORTED.json",
    "seg-train": "cascade seg-eval --model {output}/best.safetensors --data_path {data_path}",
    "oof-masks": "cascade cls-train --data_path {data_path} --masks {output}/masks",
    "cls-train": "cascade calibrate --segmenter SEGMENTER "
    "--classifier {output}/best.safetensors --data_path {data_path}",
    "average": "cascade cls-eval --model {output} --data_path DATA",
    "ensemble": "cascade evaluate --segmenter SEGMENTER --classifier {output}",
    "mask-modes": "cascade cls-train --data_path {data_path} --mask_mode MODE",
    "calibrate": "cascade evaluate --model {output} --data_path {data_path}",
    "fit-diagnoses": "cascade evaluate --model {output} --data_path {data_path}",
    "fit-metadata": "cascade evaluate --model {output} --data_path {data_path}",
    "default-model": "cascade predict IMAGES --model {model}",
    "seg-eval": "cascade oof-masks --data_path {data_path}",
    "cls-eval": "cascade calibrate --segmenter SEGMENTER --classifier {model} "
    "--data_path {data_path}",
    "evaluate": "cascade card --model {model} --evaluations {output} --output card.md",
    "score": "cascade evaluate --data_path DATA --model MODEL",
    "card": "cascade export --model {model} --output EXPORTED",
    "predict": "cascade explain {inputs} --model {model} --output explanations",
    "segment": "cascade cls-train --data_path {data_path} --masks {output}",
    "explain": "cascade app --model {model}",
    "export": "cascade bench --model {output}",
    "bench": "cascade predict IMAGES --model {model}",
    "doctor": "cascade predict IMAGES",
    "completion": None,
    "app": None,
    "serve": None,
}
"""What follows each command; names in braces are values of its flags. ``None`` where it runs until
it is stopped, or its output is a script."""

_DEFAULT_MODEL = ("predict", "explain", "bench")
"""Commands that, as those after them, take the default cascade where none is named."""

_PSEUDO = "cascade seg-train --data_path DATA --more_data {data_path} --pseudo_masks {output}"
"""What follows masks that several views agree on."""

_OF_FOLDS = "cascade evaluate --segmenter SEGMENTER --classifier {output}/ensemble.safetensors"
"""What follows a cross-validation."""

_EXPORTED = "cascade bench --model {model}"
"""What follows the evaluation of an exported cascade."""

_OF_DATA = ("more_data", "classes", "malignant")
_CARRIED = {
    "evaluate": _OF_DATA,
    "calibrate": (*_OF_DATA, "splits"),
    "cls-train": (*_OF_DATA, "splits"),
}
"""Flags that the next command on the same data needs as well."""

_WITHOUT_MASKS = "cascade segment --model MODEL --data_path {dataset} --output MASKS"
"""What follows a check of images of which none has a mask."""

_MOST = 3
"""Values of one flag that are repeated."""


class _Filled(dict[str, str]):
    """The values of flags, as a shell takes them; a flag without one becomes a word to replace."""

    def __init__(self, arguments: Any) -> None:
        super().__init__()
        self._arguments = arguments

    def __missing__(self, name: str) -> str:
        value = self._arguments.get(name)
        values = value if isinstance(value, list) else [value]
        if value is None or not 0 < len(values) <= _MOST:
            return name.upper()
        return shlex.join(str(one) for one in values)


def _has_masks(arguments: Any) -> bool:
    folder = Path(arguments.get("masks") or Path(arguments["dataset"], "masks_all"))
    return folder.is_dir() and any(folder.iterdir())


def next_command(name: str, arguments: Any) -> str | None:
    """What to type after a command, or ``None``.

    Args:
        name: the command that has ended well.
        arguments: its parsed flags.
    """
    template = NEXT[name]
    if template is None or arguments.get("list"):  # what is listed may be given to a shell
        return None
    if name in _DEFAULT_MODEL and not arguments.get("model"):
        template = template.replace(" --model {model}", "")
    if name == "check" and not _has_masks(arguments):
        template = _WITHOUT_MASKS
    model = str(arguments.get("model") or "")
    if name == "evaluate" and model and not model.endswith(".safetensors"):
        template = _EXPORTED  # a card is that of a file
    if name == "segment" and arguments.get("agreement"):
        template = _PSEUDO
    if name == "cls-train" and arguments.get("folds"):
        template = _OF_FOLDS
    if "--data_path {data_path}" in template:
        carried = _CARRIED.get(template.split()[1], ())
        given = [flag for flag in carried if arguments.get(flag)]
        template += "".join(f" --{flag} {{{flag}}}" for flag in given)
    return template.format_map(_Filled(arguments))
