"""From an image file and its prediction to two encoded DICOM objects."""

from __future__ import annotations

import importlib.util
import io
from pathlib import Path
from typing import Any

from cascade.errors import ImageError, MissingExtraError
from cascade.imaging.codecs.dicom import quietly, read_instance
from cascade.imaging.formats import HEAD_BYTES, identify
from cascade.pipeline.dicom_results.model_identity import ModelIdentity
from cascade.pipeline.prediction import Prediction


def require_highdicom() -> None:
    """Ask for the extra before any work is done.

    Raises:
        MissingExtraError: highdicom is not installed.
    """
    if importlib.util.find_spec("highdicom") is None:
        raise MissingExtraError(
            "--save_dicom needs highdicom, which is not installed: pip install '.[dicom,highdicom]'"
        )


def encode_results(
    path: Path, prediction: Prediction, model: ModelIdentity
) -> tuple[bytes | None, bytes]:
    """The encoded segmentation and report of a DICOM file.

    Args:
        path: the image.
        prediction: of this image.
        model: that made the prediction.

    Returns:
        The segmentation, which there is none of without a lesion, and the report.

    Raises:
        ImageError: the file is no DICOM file, or lacks what results have to refer to.
    """
    from cascade.pipeline.dicom_results.report import measurement_report
    from cascade.pipeline.dicom_results.segmentation import lesion_segmentation

    try:
        data = path.read_bytes()
    except OSError as error:
        raise ImageError(f"{path.name}: cannot be read ({error.strerror or error})") from error
    if identify(data[:HEAD_BYTES], path.name) != "dicom":
        raise ImageError(f"{path.name}: is not a DICOM file")
    source = read_instance(data, path.name)
    with quietly(path.name, "has data of patient or study that cannot be taken over"):
        segmentation = None
        if prediction.mask.any():
            segmentation = lesion_segmentation(source, prediction.stored_mask, model)
        report = measurement_report(source, prediction, segmentation, model)
        encoded = None if segmentation is None else _encoded(segmentation)
        return encoded, _encoded(report)


def _encoded(dataset: Any) -> bytes:
    buffer = io.BytesIO()
    dataset.save_as(buffer)
    return buffer.getvalue()
