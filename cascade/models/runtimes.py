"""Which library computes a cascade's networks, and both stages read for it."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cascade.errors import ConfigError, MissingExtraError
from cascade.models.artifact import (
    default_model,
    read_artifact,
    read_document,
    required_default_model,
)
from cascade.models.exported import STAGES, default_export, is_exported, read_exported
from cascade.models.protocol import ClassifierStage, SegmenterStage
from cascade.models.safeguards import read_safeguards
from cascade.reliability import Safeguards

Runtime = Literal["auto", "torch", "onnx"]


@dataclass(frozen=True)
class LoadedStages:
    """Both stages of a cascade, ready to run, and when not to trust them."""

    segmenter: SegmenterStage
    classifier: ClassifierStage
    safeguards: Safeguards


def load_stages(
    path: str | os.PathLike[str] | None = None,
    *,
    device: str = "auto",
    runtime: Runtime = "auto",
    threads: int | None = None,
) -> LoadedStages:
    """Read a cascade's file or exported folder; see :meth:`cascade.Cascade.load`."""
    path, chosen = choose_runtime(path, runtime)
    if chosen == "onnx":
        return _load_onnx(path, device, threads)
    if threads is not None:
        raise ConfigError("threads are for the ONNX runtime; torch reads OMP_NUM_THREADS instead")
    return _load_torch(path, device)


def choose_runtime(
    path: str | os.PathLike[str] | None, runtime: Runtime = "auto"
) -> tuple[Path, Literal["torch", "onnx"]]:
    """The model and the library that runs it, where the user left that open.

    Args:
        path: what the user named, or ``None`` for the cascade that comes with the library.
        runtime: what the user named; ``auto`` goes by the path, and without one by what is
            installed.

    Raises:
        ConfigError: the runtime is unknown or does not run this kind of model.
        ModelFileError: no path was given and there is no default cascade.
        MissingExtraError: the model needs torch, which is not installed.
    """
    if runtime not in ("auto", "torch", "onnx"):
        raise ConfigError(f"runtime {runtime!r} is unknown; choose auto, torch or onnx")
    has_torch = importlib.util.find_spec("torch") is not None
    if path is None:
        alone = is_exported(default_export()) and not (has_torch and default_model().is_file())
        if runtime == "onnx" or (runtime == "auto" and alone):
            return default_export(), "onnx"
        path = required_default_model()
    path = Path(path)
    if is_exported(path) and runtime == "torch":
        raise ConfigError(
            f"{path}: is an exported cascade, which torch does not run; use the runtime onnx, or "
            "name the .safetensors file"
        )
    if is_exported(path) or path.is_dir() or runtime == "onnx":
        return path, "onnx"
    if not has_torch:
        raise MissingExtraError(
            f"{path}: needs torch, which is not installed; export the model where it is (cascade "
            "export --model FILE --output FOLDER) and name that folder here"
        )
    return path, "torch"


def model_identity(path: str | os.PathLike[str]) -> str:
    """SHA-256 over a model's tensors; the same for a file and for what was exported from it.

    Raises:
        ModelFileError: the model is missing or damaged.
    """
    document = read_exported(path).document if is_exported(path) else read_document(path)
    return str(document["tensors_sha256"])


def _load_torch(path: Path, device: str) -> LoadedStages:
    from cascade.models.ensemble import load_classifier
    from cascade.models.segmenter import Segmenter

    artifact = read_artifact(path, needs=STAGES)
    return LoadedStages(
        Segmenter.from_artifact(artifact, device=device, source=str(path)),
        load_classifier(artifact, device=device, source=str(path)),
        read_safeguards(artifact, source=str(path)),
    )


def _load_onnx(path: Path, device: str, threads: int | None) -> LoadedStages:
    from cascade.models.onnx_runtime import OnnxClassifier, OnnxSegmenter

    exported = read_exported(path)
    artifact = exported.artifact

    def options(stage: str) -> dict[str, Any]:
        return {
            "provenance": artifact.provenance.get(stage, {}),
            "device": device,
            "threads": threads,
            "source": str(exported.folder / f"{stage}.onnx"),
        }

    first, second = STAGES
    return LoadedStages(
        OnnxSegmenter(exported.graph(first), artifact.stages[first], **options(first)),
        OnnxClassifier(exported.graph(second), artifact.stages[second], **options(second)),
        read_safeguards(artifact, source=str(path)),
    )
