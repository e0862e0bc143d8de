"""One self-describing safetensors file for a stage or a whole cascade.

The header's metadata holds one JSON document; the tensors of each stage carry the stage's name as
prefix (``segmenter.``, ``classifier.``). A SHA-256 over all tensors is verified on load. Nothing
here needs torch, and nothing is ever pickled.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from cascade.config import did_you_mean
from cascade.errors import ModelFileError
from cascade.files import atomic_path
from cascade.models.hub import hub_hint
from cascade.models.named import SHIPPED, model_path, shipped_models
from cascade.version import __version__

FORMAT = 1
PARTS = ("segmenter", "classifier", "safeguards")
INTENDED_USE = (
    "Research and teaching on images of single skin lesions. Not a medical device; not for "
    "diagnosis, triage or any decision about a person."
)
_CHECKPOINT_KEYS = {"state", "sha256"}
"""What the header of a training's checkpoint holds; see :mod:`cascade.training.state`."""
_KEY = "cascade"


@dataclass(frozen=True)
class Artifact:
    """A model file in memory.

    ``stages`` holds the settings of each stage as plain JSON values; names of ``tensors`` start
    with their stage.
    """

    stages: Mapping[str, Mapping[str, Any]]
    tensors: Mapping[str, np.ndarray]
    provenance: Mapping[str, Any]
    metrics: Mapping[str, Any]

    def stage_tensors(self, stage: str) -> dict[str, np.ndarray]:
        """The tensors of one stage, without prefix."""
        prefix = f"{stage}."
        return {
            name.removeprefix(prefix): tensor
            for name, tensor in self.tensors.items()
            if name.startswith(prefix)
        }


def default_model() -> Path:
    """The file of the cascade that comes with the library."""
    return shipped_models() / SHIPPED["default"]


def required_default_model() -> Path:
    """The same, if it is there.

    Raises:
        ModelFileError: there is none; what to do instead.
    """
    path = default_model()
    if not path.is_file():
        raise ModelFileError(
            f"there is no default model, that is, no file {path}; name a cascade's file with "
            "--model, or train one: cascade seg-train, cascade cls-train and cascade evaluate "
            "--save FILE"
        )
    return path


def tensors_digest(tensors: Mapping[str, np.ndarray]) -> str:
    """SHA-256 over names, types, shapes and bytes of all tensors in the order of their names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        array = np.asarray(tensors[name], order="C")
        digest.update(f"{name}:{array.dtype.str}:{array.shape};".encode())
        digest.update(array.data.cast("B") if array.size else b"")
    return digest.hexdigest()


def write_artifact(path: str | os.PathLike[str], artifact: Artifact) -> None:
    """Write a model file atomically, readable by everybody (mode 0644)."""
    tensors = {name: np.asarray(value, order="C") for name, value in artifact.tensors.items()}
    document = {
        "format": FORMAT,
        "version": __version__,
        "stages": artifact.stages,
        "provenance": artifact.provenance,
        "metrics": artifact.metrics,
        "intended_use": INTENDED_USE,
        "tensors_sha256": tensors_digest(tensors),
    }
    with atomic_path(path) as temporary:
        try:
            save_file(tensors, temporary, metadata={_KEY: json.dumps(document)})
        except SafetensorError as error:  # wraps the operating system's error, such as a full disk
            raise ModelFileError(f"{path}: could not be written ({error})") from error


def read_document(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read only the JSON document in a model file's header, without its tensors.

    Raises:
        ModelFileError: the file is missing, damaged, or was not written by cascade.
    """
    with _opened(path) as file:
        return _document(path, file.metadata())


def read_artifact(path: str | os.PathLike[str], *, needs: Sequence[str] = ()) -> Artifact:
    """Read a model file and verify its tensors against the digest in its header.

    Raises:
        ModelFileError: the file is missing, damaged, of another format, or lacks a stage.
    """
    with _opened(path) as file:
        document = _document(path, file.metadata())
        absent = [stage for stage in needs if stage not in document["stages"]]
        if absent:
            raise ModelFileError(
                f"{path}: holds {' and '.join(document['stages'])}, but no {' and '.join(absent)}"
            )
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if tensors_digest(tensors) != document["tensors_sha256"]:
        raise ModelFileError(
            f"{path}: the tensors do not match their SHA-256; the file is damaged, copy it again"
        )
    return Artifact(document["stages"], tensors, document["provenance"], document["metrics"])


