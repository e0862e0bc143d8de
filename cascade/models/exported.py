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

from cascade.errors import ConfigError, DataError, ModelFileError, ShapeError
from cascade.files import file_digest, read_json, write_json
from cascade.models.artifact import (
    INTENDED_USE,
    PARTS,
    Artifact,
    read_artifact,
    write_artifact,
)
from cascade.models.named import shipped_models
from cascade.reliability import Safeguards
from cascade.version import __version__

NAME = "safeguards"
EXPORT_FORMAT = 1
DOCUMENT = "cascade.json"
PARITY = "parity.json"
SAFEGUARDS = f"{NAME}.safetensors"
STAGES = ("segmenter", "classifier")
FILES = {DOCUMENT, PARITY, SAFEGUARDS, *(f"{stage}.onnx" for stage in STAGES)}
"""All that such a folder may hold."""


def with_safeguards(artifact: Artifact, safeguards: Safeguards) -> Artifact:
    """The artifact with these safeguards; the same one if there are none."""
    description = safeguards.describe()
    if not description:
        return artifact
    arrays = {f"{NAME}.{name}": array for name, array in safeguards.to_arrays().items()}
    return replace(
        artifact,
        stages={**artifact.stages, NAME: description},
        tensors={**artifact.tensors, **arrays},
    )


def read_safeguards(artifact: Artifact, *, source: str = "model") -> Safeguards:
    """The safeguards of an artifact, which may be none.

    Raises:
        ModelFileError: they are incomplete or of another kind.
    """
    try:
        return Safeguards.from_description(
            artifact.stages.get(NAME, {}), artifact.stage_tensors(NAME)
        )
    except (ConfigError, ShapeError, TypeError, AttributeError) as error:
        raise ModelFileError(f"{source}: its safeguards cannot be read ({error})") from error


@dataclass(frozen=True)
class ExportedCascade:
    """An exported cascade on disk; its graphs are read when they are asked for."""

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

    ``contents`` are the bytes of the ONNX graph of each stage. ``facts`` is what else the document
    says: ``tensors_sha256`` of the cascade that was exported, ``graphs`` with what each graph takes
    and gives, and ``parity``. Tensors of the artifact are not looked at.
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

    ``path`` is its folder, or the ``cascade.json`` in it.

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


_VARINT, _EIGHT_BYTES, _MESSAGE, _FOUR_BYTES = 0, 1, 2, 5
_PARTS = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse tensor"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {
        5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse tensor",
        23: "sparse tensor",
    },
    "sparse tensor": {1: "tensor", 2: "tensor"},
    "tensor": {},
}  # fmt: skip
"""Field numbers of onnx.proto behind which tensors can be."""
_EXTERNAL_DATA, _DATA_LOCATION = 13, 14


def require_whole(content: bytes, source: str) -> None:
    """Raise unless all numbers of an ONNX model are in it.

    Raises:
        ModelFileError: a tensor lies in another file, or this is no ONNX model.
    """
    waiting = [("model", 0, len(content))]
    try:
        while waiting:
            kind, place, end = waiting.pop()
            while place < end:
                key, place = _varint(content, place)
                field, wire = key >> 3, key & 7
                start, place = _skipped(content, place, wire)
                if place > end:
                    raise IndexError
                if kind == "tensor" and field in (_EXTERNAL_DATA, _DATA_LOCATION):
                    if field == _EXTERNAL_DATA or _varint(content, start)[0]:
                        raise ModelFileError(
                            f"{source}: keeps weights in other files, which is refused; write it "
                            "with: cascade export"
                        )
                elif wire == _MESSAGE and field in _PARTS[kind]:
                    waiting.append((_PARTS[kind][field], start, place))
    except IndexError as error:
        raise ModelFileError(f"{source}: is no ONNX model, or is damaged") from error


def _varint(content: bytes, place: int) -> tuple[int, int]:
    """A number of seven bits a byte, and the place behind it."""
    value = shift = 0
    while True:
        byte = content[place]
        place += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, place
        shift += 7
        if shift > 63:
            raise IndexError


def _skipped(content: bytes, place: int, wire: int) -> tuple[int, int]:
    """Where the value of a field starts and ends."""
    if wire == _VARINT:
        return place, _varint(content, place)[1]
    if wire == _MESSAGE:
        length, place = _varint(content, place)
        return place, place + length
    if wire in (_EIGHT_BYTES, _FOUR_BYTES):
        return place, place + (8 if wire == _EIGHT_BYTES else 4)
    raise IndexError
