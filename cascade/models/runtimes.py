"""Which library computes a cascade's networks, and both stages read for it."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from cascade.errors import ConfigError, MissingExtraError
from cascade.models.artifact import (
    default_model,
    read_artifact,
    read_document,
    required_default_model,
)
from cascade.models.exported import (
    STAGES,
    default_export,
    is_exported,
    read_exported,
    read_safeguards,
)
from cascade.models.openvino_session import Precision
from cascade.models.protocol import ClassifierStage, SegmenterStage
from cascade.reliability import Safeguards

Runtime = Literal["auto", "torch", "onnx", "openvino"]


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
    precision: Precision = "float32",
) -> LoadedStages:
    """Read a cascade's file or exported folder; see :meth:`cascade.Cascade.load`."""
    model, chosen = choose_runtime(path, runtime)
    if precision not in get_args(Precision):
        raise ConfigError(f"precision {precision!r} is unknown; choose float32 or bfloat16")
    if precision != "float32" and chosen != "openvino":
        raise ConfigError(f"the runtime {chosen} computes in float32; bfloat16 is for openvino")
    if chosen == "torch":
        if threads is not None:
            raise ConfigError("threads are for exported cascades; torch reads OMP_NUM_THREADS")
        return _load_torch(model, device)
    options: dict[str, Any] = {"device": device, "threads": threads}
    if chosen == "openvino":
        options["precision"] = precision
    return _load_exported(model, chosen, options)


def choose_runtime(
    path: str | os.PathLike[str] | None, runtime: Runtime = "auto"
) -> tuple[Path, Literal["torch", "onnx", "openvino"]]:
    """The model and the library that runs it, where the user left that open.

    ``auto`` goes by the path, and without one by what is installed.

    Raises:
        ConfigError: the runtime is unknown or does not run this kind of model.
        ModelFileError: no path was given and there is no default cascade.
        MissingExtraError: the model needs torch, which is not installed.
    """
    if runtime not in get_args(Runtime):
        raise ConfigError(f"runtime {runtime!r} is unknown; choose {', '.join(get_args(Runtime))}")
    has_torch = importlib.util.find_spec("torch") is not None
    if path is None:
        path = _default(runtime, has_torch=has_torch)
    path = Path(path)
    exported = is_exported(path) or path.is_dir()
    if runtime in ("onnx", "openvino"):
        return path, runtime
    if exported and runtime == "torch":
        raise ConfigError(
            f"{path}: is an exported cascade, which torch does not run; use the runtime onnx, or "
            "name the .safetensors file"
        )
    if exported:
        return path, "onnx"
    if not has_torch:
        raise MissingExtraError(
            f"{path}: needs torch, which is not installed; where it is, write the cascade as ONNX "
            "(cascade export --model FILE --output FOLDER) and name that folder here"
        )
    return path, "torch"


def _default(runtime: Runtime, *, has_torch: bool) -> Path:
    """The cascade that comes with the library, in the form that can be run."""
    if runtime in ("onnx", "openvino"):
        return default_export()
    runs_in_torch = runtime == "torch" or (has_torch and default_model().is_file())
    if not runs_in_torch and is_exported(default_export()):
        return default_export()
    return required_default_model()


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


def _load_exported(path: Path, runtime: Runtime, options: Mapping[str, Any]) -> LoadedStages:
    from cascade.models.onnx_runtime import GraphSession, OnnxClassifier, OnnxSegmenter

    session: Callable[..., GraphSession]
    if runtime == "openvino":
        from cascade.models.openvino_session import OpenVinoSession as session
    else:
        from cascade.models.onnx_session import OnnxSession as session

    exported = read_exported(path)
    artifact = exported.artifact

    def opened(stage: str) -> tuple[GraphSession, dict[str, Any]]:
        source = str(exported.folder / f"{stage}.onnx")
        facts = {"provenance": artifact.provenance.get(stage, {}), "source": source}
        return session(exported.graph(stage), source=source, **options), facts

    first, about_first = opened("segmenter")
    second, about_second = opened("classifier")
    return LoadedStages(
        OnnxSegmenter(first, artifact.stages["segmenter"], **about_first),
        OnnxClassifier(second, artifact.stages["classifier"], **about_second),
        read_safeguards(artifact, source=str(path)),
    )
