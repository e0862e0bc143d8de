"""ROC and precision-recall curves and reliability bins, for many weightings at once.

``weights`` is ``(B, N)``: one row an evaluation, one column an image. Row sums of a bootstrap
resample are its number of images; a row of ones is the plain metric. Images with the same score
share one point of a curve, so the order within ties never matters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cascade.metrics.intervals import RESAMPLES, plan_resampling

BINS = 15
"""Equal-width bins of the reliability diagram and of the expected calibration error."""


@dataclass(frozen=True)
class RocCurve:
    """Points of a ROC curve from (0, 0) to (1, 1), by falling cutoff.

    Arrays are ``(K,)``, rates in [0, 1]; an image is positive from its cutoff on. The first cutoff
    is infinite.
    """

    false_positive_rate: np.ndarray
    true_positive_rate: np.ndarray
    cutoffs: np.ndarray


@dataclass(frozen=True)
class RocBand:
    """Pointwise 95 % band of a ROC curve: true positive rates over a ``(K,)`` grid in [0, 1]."""

    false_positive_rate: np.ndarray
    low: np.ndarray
    high: np.ndarray


@dataclass(frozen=True)
class PrecisionRecallCurve:
    """Points of a precision-recall curve by falling cutoff, without the artificial point at 0.

    Arrays are ``(K,)``, recall rises to 1; ``prevalence`` is the precision of chance.
    """

    recall: np.ndarray
    precision: np.ndarray
    cutoffs: np.ndarray
    prevalence: float


@dataclass(frozen=True)
class ReliabilityBins:
    """Images by their probability of malignant; empty bins hold NaN.

    ``edges`` ``(K + 1,)`` go from 0 to 1; a bin includes its lower edge, the last its upper too.
    The other arrays are ``(K,)``.
    """

    edges: np.ndarray
    counts: np.ndarray
    mean_probability: np.ndarray
    frequency: np.ndarray


@dataclass(frozen=True)
class CutoffCounts:
    """Weighted positives at or above each cutoff; row b, column 0 stands for "nothing is".

    ``true_positives`` and ``false_positives`` are ``(B, K + 1)``; ``cutoffs`` ``(K,)`` are the
    distinct scores, falling.
    """

    true_positives: np.ndarray
    false_positives: np.ndarray
    cutoffs: np.ndarray

    def rates(self) -> tuple[np.ndarray, np.ndarray]:
        """False and true positive rates, ``(B, K + 1)`` each; NaN where a class is missing."""
        return (
            divide(self.false_positives, self.false_positives[:, -1:]),
            divide(self.true_positives, self.true_positives[:, -1:]),
        )


def divide(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """``part / whole``, NaN where ``whole`` is 0."""
    part, whole = np.broadcast_arrays(part, whole)
    return np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)


def count_by_cutoff(
    labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray
) -> CutoffCounts:
    """Count the positives at or above each distinct of ``(N,)`` scores, with ``(B, N)`` weights."""
    order = np.argsort(-probabilities, kind="stable")
    ranked = probabilities[order]
    starts = np.flatnonzero(np.r_[True, ranked[1:] != ranked[:-1]])
    sorted_weights = weights[:, order]
    total = _running_sums(sorted_weights, starts)
    positive = _running_sums(sorted_weights * labels[order], starts)
    return CutoffCounts(positive, total - positive, ranked[starts])


def _running_sums(weights: np.ndarray, starts: np.ndarray) -> np.ndarray:
    sums = np.zeros((weights.shape[0], starts.size + 1))
    np.cumsum(np.add.reduceat(weights, starts, axis=1), axis=1, out=sums[:, 1:])
    return sums


def area_under_roc(
    counts: CutoffCounts, *, sensitivity: float = 0.0, floor: float = 0.0
) -> np.ndarray:
    """Area between a ROC curve and the line at height ``floor``, by the trapezoid rule.

    ``sensitivity`` starts the area where the curve first reaches this rate (interpolated).

    Returns:
        ``(B,)``; NaN where a class is missing.
    """
    across, up = counts.rates()
    left, right, lower, upper = across[:, :-1], across[:, 1:], up[:, :-1], up[:, 1:]
    skipped = np.clip(divide(sensitivity - lower, upper - lower), 0.0, 1.0)
    flat = upper == lower
    skipped = np.where(flat, np.where(lower >= sensitivity, 0.0, 1.0), skipped)
    start_across = left + skipped * (right - left)
    start_up = lower + skipped * (upper - lower)
    return ((right - start_across) * ((upper + start_up) / 2 - floor)).sum(axis=1)


def average_precision_of(counts: CutoffCounts) -> np.ndarray:
    """Sum of precision times gain in recall, ``(B,)``; NaN without positives."""
    _, recall = counts.rates()
    selected = counts.true_positives + counts.false_positives
    precision = np.nan_to_num(divide(counts.true_positives, selected), nan=0.0)
    return (np.diff(recall, axis=1) * precision[:, 1:]).sum(axis=1)


def roc_curve_points(labels: np.ndarray, probabilities: np.ndarray) -> RocCurve:
    """The ROC curve of ``(N,)`` labels and scores; a rate is NaN where its class is missing."""
    counts = count_by_cutoff(*_arrays(labels, probabilities), np.ones((1, len(labels))))
    across, up = counts.rates()
    return RocCurve(across[0], up[0], np.r_[np.inf, counts.cutoffs])


def roc_band(
    labels: np.ndarray,
    probabilities: np.ndarray,
    *,
    groups: Sequence[str | None] | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> RocBand:
    """Pointwise 95 % band of the ROC curve, by the same bootstrap as the intervals.

    Both classes must be present.
    """
    labels, probabilities = _arrays(labels, probabilities)
    plan = plan_resampling(
        labels.size, groups=groups, strata=labels, seed=seed, resamples=resamples
    )
    grid = np.linspace(0.0, 1.0, 101)
    heights = [
        np.interp(grid, across, up)
        for block in plan.weights()
        for across, up in zip(*count_by_cutoff(labels, probabilities, block).rates(), strict=True)
        if np.isfinite(across[-1]) and np.isfinite(up[-1])
    ]
    low, high = np.percentile(np.array(heights), [2.5, 97.5], axis=0)
    return RocBand(grid, low, high)


def precision_recall_points(labels: np.ndarray, probabilities: np.ndarray) -> PrecisionRecallCurve:
    """The precision-recall curve of ``(N,)`` labels and scores; recall is NaN without positives."""
    labels, probabilities = _arrays(labels, probabilities)
    counts = count_by_cutoff(labels, probabilities, np.ones((1, labels.size)))
    _, recall = counts.rates()
    precision = divide(counts.true_positives, counts.true_positives + counts.false_positives)
    return PrecisionRecallCurve(
        recall[0, 1:], precision[0, 1:], counts.cutoffs, float(labels.mean())
    )


def reliability_bins(
    labels: np.ndarray, probabilities: np.ndarray, bins: int = BINS
) -> ReliabilityBins:
    """Sort images into equal-width bins of their probability and compare with the truth."""
    labels, probabilities = _arrays(labels, probabilities)
    numbers = bin_numbers(probabilities, bins)
    counts = np.bincount(numbers, minlength=bins)
    return ReliabilityBins(
        np.linspace(0.0, 1.0, bins + 1),
        counts,
        divide(np.bincount(numbers, probabilities, minlength=bins), counts),
        divide(np.bincount(numbers, labels, minlength=bins), counts),
    )


def bin_numbers(probabilities: np.ndarray, bins: int = BINS) -> np.ndarray:
    """The bin of each ``(N,)`` probability, 0 to ``bins - 1``."""
    edges = np.linspace(0.0, 1.0, bins + 1)
    return np.clip(np.searchsorted(edges, probabilities, side="right") - 1, 0, bins - 1)


def calibration_error_of(
    labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray, bins: int = BINS
) -> np.ndarray:
    """Expected calibration error of the probability of malignant, ``(B,)``.

    Mean over images of the distance between their bin's mean probability and its share of
    malignant images.
    """
    member = bin_numbers(probabilities, bins)[:, None] == np.arange(bins)
    excess = weights @ (member * (probabilities - labels)[:, None])
    return np.abs(excess).sum(axis=1) / weights.sum(axis=1)


def _arrays(labels: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.asarray(labels, np.int64), np.asarray(probabilities, np.float64)
