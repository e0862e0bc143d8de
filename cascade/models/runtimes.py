"""Which library computes a cascade's networks, and both stages read for it."""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from cascade.errors import ConfigError, MissingExtraError, ModelFileError
from cascade.models.artifact import (
    default_model,
    read_artifact,
    read_document,
    required_default_model,
)
from cascade.models.exported import (
    NAME,
    STAGES,
    default_export,
    is_exported,
    read_exported,
    read_safeguards,
)
from cascade.models.gpu import torch_uses_gpu
from cascade.models.named import model_path
from cascade.models.onnx_runtime import ACTIVATION_MAPS
from cascade.models.openvino_session import Precision
from cascade.models.protocol import ClassifierStage, SegmenterStage
from cascade.reliability import Safeguards

Runtime = Literal["auto", "torch", "onnx", "openvino"]
log = logging.getLogger(__name__)


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
    model, chosen = choose_runtime(path, runtime, device)
    if precision not in get_args(Precision):
        raise ConfigError(f"precision {precision!r} is unknown; choose float32 or bfloat16")
    if precision != "float32" and chosen == "onnx":
        raise ConfigError("the runtime onnx computes in float32; use openvino or torch")
    if chosen == "torch":
        if threads is not None:
            raise ConfigError("threads are for exported cascades; torch reads OMP_NUM_THREADS")
        stages = _load_torch(model, device, precision)
        log.info("runtime: torch, model: %s", model)
        return stages
    options: dict[str, Any] = {"device": device, "threads": threads}
    if chosen == "openvino":
        options["precision"] = precision
    stages = _load_exported(model, chosen, options)
    log.info("runtime: %s, model: %s", chosen, model)
    return stages


def choose_runtime(
    path: str | os.PathLike[str] | None, runtime: Runtime = "auto", device: str = "auto"
) -> tuple[Path, Literal["torch", "onnx", "openvino"]]:
    """The model and the library that runs it, where the user left that open.

    ``auto`` runs a folder in ONNX Runtime, and a file in torch if that computes on a GPU. On the
    CPU it prefers the same cascade's export, which starts and computes faster: that is the folder
    ``NAME_onnx`` beside ``NAME.safetensors``; see :func:`stand_in`.

    Raises:
        ConfigError: the runtime is unknown or does not run this kind of model.
        ModelFileError: no path was given and there is no default cascade.
        MissingExtraError: the model needs torch, which is not installed.
    """
    if runtime not in get_args(Runtime):
        raise ConfigError(f"runtime {runtime!r} is unknown; choose {', '.join(get_args(Runtime))}")
    path = _default(runtime) if path is None else model_path(path)
    if runtime in ("onnx", "openvino"):
        return path, runtime
    exported = is_exported(path) or path.is_dir()
    if exported and runtime == "torch":
        raise ConfigError(
            f"{path}: is an exported cascade, which torch does not run; use the runtime onnx, or "
            "name the .safetensors file"
        )
    if exported:
        return path, "onnx"
    if runtime == "auto" and _installed("onnxruntime") and not torch_uses_gpu(device):
        folder = stand_in(path)
        if folder is not None:
            return folder, "onnx"
    if not _installed("torch"):
        raise MissingExtraError(
            f"{path}: needs torch, which is not installed; where it is, write the cascade as ONNX "
            "(cascade export --model FILE --output FOLDER) and name that folder here"
        )
    return path, "torch"


def _installed(library: str) -> bool:
    return importlib.util.find_spec(library) is not None


def _default(runtime: Runtime) -> Path:
    """The cascade that comes with the library, as a file unless there is only its export."""
    if runtime in ("onnx", "openvino"):
        return default_export()
    only_exported = not default_model().is_file() and is_exported(default_export())
    return default_export() if only_exported and runtime == "auto" else required_default_model()


def stand_in(path: Path) -> Path | None:
    """The export beside a cascade's file, if it does all that the file does.

    That is a folder ``NAME_onnx`` with the same tensors and the same settings, not quantised, and
    with activation maps for explanations.

    Raises:
        ModelFileError: there is such a folder, and the file cannot be read.
    """
    folder = path.with_name(f"{path.stem}_onnx")
    if not is_exported(folder):
        return None
    model = read_document(path)
    try:
        export = read_exported(folder).document
        graphs = export["graphs"]
        whole = all(graphs[stage]["precision"] == "float32" for stage in STAGES)
        explained = ACTIVATION_MAPS in graphs["classifier"]["outputs"]
    except (ModelFileError, KeyError, TypeError) as error:
        log.info("%s is not used: %s", folder, error)
        return None
    same = export["tensors_sha256"] == model["tensors_sha256"] and all(
        export["stages"][stage] == model["stages"].get(stage) for stage in STAGES
    )
    return folder if same and whole and explained and _same_safeguards(path, folder) else None


def _same_safeguards(path: Path, folder: Path) -> bool:
    """Whether both have the same settings of the safeguards, in words of this or earlier versions.

    Their arrays are among the tensors, whose digests were compared.
    """
    file, export = read_document(path), read_exported(folder)
    if file["stages"].get(NAME) == export.document["stages"].get(NAME):
        return True
    described = (
        read_safeguards(artifact, source=str(source)).describe()
        for artifact, source in ((read_artifact(path), path), (export.artifact, folder))
    )
    return next(described) == next(described)


def model_identity(path: str | os.PathLike[str]) -> str:
    """SHA-256 over a model's tensors; the same for a file and for what was exported from it.

    Raises:
        ModelFileError: the model is missing or damaged.
    """
    return str(model_document(path)["tensors_sha256"])


def model_document(path: str | os.PathLike[str]) -> Mapping[str, Any]:
    """What a model says of itself: settings, provenance, digests; its tensors are not loaded.

    Raises:
        ModelFileError: the model is missing or damaged.
    """
    return read_exported(path).document if is_exported(path) else read_document(path)


def _load_torch(path: Path, device: str, precision: Precision) -> LoadedStages:
    from cascade.models.ensemble import load_classifier
    from cascade.models.network import computes_in_bfloat16
    from cascade.models.segmenter import Segmenter

    artifact = read_artifact(path, needs=STAGES)
    segmenter = Segmenter.from_artifact(artifact, device=device, source=str(path))
    classifier = load_classifier(artifact, device=device, source=str(path))
    if precision == "bfloat16" and not computes_in_bfloat16(segmenter.device):
        raise ConfigError(f"{segmenter.device} does not compute in bfloat16; use float32")
    segmenter.precision = classifier.precision = precision
    return LoadedStages(segmenter, classifier, read_safeguards(artifact, source=str(path)))


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
