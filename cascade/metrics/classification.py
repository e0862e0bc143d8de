"""How well probabilities tell malignant (1) from benign (0).

An image is called malignant where its probability is at least the cutoff. A metric that the data
cannot answer is ``None`` with its reason, never 0 and never NaN.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cascade.errors import DataError
from cascade.metrics.curves import (
    area_under_roc,
    average_precision_of,
    calibration_error_of,
    count_by_cutoff,
    divide,
)
from cascade.metrics.intervals import RESAMPLES, percentile_interval, plan_resampling

HIGH_SENSITIVITY = 0.8
"""The true positive rate from which the two partial areas start."""

_NEEDS_POSITIVES = ("recall",)
_NEEDS_NEGATIVES = ("specificity",)
_NEEDS_BOTH = (
    "precision", "f1", "macro_f1", "balanced_accuracy", "roc_auc", "average_precision",
    "auc_at_sensitivity_80", "partial_auc_above_sensitivity_80",
)  # fmt: skip


def classification_metrics(
    labels: np.ndarray,
    probabilities: np.ndarray,
    *,
    cutoff: float = 0.5,
    groups: Sequence[str | None] | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
    names: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Summarise a set of images.

    Args:
        labels: ``(N,)`` int, 1 for malignant.
        probabilities: ``(N,)`` float in [0, 1] of malignant.
        cutoff: an image is called malignant from this probability on.
        groups: patient, else lesion, of each image, for the intervals.
        seed: seed of the bootstrap.
        resamples: number of bootstrap resamples.
        names: name of each image, for error messages.

    Returns:
        ``n`` images in ``n_groups`` groups, ``positives`` among them, the ``cutoff``;
        at the cutoff ``accuracy``, ``precision``, ``recall``, ``specificity``, ``f1`` (malignant),
        ``macro_f1`` (mean over classes) and ``confusion_matrix`` ``[[tn, fp], [fn, tp]]``;
        ``balanced_accuracy`` (mean recall of the likelier class; a tie is wrong, whatever the
        cutoff); ``roc_auc``, ``average_precision``, ``brier``, ``ece``, ``log_loss``,
        ``auc_at_sensitivity_80`` and ``partial_auc_above_sensitivity_80``; 95 % ``intervals``;
        and ``undefined``, the reason of each metric that is ``None``.

    Raises:
        DataError: there are no images, lengths differ, a label is neither 0 nor 1, or a
            probability is not a number in [0, 1]; the rows are named.
    """
    labels, probabilities = check_scores(labels, probabilities, names=names)
    scores = _Scores(labels, probabilities, cutoff)
    plan = plan_resampling(
        labels.size, groups=groups, strata=labels, seed=seed, resamples=resamples
    )
    undefined = _undefined(labels, probabilities, cutoff)
    whole = {
        name: None if name in undefined else float(values[0])
        for name, values in scores.summarise(np.ones((1, labels.size))).items()
    }
    if plan.smallest_stratum > 1:
        blocks = [scores.summarise(block) for block in plan.weights()]
        intervals = {
            name: percentile_interval(np.concatenate([block[name] for block in blocks]))
            if value is not None
            else None
            for name, value in whole.items()
        }
    else:
        undefined["intervals"] = "a class has one group only; there is nothing to resample"
        intervals = dict.fromkeys(whole)
    return {
        "n": int(labels.size),
        "n_groups": plan.group_count,
        "positives": int(labels.sum()),
        "cutoff": float(cutoff),
        **whole,
        "confusion_matrix": confusion_matrix(labels, probabilities, cutoff=cutoff),
        "intervals": intervals,
        "undefined": undefined,
    }