def merge_artifacts(segmenter: Artifact, classifier: Artifact) -> Artifact:
    """One cascade out of a file with a segmenter and a file with a classifier."""
    pairs = (("segmenter", segmenter), ("classifier", classifier))
    return Artifact(
        stages={stage: part.stages[stage] for stage, part in pairs},
        tensors={
            name: tensor
            for stage, part in pairs
            for name, tensor in part.tensors.items()
            if name.startswith(f"{stage}.")
        },
        provenance={stage: part.provenance.get(stage, {}) for stage, part in pairs},
        metrics={stage: part.metrics.get(stage, {}) for stage, part in pairs},
    )


def tensor_shapes(tensors: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """The shape of each tensor or array by its name, for :func:`check_tensors`."""
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def check_tensors(
    path: str | os.PathLike[str],
    found: Mapping[str, tuple[int, ...]],
    expected: Mapping[str, tuple[int, ...]],
) -> None:
    """Raise ``ModelFileError`` listing how the tensors in a file differ from a network's."""
    differences = [f"missing {name}" for name in sorted(set(expected) - set(found))]
    differences += [f"unexpected {name}" for name in sorted(set(found) - set(expected))]
    differences += [
        f"{name} is {tuple(found[name])}, not {tuple(expected[name])}"
        for name in sorted(set(found) & set(expected))
        if tuple(found[name]) != tuple(expected[name])
    ]
    if differences:
        shown = "; ".join(differences[:8])
        raise ModelFileError(
            f"{path}: {len(differences)} tensors do not fit the network: {shown}"
            + (" ..." if len(differences) > 8 else "")
        )


def _opened(path: str | os.PathLike[str]) -> Any:
    path = model_path(path)
    if path.is_dir():
        raise ModelFileError(
            f"{path}: is a folder, such as that of an exported cascade; this needs the "
            ".safetensors file that a training, cascade average or cascade calibrate wrote"
        )
    if not path.is_file():
        hint = hub_hint(str(path)) or did_you_mean(str(path), SHIPPED)
        raise ModelFileError(f"{path}: there is no such model file{hint}")
    try:
        return safe_open(path, framework="numpy")
    except (SafetensorError, OSError) as error:
        raise ModelFileError(
            f"{path}: is not a readable safetensors file ({error}); pickled .pth models are not "
            "accepted as models, only as --encoder_weights"
        ) from error


def _about_checkpoint(path: Path) -> str:
    best = path.with_name("best.safetensors")
    beside = f"its best model is {best}" if best.is_file() else f"there is no {best} yet"
    return (
        f"{path}: is a checkpoint of a training, from which --resume goes on, and no model; "
        f"{beside}"
    )


def _document(path: str | os.PathLike[str], metadata: Mapping[str, str] | None) -> dict[str, Any]:
    text = (metadata or {}).get(_KEY)
    if text is None and set(metadata or {}) == _CHECKPOINT_KEYS:
        raise ModelFileError(_about_checkpoint(Path(path)))
    if text is None:
        raise ModelFileError(f"{path}: was not written by cascade; its header has no description")
    try:
        document = json.loads(text)
    except ValueError as error:
        raise ModelFileError(f"{path}: the description in its header is not JSON") from error
    if not isinstance(document, dict):
        raise ModelFileError(f"{path}: the description in its header is not a JSON object")
    if document.get("format") != FORMAT:
        raise ModelFileError(
            f"{path}: has format {document.get('format')}, this version reads format {FORMAT}"
        )
    missing = {"stages", "provenance", "metrics", "tensors_sha256"} - set(document)
    unknown = set(document.get("stages", {})) - set(PARTS)
    if missing or unknown:
        raise ModelFileError(f"{path}: incomplete description: {sorted(missing | unknown)}")
    return document
