"""How well several diagnoses are told apart: the numbers of ISIC 2018 task 3.

Balanced accuracy is the mean recall over the diagnoses that occur; it ranks that challenge. A
diagnosis that does not occur has neither sensitivity nor ROC AUC: they are ``None`` and it is
named.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cascade.errors import DataError
from cascade.metrics.classification import roc_auc
from cascade.metrics.curves import divide
from cascade.metrics.intervals import (
    RESAMPLES,
    Resampling,
    percentile_interval,
    plan_resampling,
)

OVERALL = ("balanced_accuracy", "accuracy", "macro_f1", "mean_roc_auc")
EACH = ("sensitivity", "specificity", "f1", "roc_auc")


def multiclass_metrics(
    truth: np.ndarray,
    probabilities: np.ndarray,
    called: np.ndarray,
    *,
    names: Sequence[str],
    groups: Sequence[str | None] | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> dict[str, Any]:
    """Summarise a set of images.

    Args:
        truth: ``(N,)`` int, place of the true diagnosis in ``names``.
        probabilities: ``(N, K)`` float of each diagnosis.
        called: ``(N,)`` int, place of the diagnosis that was named.
        names: of the K diagnoses.
        groups: patient, else lesion, of each image, for the intervals.
        seed: seed of the bootstrap, which draws as many groups of each diagnosis as there are.
        resamples: number of bootstrap resamples.

    Returns:
        ``n`` images in ``n_groups`` groups; ``balanced_accuracy``, ``accuracy``, ``macro_f1`` and
        ``mean_roc_auc`` (means over the diagnoses that occur) with 95 % ``intervals``;
        ``diagnoses``, for each its ``name``, ``n``, ``sensitivity``, ``specificity``, ``f1``,
        ``roc_auc`` (against all others) and ``intervals``; ``confusion_matrix`` (K rows of the
        truth, K columns of what was named); the ``absent`` diagnoses; and ``undefined``, the reason
        of numbers that are ``None``.

    Raises:
        DataError: there are no images, shapes differ, or a probability is no number in [0, 1].
    """
    truth, called = np.asarray(truth, np.int64), np.asarray(called, np.int64)
    probabilities = np.asarray(probabilities, np.float64)
    _check(truth, probabilities, called, len(names))
    scores = _Scores(truth, probabilities, called)
    plan = plan_resampling(truth.size, groups=groups, strata=truth, seed=seed, resamples=resamples)
    whole = {name: values[0] for name, values in scores.summarise(np.ones((1, truth.size))).items()}
    blocks = [scores.summarise(block) for block in plan.weights()]
    samples = {name: np.concatenate([block[name] for block in blocks]) for name in whole}
    alone = _of_one_group(plan, len(names))
    counts = np.bincount(truth, minlength=len(names))
    absent = [name for name, count in zip(names, counts, strict=True) if not count]
    undefined = {name: f"none of the {truth.size} images is {name}" for name in absent}
    if alone.any():
        few = ", ".join(np.array(names)[alone])
        undefined["intervals"] = f"of {few} there is one group only; there is nothing to resample"
    return {
        "n": int(truth.size),
        "n_groups": plan.group_count,
        **{name: _number(whole[name]) for name in OVERALL},
        "intervals": {
            name: None if alone.any() else percentile_interval(samples[name]) for name in OVERALL
        },
        "diagnoses": [
            {
                "name": name,
                "n": int(counts[place]),
                **{key: _number(whole[key][place]) for key in EACH},
                "intervals": {
                    key: None
                    if alone[place] or np.isnan(whole[key][place])
                    else percentile_interval(samples[key][:, place])
                    for key in EACH
                },
            }
            for place, name in enumerate(names)
        ],
        "confusion_matrix": scores.confusion.astype(int).tolist(),
        "absent": absent,
        "undefined": undefined,
    }


def _check(truth: np.ndarray, probabilities: np.ndarray, called: np.ndarray, count: int) -> None:
    if not truth.size or truth.shape != called.shape or probabilities.shape != (truth.size, count):
        raise DataError(
            f"true diagnoses are {truth.shape}, named ones {called.shape}, probabilities "
            f"{probabilities.shape} for {count} diagnoses; give one of each an image, and at least "
            "one image"
        )
    if not ((probabilities >= 0) & (probabilities <= 1)).all():
        raise DataError("a probability of a diagnosis is not a number in [0, 1]")
    for what, places in (("true", truth), ("named", called)):
        if places.min() < 0 or places.max() >= count:
            raise DataError(f"a {what} diagnosis is not one of 0 to {count - 1}")


def _of_one_group(plan: Resampling, count: int) -> np.ndarray:
    return np.bincount(plan.strata, minlength=count) == 1


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


@dataclass(frozen=True)
class _Scores:
    truth: np.ndarray
    probabilities: np.ndarray
    called: np.ndarray

    @property
    def confusion(self) -> np.ndarray:
        """``(K, K)`` counts: rows are the truth, columns what was named."""
        return self._counts(np.ones((1, self.truth.size)))[0]

    def _counts(self, weights: np.ndarray) -> np.ndarray:
        count = self.probabilities.shape[1]
        cells = np.eye(count * count)[self.truth * count + self.called]
        return (weights @ cells).reshape(-1, count, count)

    def summarise(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        """Each number for each row of ``(B, N)`` weights, ``(B,)`` or ``(B, K)``."""
        counts = self._counts(weights)
        hits = np.diagonal(counts, axis1=1, axis2=2)
        missed, alarms = counts.sum(axis=2) - hits, counts.sum(axis=1) - hits
        others = weights.sum(axis=1, keepdims=True) - hits - missed
        sensitivity = divide(hits, hits + missed)
        occurs = np.bincount(self.truth, minlength=counts.shape[1]) > 0
        f1 = np.where(occurs, divide(2 * hits, 2 * hits + missed + alarms), np.nan)
        areas = [
            roc_auc((self.truth == place).astype(np.int64), self.probabilities[:, place], weights)
            for place in range(counts.shape[1])
        ]
        area = np.stack(areas, axis=1)
        return {
            "balanced_accuracy": sensitivity[:, occurs].mean(axis=1),
            "accuracy": hits.sum(axis=1) / weights.sum(axis=1),
            "macro_f1": f1[:, occurs].mean(axis=1),
            "mean_roc_auc": area[:, occurs].mean(axis=1),
            "sensitivity": sensitivity,
            "specificity": divide(others - alarms, others),
            "f1": f1,
            "roc_auc": area,
        }
