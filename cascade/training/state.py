"""Everything a training needs to go on after it was stopped, in one safetensors file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from cascade.errors import ModelFileError
from cascade.files import atomic_path

_TENSOR = "__tensor__"
_ITEMS = "__items__"


def save_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write a nested dictionary of tensors and JSON values atomically."""
    tensors: dict[str, torch.Tensor] = {}
    document = json.dumps(_flatten(dict(state), tensors, "state"))
    with atomic_path(path) as temporary:
        try:
            save_file(tensors, temporary, metadata={"state": document})
        except SafetensorError as error:
            raise ModelFileError(f"{path}: could not be written ({error})") from error


def load_state(path: Path) -> dict[str, Any]:
    """Read what :func:`save_state` wrote, on the CPU.

    Raises:
        ModelFileError: the file is missing or damaged.
    """
    if not path.is_file():
        raise ModelFileError(f"{path}: there is nothing to resume from; start without --resume")
    try:
        with safe_open(path, framework="pt") as file:
            document = json.loads(file.metadata()["state"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ModelFileError(f"{path}: is damaged ({error}); start without --resume") from error
    return _unflatten(document, tensors)


def _flatten(value: Any, tensors: dict[str, torch.Tensor], path: str) -> Any:
    if isinstance(value, torch.Tensor):
        tensors[path] = value.detach().cpu().contiguous().clone()
        return {_TENSOR: path}
    if isinstance(value, Mapping):
        # optimisers key their state by integers, which a JSON object would turn into text
        items = [[key, _flatten(item, tensors, f"{path}.{key}")] for key, item in value.items()]
        return {_ITEMS: items}
    if isinstance(value, (list, tuple)):
        return [_flatten(item, tensors, f"{path}.{index}") for index, item in enumerate(value)]
    return value


def _unflatten(value: Any, tensors: Mapping[str, torch.Tensor]) -> Any:
    if isinstance(value, list):
        return [_unflatten(item, tensors) for item in value]
    if isinstance(value, Mapping):
        if _TENSOR in value:
            return tensors[value[_TENSOR]]
        return {key: _unflatten(item, tensors) for key, item in value[_ITEMS]}
    return value
