"""How far one cascade's answers are from another's: an exported one from the one in torch."""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

import numpy as np

from cascade.errors import CascadeError, DataError, ExportError
from cascade.imaging import ImageSource, LoadedImage, read_image
from cascade.lesion.masking import MaskedCrop
from cascade.pipeline import Cascade, Failure, Prediction
from cascade.pipeline.stages import classify_with_shares

log = logging.getLogger(__name__)

_TOGETHER = 4
"""Images that pass the networks together; the last batch is smaller, so both sizes are tried."""


@dataclass(frozen=True)
class Differences:
    """Largest differences over a set of images, but for the means and shares.

    Attributes:
        images: how many were compared.
        map_difference: of the lesion's probability, over all pixels of the segmenter's map.
        mask_pixels: share of these pixels that are on the other side of the threshold.
        mean_mask_iou: of the masks in original pixels; two empty ones agree.
        lowest_mask_iou: the same of the worst image.
        classifier_difference: of the probability of malignant, both judging the same crop.
        cascade_difference: the same from image to answer, each with the crop of its own mask.
        diagnosis_difference: of the probability of any diagnosis, both judging the same crop; 0
            where there are none.
        changed_labels: images with another label.
        out_of_distribution_difference: as a share of the value; ``None`` where there is
            no score.
    """

    images: int
    map_difference: float
    mask_pixels: float
    mean_mask_iou: float
    lowest_mask_iou: float
    classifier_difference: float
    cascade_difference: float
    diagnosis_difference: float
    changed_labels: int
    out_of_distribution_difference: float | None