def check_scores(
    labels: np.ndarray, probabilities: np.ndarray, *, names: Sequence[str] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Check labels and probabilities and give them back as int64 and float64.

    Raises:
        DataError: see :func:`classification_metrics`.
    """
    labels, probabilities = np.asarray(labels), np.asarray(probabilities, np.float64)
    if labels.ndim != 1 or labels.shape != probabilities.shape or not labels.size:
        raise DataError(
            f"labels are {labels.shape} and probabilities {probabilities.shape}; "
            "give one of each an image, and at least one image"
        )
    if names is not None and len(names) != labels.size:
        raise DataError(f"{len(names)} names for {labels.size} images; give one name an image")
    _refuse_rows(~np.isin(labels, (0, 1)), labels, names, "label is neither 0 nor 1")
    bad = ~((probabilities >= 0.0) & (probabilities <= 1.0))
    _refuse_rows(bad, probabilities, names, "probability is not a number in [0, 1]")
    return labels.astype(np.int64), probabilities


def _refuse_rows(
    bad: np.ndarray, values: np.ndarray, names: Sequence[str] | None, what: str
) -> None:
    rows = np.flatnonzero(bad)
    if rows.size == 0:
        return
    shown = [f"{names[i] if names else f'row {i}'} ({values[i]})" for i in rows[:10]]
    more = f" and {rows.size - 10} more" if rows.size > 10 else ""
    counted = "rows counted from 0" if not names else f"{rows.size} images"
    raise DataError(f"{what}: {', '.join(shown)}{more} ({counted}); correct or remove them")


def _undefined(labels: np.ndarray, probabilities: np.ndarray, cutoff: float) -> dict[str, str]:
    positives = int(labels.sum())
    if positives == 0:
        reason = f"none of the {labels.size} images is malignant"
        return dict.fromkeys(_NEEDS_BOTH + _NEEDS_POSITIVES, reason)
    if positives == labels.size:
        reason = f"none of the {labels.size} images is benign"
        return dict.fromkeys(_NEEDS_BOTH + _NEEDS_NEGATIVES, reason)
    if not (probabilities >= cutoff).any():
        return {"precision": f"no image reaches the cutoff {cutoff:g}"}
    return {}


def confusion_matrix(
    labels: np.ndarray, probabilities: np.ndarray, *, cutoff: float = 0.5
) -> list[list[int]]:
    """Counts ``[[tn, fp], [fn, tp]]``: rows are the truth, columns the call at the cutoff."""
    called = np.asarray(probabilities) >= cutoff
    return [
        [int(np.sum((np.asarray(labels) == truth) & (called == call))) for call in (False, True)]
        for truth in (0, 1)
    ]


@dataclass(frozen=True)
class _Scores:
    labels: np.ndarray
    probabilities: np.ndarray
    cutoff: float

    def summarise(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        """Each metric for each row of ``(B, N)`` weights; NaN where it is undefined."""
        return {**self._calls(weights), **self._ranking(weights), **self._errors(weights)}

    def _calls(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        """What follows from the calls at the cutoff, and balanced accuracy from the argmax."""
        positive, negative = self.labels == 1, self.labels == 0
        called = self.probabilities >= self.cutoff
        parts = [positive & called, negative & called, positive & ~called, negative & ~called]
        likelier = [positive & (self.probabilities > 0.5), negative & (self.probabilities < 0.5)]
        counts = weights @ np.stack([*parts, *likelier], axis=1).astype(np.float64)
        hit, alarm, miss, correct, likely_hit, likely_correct = counts.T
        f1 = divide(2 * hit, 2 * hit + alarm + miss)
        f1_benign = divide(2 * correct, 2 * correct + alarm + miss)
        return {
            "accuracy": (hit + correct) / weights.sum(axis=1),
            "precision": divide(hit, hit + alarm),
            "recall": divide(hit, hit + miss),
            "specificity": divide(correct, correct + alarm),
            "f1": f1,
            "macro_f1": (f1 + f1_benign) / 2,
            "balanced_accuracy": (
                divide(likely_hit, hit + miss) + divide(likely_correct, correct + alarm)
            )
            / 2,
        }

    def _ranking(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        counts = count_by_cutoff(self.labels, self.probabilities, weights)
        start = HIGH_SENSITIVITY
        return {
            "roc_auc": area_under_roc(counts),
            "average_precision": average_precision_of(counts),
            "auc_at_sensitivity_80": area_under_roc(counts, sensitivity=start),
            "partial_auc_above_sensitivity_80": area_under_roc(
                counts, sensitivity=start, floor=start
            ),
        }

    def _errors(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        """How far the probabilities are from the truth."""
        total = weights.sum(axis=1)
        # a certain and wrong answer would be infinitely bad; the smallest step below 1 bounds it
        tiny = np.finfo(np.float64).eps
        bounded = np.clip(self.probabilities, tiny, 1 - tiny)
        given_truth = np.where(self.labels == 1, bounded, 1 - bounded)
        return {
            "brier": weights @ (self.probabilities - self.labels) ** 2 / total,
            "ece": calibration_error_of(self.labels, self.probabilities, weights),
            "log_loss": weights @ -np.log(given_truth) / total,
        }


def roc_auc(labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """ROC AUC for each row of ``(B, N)`` weights; see :func:`paired_difference`."""
    return area_under_roc(count_by_cutoff(labels, probabilities, weights))


def average_precision(
    labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """Average precision for each row of ``(B, N)`` weights; see :func:`paired_difference`."""
    return average_precision_of(count_by_cutoff(labels, probabilities, weights))


def cutoff_at_sensitivity(labels: np.ndarray, probabilities: np.ndarray, target: float) -> float:
    """The largest cutoff at which at least ``target`` of the malignant images are found.

    Choose it on validation scores and apply it, unchanged, to test scores.

    Args:
        labels: ``(N,)`` int, 1 for malignant.
        probabilities: ``(N,)`` float in [0, 1] of malignant.
        target: sensitivity in (0, 1].

    Raises:
        DataError: there is no malignant image, or ``target`` is outside (0, 1].
    """
    labels, probabilities = check_scores(labels, probabilities)
    if not 0.0 < target <= 1.0:
        raise DataError(f"target sensitivity is {target}; it must be in (0, 1]")
    found = np.sort(probabilities[labels == 1])[::-1]
    if found.size == 0:
        raise DataError("no malignant image to choose a cutoff on; use a larger validation set")
    # 0.95 * 20 is 19.000000000000000 or a hair more: a hair must not cost one more image
    needed = max(1, math.ceil(target * found.size - 1e-9))
    return float(found[needed - 1])
