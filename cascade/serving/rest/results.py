"""One image through the cascade, and the prediction in the words of the answer."""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from cascade.errors import CascadeError, ConfigError, MissingExtraError, ModelFileError
from cascade.evaluation.overlays import draw_outline
from cascade.explain import Explanation, explain, overlay_heat
from cascade.fields import to_json
from cascade.imaging import LoadedImage, encode_image, encode_mask, read_image
from cascade.pipeline import Cascade, Prediction
from cascade.pipeline.metadata import metadata_sentence
from cascade.pipeline.patients import contexts_of
from cascade.serving.rest.problems import HttpProblem
from cascade.serving.rest.schemas import (
    Answer,
    Context,
    Heat,
    ImageFailure,
    ImageResult,
    Images,
    OperatingPoint,
    Options,
)
from cascade.serving.rest.uploads import Upload
from cascade.serving.shared.judgement import reasons_not_to_judge
from cascade.serving.shared.uploads import NO_MEMORY, lacks_memory, predict_upload, reduced

TARGET = "malignant"
_LARGEST = 1e6
"""Stands for infinity, which JSON does not have."""


def judge(
    cascade: Cascade,
    upload: Upload,
    options: Options,
    *,
    index: int,
    sensitivity: float | None,
) -> ImageResult | ImageFailure:
    """Decode and predict one image.

    Args:
        cascade: with the cutoff to label by.
        upload: the image.
        options: what was asked for; ``tta`` is not ``None``.
        index: the image's place in the request.
        sensitivity: that the cutoff stands for.

    Raises:
        ModelFileError: the model gave no probabilities; that is not the image's fault.
        HttpProblem: 501, heat maps need packages that are not installed.
    """
    sent: dict[str, Any] = {"index": index, "name": upload.name, "sha256": upload.digest}
    try:
        drawing = not {"overlay", "heat_map"}.isdisjoint(options.include)
        image = read_image(upload.data, limits=cascade.limits) if drawing else upload.data
        prediction = predict_upload(
            cascade,
            image,
            tta=options.tta or "none",
            pixels_per_millimetre=options.pixels_per_millimetre,
            metadata=options.metadata,
        )
        drawn, heat = _images(cascade, image, prediction, options)
    except Exception as error:
        if lacks_memory(error):
            return ImageFailure(**sent, message=NO_MEMORY)
        if isinstance(error, CascadeError) and not isinstance(error, ModelFileError):
            return ImageFailure(**sent, message=str(error))
        raise
    return ImageResult(
        **sent,
        **_describe(cascade, prediction, sensitivity),
        heat=heat,
        images=drawn,
    )


def compare(results: Sequence[ImageResult | ImageFailure]) -> list[ImageResult | ImageFailure]:
    """The same results, each image with its context; equal files are one lesion.

    Args:
        results: of all images of one patient.
    """
    images = [result if isinstance(result, ImageResult) else None for result in results]
    contexts = contexts_of(images, [result.sha256 for result in results])
    return [
        result.model_copy(update={"patient": Context.model_validate(_finite(to_json(context)))})
        if isinstance(result, ImageResult)
        else result
        for result, context in zip(results, contexts, strict=True)
    ]


def _images(
    cascade: Cascade, image: bytes | LoadedImage, prediction: Prediction, options: Options
) -> tuple[Images, Heat | None]:
    """The drawings that were asked for; those on the image need its pixels."""
    drawn: dict[str, str] = {}
    heat: Heat | None = None
    if "mask" in options.include:
        drawn["mask"] = _base64(encode_mask(prediction.mask))
    if isinstance(image, bytes):
        return Images(**drawn), None
    small, fitted = reduced(image.pixels, prediction)
    if "overlay" in options.include:
        drawn["overlay"] = _base64(encode_image(draw_outline(small, fitted.mask)))
    if "heat_map" in options.include:
        explanation = _explanation(cascade, small, fitted, options)
        heat = Heat.model_validate(explanation, from_attributes=True)
        drawn["heat_map"] = _base64(encode_image(overlay_heat(small, explanation, fitted.mask)))
    return Images(**drawn), heat


def _explanation(
    cascade: Cascade, pixels: np.ndarray, prediction: Prediction, options: Options
) -> Explanation:
    try:
        return explain(cascade, pixels, prediction, target=TARGET, tta=options.tta or "none")
    except (ConfigError, MissingExtraError) as error:
        raise HttpProblem(501, f"heat maps are not available here: {error}") from error


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _describe(
    cascade: Cascade, prediction: Prediction, sensitivity: float | None
) -> dict[str, Any]:
    answer, message = _answer(cascade, prediction)
    return {
        "answer": answer,
        "message": message,
        "operating_point": OperatingPoint(cutoff=cascade.cutoff, sensitivity=sensitivity),
        **_finite(to_json(prediction)),
    }


def _finite(value: Any) -> Any:
    """The same values, with a large number for infinity, and ``None`` for what is no number."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, float) and math.isnan(value):
        return None
    return _LARGEST if value == math.inf else value


def _answer(cascade: Cascade, prediction: Prediction) -> tuple[Answer, str]:
    """The answer that may be shown alone, without the warnings beside it."""
    reasons = reasons_not_to_judge(prediction, uses_mask=cascade.policy.uses_mask)
    if reasons:
        return "cannot_judge", f"Cannot judge this image: {reasons[0]}."
    chance = f"probability of malignant {prediction.probabilities[TARGET]:.3f}"
    quality = prediction.image_quality
    caution = "".join(f" The image is {text}." for text in (quality.warnings if quality else ()))
    if known := metadata_sentence(prediction):
        caution = f" {known}{caution}"
    if len(prediction.prediction_set) > 1:
        return "undecided", (
            f"Undecided: {chance}; both classes remain possible at coverage {cascade.coverage:g}."
            f"{caution}"
        )
    side = "at or above" if prediction.label == TARGET else "below"
    label: Answer = "malignant" if prediction.label == TARGET else "benign"
    return (
        label,
        f"{label.capitalize()}: {chance}, {side} the cutoff {cascade.cutoff:.3f}.{caution}",
    )
