"""Everything a training needs to go on after it was stopped, in one safetensors file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from cascade.errors import ModelFileError
from cascade.files import atomic_path
from cascade.models.artifact import tensors_digest

_TENSOR = "__tensor__"
_ITEMS = "__items__"


def save_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write a nested dictionary of tensors and JSON values atomically."""
    tensors: dict[str, torch.Tensor] = {}
    document = json.dumps(_flatten(dict(state), tensors, "state"))
    with atomic_path(path) as temporary:
        try:
            save_file(
                tensors,
                temporary,
                metadata={"state": document, "sha256": _digest(document, tensors)},
            )
        except SafetensorError as error:
            raise ModelFileError(f"{path}: could not be written ({error})") from error


def load_state(path: Path) -> dict[str, Any]:
    """Read what :func:`save_state` wrote, on the CPU.

    Raises:
        ModelFileError: the file is missing or damaged.
    """
    if not path.is_file():
        raise ModelFileError(
            f"{path}: there is nothing to resume from; start again with --overwrite"
        )
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        document, digest = metadata["state"], metadata["sha256"]
        if _digest(document, tensors) != digest:
            raise ValueError("its content does not match its SHA-256")
        return _unflatten(json.loads(document), tensors)
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ModelFileError(
            f"{path}: is damaged ({error}); start again with --overwrite"
        ) from error


def _digest(document: str, tensors: Mapping[str, torch.Tensor]) -> str:
    arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
    return hashlib.sha256((document + tensors_digest(arrays)).encode()).hexdigest()


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
