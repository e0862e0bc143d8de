"""A cascade as a folder of ONNX graphs, which needs no torch to be read or run.

``segmenter.onnx`` and ``classifier.onnx`` are the graphs. ``cascade.json`` is the document that
stands in the header of a ``.safetensors`` file, with the SHA-256 of every other file.
``safeguards.safetensors`` holds the arrays of the safeguards, if there are any. ``parity.json``
says how far the graphs are from the networks that they were made of. File names are fixed: none is
taken from the document.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cascade.errors import DataError, ModelFileError
from cascade.files import file_digest, read_json, write_json
from cascade.models.artifact import (
    INTENDED_USE,
    PARTS,
    Artifact,
    read_artifact,
    shipped_models,
    write_artifact,
)
from cascade.models.onnx_file import require_whole
from cascade.models.stored_safeguards import NAME, with_safeguards
from cascade.reliability import Safeguards
from cascade.version import __version__

EXPORT_FORMAT = 1
DOCUMENT = "cascade.json"
PARITY = "parity.json"
SAFEGUARDS = f"{NAME}.safetensors"
STAGES = ("segmenter", "classifier")
FILES = {DOCUMENT, PARITY, SAFEGUARDS, *(f"{stage}.onnx" for stage in STAGES)}
"""All that such a folder may hold."""


@dataclass(frozen=True)
class ExportedCascade:
    """An exported cascade on disk; its graphs are read when they are asked for.

    Attributes:
        folder: where it lies.
        document: what ``cascade.json`` says.
        artifact: stages, arrays of the safeguards, provenance and metrics, as in a model file.
    """

    folder: Path
    document: Mapping[str, Any]
    artifact: Artifact

    def graph(self, stage: str) -> bytes:
        """The verified ONNX graph of ``segmenter`` or ``classifier``.

        Raises:
            ModelFileError: it is missing, does not match its SHA-256, or names other files.
        """
        path = self.folder / f"{stage}.onnx"
        try:
            content = path.read_bytes()
        except OSError as error:
            raise ModelFileError(f"{path}: cannot be read ({error.strerror})") from error
        _verify(path, hashlib.sha256(content).hexdigest(), self.document)
        require_whole(content, str(path))
        return content


def default_export() -> Path:
    """The folder of the exported cascade that comes with the library."""
    return shipped_models() / "default_onnx"


def is_exported(path: str | os.PathLike[str]) -> bool:
    """Whether a path is the folder of an exported cascade, or the ``cascade.json`` in it."""
    path = Path(path)
    return (path if path.name == DOCUMENT else path / DOCUMENT).is_file()


def write_exported(
    folder: Path,
    artifact: Artifact,
    contents: Mapping[str, bytes],
    *,
    safeguards: Safeguards,
    facts: Mapping[str, Any],
) -> None:
    """Write an exported cascade into an empty folder.

    Args:
        folder: where to.
        artifact: stages, provenance and metrics of the cascade; its tensors are not looked at.
        contents: stage to the bytes of its ONNX graph.
        safeguards: of the cascade.
        facts: what else the document says: ``tensors_sha256`` of the cascade that was exported,
            ``graphs`` with what each graph takes and gives, and ``parity``.
    """
    for stage in STAGES:
        (folder / f"{stage}.onnx").write_bytes(contents[stage])
    trust = with_safeguards(Artifact({}, {}, {}, {}), safeguards)
    if trust.stages:
        write_artifact(folder / SAFEGUARDS, trust)
    write_json(folder / PARITY, facts["parity"])
    document = {
        "export_format": EXPORT_FORMAT,
        "version": __version__,
        "stages": {**artifact.stages, **trust.stages},
        "provenance": artifact.provenance,
        "metrics": artifact.metrics,
        "intended_use": INTENDED_USE,
        **facts,
        "sha256": {path.name: file_digest(path) for path in sorted(folder.iterdir())},
    }
    write_json(folder / DOCUMENT, document, indent=None)


def read_exported(path: str | os.PathLike[str]) -> ExportedCascade:
    """Read an exported cascade, but for its graphs.

    Args:
        path: its folder, or the ``cascade.json`` in it.

    Raises:
        ModelFileError: it is missing, damaged, incomplete, or of another format.
    """
    folder = Path(path).parent if Path(path).name == DOCUMENT else Path(path)
    if not is_exported(folder):
        raise ModelFileError(
            f"{path}: is no exported cascade, that is, no folder with {DOCUMENT}; write one with: "
            "cascade export --model FILE --output FOLDER"
        )
    document = _document(folder / DOCUMENT)
    artifact = Artifact(document["stages"], {}, document["provenance"], document["metrics"])
    if NAME in artifact.stages:
        saved = folder / SAFEGUARDS
        if not saved.is_file():
            raise ModelFileError(f"{saved}: is missing; copy the whole folder again")
        _verify(saved, file_digest(saved), document)
        artifact = replace(artifact, tensors=read_artifact(saved).tensors)
    return ExportedCascade(folder, document, artifact)


def _verify(path: Path, digest: str, document: Mapping[str, Any]) -> None:
    if digest != document["sha256"].get(path.name):
        raise ModelFileError(
            f"{path}: does not match its SHA-256 in {DOCUMENT}; copy the whole folder again"
        )


def _document(path: Path) -> dict[str, Any]:
    try:
        document = read_json(path)
    except DataError as error:
        raise ModelFileError(str(error)) from error
    if not isinstance(document, dict):
        raise ModelFileError(f"{path}: is not a JSON object")
    if document.get("export_format") != EXPORT_FORMAT:
        raise ModelFileError(
            f"{path}: has export format {document.get('export_format')}, this version reads "
            f"export format {EXPORT_FORMAT}"
        )
    parts = ("stages", "provenance", "metrics", "sha256")
    wrong = {part for part in parts if not isinstance(document.get(part), dict)}
    if not isinstance(document.get("tensors_sha256"), str):
        wrong.add("tensors_sha256")
    if "stages" not in wrong:
        named = set(document["stages"])
        wrong |= {f"stages.{stage}" for stage in (set(STAGES) - named) | (named - set(PARTS))}
    if wrong:
        raise ModelFileError(f"{path}: missing, unknown or unusable: {', '.join(sorted(wrong))}")
    return document
