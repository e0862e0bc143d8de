"""Models by name: those that come with the library, and those on a hub."""

from __future__ import annotations

import os
from pathlib import Path

from cascade.models.hub import is_hub_address, local_path

SHIPPED = {"default": "default.safetensors", "fast": "fast_onnx"}
"""Files and folders of the cascades that come with the library."""


def shipped_models() -> Path:
    """Where the cascades that come with the library lie.

    In a clone that is ``models/``; in an installed library the folder of its code.
    """
    package = Path(__file__).resolve().parents[1]
    in_clone = (package.parent / "setup.cfg").is_file()
    return package.parent / "models" if in_clone else package


def is_named(path: object) -> bool:
    """Whether this names a model that comes with the library or lies on a hub, and no file here."""
    return is_hub_address(path) or (path in SHIPPED and not Path(str(path)).exists())


def model_path(path: str | os.PathLike[str]) -> Path:
    """The file or folder behind ``default``, ``fast``, an address on the hub, or a path.

    Raises:
        HubError: the model cannot be fetched.
        MissingExtraError: huggingface_hub is not installed.
    """
    if is_named(path) and not is_hub_address(path):
        return shipped_models() / SHIPPED[str(path)]
    return local_path(path)