@dataclass(frozen=True)
class Limits:
    """What is allowed; ``None`` is not looked at. See :class:`Differences` for the names."""

    map_difference: float | None = None
    mask_pixels: float | None = None
    mean_mask_iou: float | None = None
    classifier_difference: float | None = None
    cascade_difference: float | None = None
    diagnosis_difference: float | None = None
    out_of_distribution_difference: float | None = None

    def to_dict(self) -> dict[str, float]:
        """The limits that there are, as plain JSON values."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def breaches(self, found: Differences) -> list[str]:
        """What is beyond a limit, in words; nothing where all is well."""
        broken = []
        for name, limit in self.to_dict().items():
            value = getattr(found, name)
            if value is None:
                continue
            within = value >= limit if name == "mean_mask_iou" else value <= limit
            if not within:  # not-a-number is never within
                broken.append(f"{name.replace('_', ' ')} is {value:.3g}, allowed is {limit:g}")
        return broken


EXACT = Limits(
    map_difference=1e-4,
    mask_pixels=1e-4,
    classifier_difference=1e-4,
    diagnosis_difference=1e-4,
    out_of_distribution_difference=1e-3,
)
"""What rounding may cost a graph that computes in float32."""
INT8_DIFFERENCE = 0.01
"""What 8-bit integers may change the probability of any image by, unless more is allowed."""
INT8_MASK_IOU = 0.99
"""How alike the masks must be on average."""

_NOISE_IMAGES = 6


def check_float32(
    original: Cascade, exported: Cascade, images: Sequence[ImageSource]
) -> dict[str, Any]:
    """Compare an exported cascade with the one in torch, on noise and on images.

    Returns:
        The report of ``parity.json``.

    Raises:
        ExportError: a difference is more than rounding.
    """
    report: dict[str, Any] = {
        "reference": f"torch {version('torch')}",
        "runtime": f"onnxruntime {version('onnxruntime')}",
        "limits": EXACT.to_dict(),
    }
    invented = noise(original.segmenter.size, _NOISE_IMAGES)
    report["noise"] = _checked(compare(original, exported, invented), EXACT, "on noise")
    if images:
        found = compare(original, exported, images)
        report["images"] = _checked(found, EXACT, "on the images")
    return report


def check_int8(
    exported: Cascade,
    quantized: Cascade,
    images: Sequence[ImageSource],
    *,
    difference: float = INT8_DIFFERENCE,
) -> dict[str, Any]:
    """Compare a cascade with 8-bit stages with the exported one in float32, on images.

    ``images`` were not used to quantize; ``difference`` is the largest change of a probability that
    is allowed, from image to answer.

    Returns:
        The report of ``parity.json``.

    Raises:
        ExportError: the masks or the answers lose too much.
    """
    limits = Limits(mean_mask_iou=INT8_MASK_IOU, cascade_difference=difference)
    found = compare(exported, quantized, images)
    return {
        "reference": "the graphs in float32",
        "runtime": f"onnxruntime {version('onnxruntime')}",
        "limits": limits.to_dict(),
        "images": _checked(found, limits, "in 8-bit integers"),
    }


def _checked(found: Differences, limits: Limits, where: str) -> dict[str, Any]:
    breaches = limits.breaches(found)
    if breaches:
        raise ExportError(f"the exported graphs answer otherwise {where}: {'; '.join(breaches)}")
    return asdict(found)


def noise(size: int, count: int, *, seed: int = 0) -> Iterator[np.ndarray]:
    """Images ``(size, size, 3)`` uint8 without any meaning."""
    generator = np.random.default_rng(seed)
    for _ in range(count):
        yield generator.integers(0, 256, (size, size, 3), dtype=np.uint8)


def compare(reference: Cascade, candidate: Cascade, images: Iterable[ImageSource]) -> Differences:
    """Let two cascades judge the same images.

    Images that cannot be read, and those that neither cascade can judge, are left out.

    Raises:
        DataError: no image is left.
        CascadeError: only one of the two could judge an image.
    """
    rows: list[tuple[float, ...]] = []
    iterator = iter(images)
    while chunk := list(itertools.islice(iterator, _TOGETHER)):
        loaded = [image for source in chunk if (image := _read(source, reference)) is not None]
        both = (each.predict_iter(loaded, batch_size=_TOGETHER) for each in (reference, candidate))
        for expected, got in zip(*both, strict=True):
            if isinstance(expected, Prediction) and isinstance(got, Prediction):
                rows.append(_row(reference, candidate, expected, got))
            elif not (isinstance(expected, Failure) and isinstance(got, Failure)):
                raise expected.error if isinstance(expected, Failure) else got.error
    if not rows:
        raise DataError("none of the images to compare with could be judged")
    columns = np.array(rows).T
    largest, mean, out_of_distribution_score = columns.max(axis=1), columns.mean(axis=1), columns[7]
    return Differences(
        images=len(rows),
        map_difference=float(largest[0]),
        mask_pixels=float(mean[1]),
        mean_mask_iou=float(mean[2]),
        lowest_mask_iou=float(columns[2].min()),
        classifier_difference=float(largest[3]),
        cascade_difference=float(largest[4]),
        diagnosis_difference=float(largest[5]),
        changed_labels=int(columns[6].sum()),
        out_of_distribution_difference=(
            None
            if reference.safeguards.out_of_distribution is None
            else float(out_of_distribution_score.max())
        ),
    )


def _read(source: ImageSource, cascade: Cascade) -> LoadedImage | None:
    try:
        return read_image(source, limits=cascade.limits)
    except CascadeError as error:
        log.warning("not compared: %s", error)
        return None


def _row(
    reference: Cascade, candidate: Cascade, expected: Prediction, got: Prediction
) -> tuple[float, ...]:
    """One image's differences, in the order in which :func:`compare` reads them."""
    maps = (expected.mask_probability, got.mask_probability)
    threshold = reference.policy.threshold
    moved = (maps[0] >= threshold) != (maps[1] >= threshold)
    union = np.count_nonzero(expected.mask | got.mask)
    shared = np.count_nonzero(expected.mask & got.mask)
    crops = [MaskedCrop(expected.crop, expected.crop_box)]
    judged = [classify_with_shares(cascade.classifier, crops) for cascade in (reference, candidate)]
    chances = [float(classes[0, 1]) for classes, _ in judged]
    answers = [item.probabilities.get("malignant", 0.0) for item in (expected, got)]
    return (
        float(np.abs(maps[0] - maps[1]).max()),
        float(moved.mean()),
        shared / union if union else 1.0,
        abs(chances[0] - chances[1]),
        abs(answers[0] - answers[1]),
        _of_diagnoses(reference, judged),
        float(expected.label != got.label),
        _relative(expected.out_of_distribution_score, got.out_of_distribution_score),
    )


def _of_diagnoses(reference: Cascade, judged: Sequence[tuple[np.ndarray, np.ndarray]]) -> float:
    if reference.diagnoses is None:
        return 0.0
    first, second = (reference.diagnoses.probabilities(*one) for one in judged)
    return float(np.abs(first - second).max())


def _relative(expected: float | None, got: float | None) -> float:
    if expected is None or got is None:
        return 0.0 if expected is got else math.inf
    return 0.0 if expected == got else abs(expected - got) / abs(expected)
