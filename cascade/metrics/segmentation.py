"""How well masks agree, from pixel counts at the original image size.

Every score of an image is kept, zeros too. The averages have different names because they are
different quantities: see :func:`segmentation_metrics`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cascade.errors import DataError, ShapeError
from cascade.metrics.intervals import RESAMPLES, percentile_interval, plan_resampling

IOU_LIMIT = 0.65
"""Below this an image counts as zero in the thresholded IoU (ISIC 2018)."""


@dataclass(frozen=True)
class PixelCounts:
    """How many pixels of one image the truth and the mask agree and disagree on."""

    true_positive: int
    false_positive: int
    false_negative: int
    true_negative: int


def count_pixels(truth: np.ndarray, mask: np.ndarray) -> PixelCounts:
    """Compare a mask with the truth.

    Args:
        truth: ``(H, W)`` bool, the lesion as marked by a human.
        mask: ``(H, W)`` bool, the lesion as predicted, at the truth's size.

    Raises:
        ShapeError: an array is not ``(H, W)`` bool, or the sizes differ.
    """
    for name, array in (("truth", truth), ("mask", mask)):
        if array.ndim != 2 or array.dtype != np.bool_:
            raise ShapeError(
                f"{name} is {array.shape} {array.dtype}; compare it with a threshold first",
                expected="(H, W) bool",
                actual=array.shape,
            )
    if truth.shape != mask.shape:
        raise ShapeError(
            f"mask is {mask.shape}, truth is {truth.shape}; scale the mask to the original size",
            expected=truth.shape,
            actual=mask.shape,
        )
    both = int(np.count_nonzero(truth & mask))
    false_positive = int(np.count_nonzero(mask)) - both
    false_negative = int(np.count_nonzero(truth)) - both
    return PixelCounts(
        both, false_positive, false_negative, truth.size - both - false_positive - false_negative
    )


def iou(counts: PixelCounts) -> float:
    """Intersection over union (Jaccard index) of the lesion; 1 if truth and mask are empty."""
    union = counts.true_positive + counts.false_positive + counts.false_negative
    return counts.true_positive / union if union else 1.0


def thresholded_iou(counts: PixelCounts, limit: float = IOU_LIMIT) -> float:
    """The IoU where it is at least ``limit``, else 0."""
    value = iou(counts)
    return value if value >= limit else 0.0


def dice(counts: PixelCounts) -> float:
    """Dice coefficient of the lesion; 1 if truth and mask are empty."""
    total = 2 * counts.true_positive + counts.false_positive + counts.false_negative
    return 2 * counts.true_positive / total if total else 1.0


def sensitivity(counts: PixelCounts) -> float:
    """Share of the lesion's pixels that the mask covers; 1 if there is no lesion."""
    positives = counts.true_positive + counts.false_negative
    return counts.true_positive / positives if positives else 1.0


def specificity(counts: PixelCounts) -> float:
    """Share of the skin's pixels that the mask leaves out; 1 if there is no skin."""
    negatives = counts.true_negative + counts.false_positive
    return counts.true_negative / negatives if negatives else 1.0


def accuracy(counts: PixelCounts) -> float:
    """Share of all pixels on which truth and mask agree; 1 without any pixel."""
    agreed = counts.true_positive + counts.true_negative
    total = agreed + counts.false_positive + counts.false_negative
    return agreed / total if total else 1.0


_IMAGE_METRICS: dict[str, Callable[[PixelCounts], float]] = {
    "mean_iou": iou, "mean_thresholded_iou": thresholded_iou, "dice": dice,
    "sensitivity": sensitivity, "specificity": specificity, "accuracy": accuracy,
}  # fmt: skip


def segmentation_metrics(
    counts: Sequence[PixelCounts],
    *,
    groups: Sequence[str | None] | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> dict[str, Any]:
    """Summarise a set of images.

    ``counts`` has one entry an image, none left out; ``groups`` are the patient, else lesion, of
    each image, for the intervals.

    Returns:
        ``n`` images in ``n_groups`` groups; means over images ``mean_iou``,
        ``mean_thresholded_iou``, ``dice``, ``sensitivity``, ``specificity`` and ``accuracy``; from
        the pixels of all images together ``pooled_iou`` (of the lesion) and ``two_class_iou``
        (mean of the lesion's and the skin's pooled IoU); ``missed``, the number of images with
        IoU 0; ``both_empty``, the number of images without lesion in truth and mask; and 95 %
        ``intervals`` of the metrics, null with fewer than two groups.

    Raises:
        DataError: there are no images.
    """
    if not counts:
        raise DataError("no images to score; give at least one truth and mask")
    plan = plan_resampling(len(counts), groups=groups, seed=seed, resamples=resamples)
    table = _Table.of(counts)
    whole = {name: float(v[0]) for name, v in table.summarise(np.ones((1, len(counts)))).items()}
    blocks = [table.summarise(block) for block in plan.weights()]
    intervals = {
        name: percentile_interval(np.concatenate([block[name] for block in blocks]))
        if plan.smallest_stratum > 1
        else None
        for name in whole
    }
    return {
        "n": len(counts),
        "n_groups": plan.group_count,
        **whole,
        "missed": sum(iou(item) == 0.0 for item in counts),
        "both_empty": sum(
            item.true_positive + item.false_positive + item.false_negative == 0 for item in counts
        ),
        "intervals": intervals,
    }


@dataclass(frozen=True)
class _Table:
    """Per-image scores ``(N, M)`` and pixel counts ``(N, 4)`` in the order of the dataclass."""

    scores: np.ndarray
    pixels: np.ndarray

    @classmethod
    def of(cls, counts: Sequence[PixelCounts]) -> _Table:
        scores = [[metric(item) for metric in _IMAGE_METRICS.values()] for item in counts]
        pixels = [
            [item.true_positive, item.false_positive, item.false_negative, item.true_negative]
            for item in counts
        ]
        return cls(np.array(scores), np.array(pixels, np.float64))

    def summarise(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        """Each summary for each row of ``(B, N)`` weights."""
        means = (weights @ self.scores) / weights.sum(axis=1, keepdims=True)
        values = {name: means[:, column] for column, name in enumerate(_IMAGE_METRICS)}
        both, excess, lacking, neither = (weights @ self.pixels).T
        lesion = _share(both, both + excess + lacking)
        skin = _share(neither, neither + excess + lacking)
        return {**values, "pooled_iou": lesion, "two_class_iou": (lesion + skin) / 2}


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """``part / whole``, and 1 where there is nothing to agree on."""
    return np.divide(part, whole, out=np.ones_like(part), where=whole > 0)
