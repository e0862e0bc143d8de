"""Bootstrap intervals over groups, so that ten images of one lesion count as one case.

A metric that is resampled here is a function of weights: an image that a resample draws twice has
weight 2. All resamples of a block are then one matrix product instead of a thousand calls.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from cascade.errors import DataError

RESAMPLES = 1000
"""Number of bootstrap resamples unless told otherwise."""

WeightedMetric = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""``(labels (N,), scores (N,), weights (B, N)) -> (B,)``: one value for each row of weights."""

_BLOCK_CELLS = 1_000_000
_Z = 1.959963984540054


@dataclass(frozen=True)
class Resampling:
    """A seeded plan of bootstrap resamples.

    ``groups`` ``(N,)`` int is the group of each image, counted from 0; ``strata`` ``(G,)`` int the
    stratum of each group.
    """

    groups: np.ndarray
    strata: np.ndarray
    seed: int
    resamples: int

    @property
    def group_count(self) -> int:
        """Number of distinct groups."""
        return int(self.strata.size)

    @property
    def smallest_stratum(self) -> int:
        """Number of groups in the smallest stratum; with one alone an interval means nothing."""
        return int(np.bincount(self.strata)[np.unique(self.strata)].min())

    def weights(self) -> Iterator[np.ndarray]:
        """Yield blocks ``(B, N)`` of float64 weights, ``resamples`` rows in all.

        Each row draws as many groups from every stratum as it has, with replacement. The rows do
        not depend on how they are cut into blocks.
        """
        generator = np.random.default_rng(self.seed)
        order = np.argsort(self.strata, kind="stable")
        _, starts, sizes = np.unique(self.strata[order], return_index=True, return_counts=True)
        first, size = np.repeat(starts, sizes), np.repeat(sizes, sizes)
        count = self.group_count
        rows = max(1, _BLOCK_CELLS // max(1, self.groups.size))
        for done in range(0, self.resamples, rows):
            height = min(rows, self.resamples - done)
            drawn = first + (generator.random((height, count)) * size).astype(np.int64)
            cells = np.arange(height)[:, None] * count + order[drawn]
            times = np.bincount(cells.ravel(), minlength=height * count).reshape(height, count)
            yield times[:, self.groups].astype(np.float64)


def plan_resampling(
    count: int,
    *,
    groups: Sequence[str | None] | None = None,
    strata: np.ndarray | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Resampling:
    """Plan a bootstrap over groups, stratified by class.

    Args:
        count: number of images N.
        groups: the patient, else lesion, of each; an image without one (``None`` or empty text) is
            its own group.
        strata: ``(N,)`` int class of each image; a group belongs to its highest class, so a
            patient with one melanoma is a melanoma patient.
        seed: seed of the draws.
        resamples: number of draws, at least 1.

    Raises:
        DataError: there are no images, or the lengths differ.
    """
    if count < 1 or resamples < 1:
        raise DataError(f"a bootstrap needs images and resamples, got {count} and {resamples}")
    if groups is not None and len(groups) != count:
        raise DataError(f"{len(groups)} groups for {count} images; give one group an image")
    numbers = _group_numbers(count, groups)
    group_strata = np.zeros(numbers.max() + 1, np.int64)
    if strata is not None:
        np.maximum.at(group_strata, numbers, np.asarray(strata, np.int64))
    return Resampling(numbers, group_strata, seed, resamples)


def _group_numbers(count: int, groups: Sequence[str | None] | None) -> np.ndarray:
    if groups is None:
        return np.arange(count)
    keys = [
        (0, str(group)) if group not in (None, "") else (1, i) for i, group in enumerate(groups)
    ]
    numbers: dict[tuple[int, str | int], int] = {}
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys])


def percentile_interval(samples: np.ndarray) -> list[float] | None:
    """The 2.5 and 97.5 percentiles of resampled values; ``None`` if none of them is a number."""
    finite = samples[np.isfinite(samples)]
    if finite.size == 0:
        return None
    low, high = np.percentile(finite, [2.5, 97.5])
    return [float(low), float(high)]


def paired_difference(
    metric: WeightedMetric,
    labels: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    groups: Sequence[str | None] | None = None,
    seed: int = 0,
    *,
    resamples: int = RESAMPLES,
) -> tuple[float, float, float]:
    """Compare two systems on the same images: both see the same resamples.

    Args:
        metric: a weighted metric, such as :func:`cascade.metrics.classification.roc_auc`, or
            :func:`weighted_mean` for per-image values such as IoU.
        labels: ``(N,)`` int class of each image, also the stratum.
        first: ``(N,)`` scores of the one system.
        second: ``(N,)`` scores of the other.
        groups: patient, else lesion, of each image.
        seed: seed of the draws.
        resamples: number of draws.

    Returns:
        ``metric(first) - metric(second)`` on all images and its 95 % interval; an interval that
        includes 0 shows no difference.

    Raises:
        DataError: lengths differ, or the metric is undefined on these images.
    """
    labels, first, second = np.asarray(labels), np.asarray(first), np.asarray(second)
    if not labels.shape == first.shape == second.shape:
        raise DataError(
            f"paired scores differ in length: {labels.shape} labels, {first.shape} and "
            f"{second.shape} scores; give one of each an image"
        )
    plan = plan_resampling(
        labels.size, groups=groups, strata=labels, seed=seed, resamples=resamples
    )
    whole = np.ones((1, labels.size))
    difference = float(metric(labels, first, whole)[0] - metric(labels, second, whole)[0])
    samples = np.concatenate(
        [metric(labels, first, block) - metric(labels, second, block) for block in plan.weights()]
    )
    interval = percentile_interval(samples)
    if interval is None or not np.isfinite(difference):
        raise DataError("the metric is undefined on these images; both classes must be present")
    return difference, interval[0], interval[1]


def weighted_mean(labels: np.ndarray, values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Mean of ``(N,)`` values under each row of ``(B, N)`` weights; ``labels`` is not used."""
    del labels
    return (weights @ values) / weights.sum(axis=1)


def wilson_interval(successes: float, count: float) -> list[float]:
    """Wilson's 95 % interval of a share, which also holds for few cases and for 0 and 1.

    ``successes`` may be a fraction where images share a lesion; ``count`` is above 0.
    """
    share, spread = successes / count, _Z**2 / count
    middle = (share + spread / 2) / (1 + spread)
    half = _Z / (1 + spread) * math.sqrt(share * (1 - share) / count + spread / (4 * count))
    return [max(0.0, middle - half), min(1.0, middle + half)]


def share_with_interval(right: np.ndarray, groups: Sequence[str]) -> tuple[float, list[float]]:
    """Share of true values in ``(N,)`` bool, N above 0, and Wilson's interval of it.

    Ten images of one lesion are one case for the interval, so its count is that of groups.
    """
    share, count = float(right.mean()), len(set(groups))
    return share, wilson_interval(share * count, count)
