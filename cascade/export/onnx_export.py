"""From a cascade in torch to a folder of ONNX graphs that were checked against it."""

from __future__ import annotations

import copy
import importlib.util
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from cascade.errors import ConfigError, MissingExtraError
from cascade.export.parity import INT8_DIFFERENCE, check_float32, check_int8
from cascade.files import atomic_folder
from cascade.imaging import ImageSource
from cascade.models.artifact import tensors_digest
from cascade.models.exported import FILES, STAGES, is_exported, write_exported
from cascade.models.protocol import ClassifierStage, SegmenterStage
from cascade.models.runtimes import model_identity
from cascade.pipeline import Cascade

if TYPE_CHECKING:
    import onnx

Int8 = Literal["none", "segmenter", "classifier", "both", "classifier_weights"]

_LIBRARIES = ("onnx", "onnxscript", "onnxruntime")


def export_onnx(
    cascade: Cascade | str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    images: Sequence[ImageSource] = (),
    int8: Int8 = "none",
    int8_difference: float = INT8_DIFFERENCE,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Write both stages as ONNX graphs into a folder that :meth:`Cascade.load` reads.

    The graphs take uint8 RGB and give probabilities: normalisation, temperature and bias are in
    them. They are compared with the torch networks before anything is written.

    Args:
        cascade: a cascade of torch networks, or its file.
        output: the folder to write.
        images: images to compare the answers on, besides noise.
        int8: stages to compute in 8-bit integers. Every other image then sets the ranges of
            the numbers, and the rest tells whether the answers are still good enough. With
            ``classifier_weights`` those are stored in 8 bits, and computed with in float32.
        int8_difference: largest change of an image's probability that int8 may make.
        overwrite: replace an exported cascade that is there already.

    Returns:
        What is written to ``parity.json``.

    Raises:
        ConfigError: the folder holds something else, or a network cannot be exported.
        DataError: too few images for int8.
        ExportError: a graph does not give the same answers; nothing is written.
        MissingExtraError: the extra ``export`` is not installed.
    """
    _check_installed()
    _check_target(Path(output), overwrite=overwrite)
    _check_choice(int8)
    if not 0 <= int8_difference <= 1:
        raise ConfigError(
            f"int8_difference is {int8_difference}; a probability can change by 0 to 1"
        )

    from cascade.export.graphs import classifier_graph, describe_graph, segmenter_graph, serialized
    from cascade.export.quantization import split_images

    calibration, compared = ((), images) if int8 == "none" else split_images(images)
    if isinstance(cascade, Cascade):
        identity = tensors_digest(cascade.to_artifact().tensors)
    else:
        identity = model_identity(cascade)
        cascade = Cascade.load(cascade, device="cpu", runtime="torch")
    original = _on_cpu(cascade)
    models = {
        "segmenter": segmenter_graph(original.segmenter),  # type: ignore[arg-type]
        "classifier": classifier_graph(original.classifier),  # type: ignore[arg-type]
    }
    exported = _with_graphs(original, models)
    parity = {"float32": check_float32(original, exported, images)}
    if int8 != "none":
        models |= _in_8_bits(int8, exported, models, calibration)
        smaller = _with_graphs(original, models)
        parity["int8"] = check_int8(exported, smaller, compared, difference=int8_difference)
    with atomic_folder(output) as folder:
        write_exported(
            folder,
            original.to_artifact(),
            {stage: serialized(model) for stage, model in models.items()},
            safeguards=original.safeguards,
            facts={
                "tensors_sha256": identity,
                "graphs": {stage: describe_graph(model) for stage, model in models.items()},
                "parity": parity,
            },
        )
        Cascade.load(folder, runtime="onnx", device="cpu")
    return parity


def _on_cpu(cascade: Cascade) -> Cascade:
    """A copy whose networks are on the CPU; a GPU may round too coarsely to compare with."""
    networks: tuple[Any, Any] = (cascade.segmenter, cascade.classifier)
    segmenter, classifier = (copy.deepcopy(network).cpu().eval() for network in networks)
    return _with_stages(cascade, segmenter, classifier)


def _with_graphs(cascade: Cascade, models: Mapping[str, onnx.ModelProto]) -> Cascade:
    """The same cascade, computed from ONNX graphs."""
    from cascade.export.graphs import serialized
    from cascade.models.onnx_runtime import OnnxClassifier, OnnxSegmenter
    from cascade.models.onnx_session import OnnxSession

    segmenter, classifier = (
        OnnxSession(serialized(models[stage]), device="cpu", source=stage) for stage in STAGES
    )
    return _with_stages(
        cascade,
        OnnxSegmenter(segmenter, cascade.segmenter.describe()),
        OnnxClassifier(classifier, cascade.classifier.describe()),
    )


def _with_stages(
    cascade: Cascade, segmenter: SegmenterStage, classifier: ClassifierStage
) -> Cascade:
    return Cascade(
        segmenter,
        classifier,
        cutoff=cascade.cutoff,
        coverage=cascade.coverage,
        safeguards=cascade.safeguards,
        limits=cascade.limits,
    )


def _check_choice(int8: Int8) -> None:
    if int8 not in get_args(Int8):
        raise ConfigError(f"int8 is {int8!r}; choose from {', '.join(get_args(Int8))}")


def _in_8_bits(
    int8: Int8,
    exported: Cascade,
    models: Mapping[str, onnx.ModelProto],
    images: Sequence[ImageSource],
) -> dict[str, onnx.ModelProto]:
    from cascade.export.quantization import calibration_inputs, quantized, with_8_bit_weights

    if int8 == "classifier_weights":
        return {"classifier": with_8_bit_weights(models["classifier"])}
    inputs = calibration_inputs(exported, images)
    stages = STAGES if int8 == "both" else (int8,)
    return {stage: quantized(models[stage], inputs[stage]) for stage in stages}


def _check_installed() -> None:
    missing = [name for name in _LIBRARIES if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingExtraError(
            f"export needs {' and '.join(missing)}: pip install '.[export]' (or 'cascade[export]')"
        )


def _check_target(output: Path, *, overwrite: bool) -> None:
    if not output.exists():
        return
    if not output.is_dir():
        raise ConfigError(f"{output}: is a file; name a folder to write")
    foreign = sorted({path.name for path in output.iterdir()} - FILES)
    if foreign:
        raise ConfigError(f"{output}: holds other files, such as {foreign[0]}; name another folder")
    if is_exported(output) and not overwrite:
        raise ConfigError(
            f"{output}: holds an exported cascade; replace it (--overwrite) or name another folder"
        )
