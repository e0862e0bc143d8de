"""Everything a training needs to go on after it was stopped, in one safetensors file.

The file before it is kept, in case that the last one is damaged.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from cascade.errors import CascadeWarning, ModelFileError
from cascade.files import atomic_path
from cascade.models.artifact import tensors_digest

LAST, PREVIOUS = "last.safetensors", "previous.safetensors"

_TENSOR = "__tensor__"
_ITEMS = "__items__"


def save_checkpoint(folder: Path, state: Mapping[str, Any]) -> None:
    """Write a state as the folder's last one; the one that was the last becomes the previous one.

    Raises:
        DataError: the disk is full, or the folder cannot be written to. Both old files stay.
        ModelFileError: as above.
    """
    save_state(folder / LAST, state, previous=folder / PREVIOUS)


def load_checkpoint(folder: Path) -> dict[str, Any] | None:
    """Read the folder's last state, or with a warning the previous one where that is damaged.

    Returns:
        The state, or ``None`` where there is neither.

    Raises:
        ModelFileError: all that is there is damaged.
    """
    last, previous = folder / LAST, folder / PREVIOUS
    if not last.exists() and previous.exists():  # it was stopped between two renames
        previous.replace(last)
    if not last.exists():
        return None
    try:
        return load_state(last)
    except ModelFileError as error:
        damage = str(error)
    try:
        state = load_state(previous)
    except ModelFileError as error:
        raise ModelFileError(f"{damage}, and {error}; start again with --overwrite") from error
    warnings.warn(f"{damage}; going on from the one before", CascadeWarning, stacklevel=2)
    previous.replace(last)  # else the next one would push it out and keep the damaged one
    return state


def save_state(path: Path, state: Mapping[str, Any], *, previous: Path | None = None) -> None:
    """Write a nested dictionary of tensors and JSON values atomically.

    ``previous`` is where a file that is there already goes; by default it is lost.
    """
    tensors: dict[str, torch.Tensor] = {}
    document = json.dumps(_flatten(dict(state), tensors, "state"))
    with atomic_path(path, previous=previous) as temporary:
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
        raise ModelFileError(f"{path}: there is no such file")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        document, digest = metadata["state"], metadata["sha256"]
        if _digest(document, tensors) != digest:
            raise ValueError("its content does not match its SHA-256")
        return _unflatten(json.loads(document), tensors)
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ModelFileError(f"{path}: is damaged ({error})") from error


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
