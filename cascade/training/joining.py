"""From several cross-validation runs to one ensemble."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cascade.errors import DataError
from cascade.metrics.classification import classification_metrics, roc_auc
from cascade.metrics.intervals import RESAMPLES, paired_difference, plan_resampling
from cascade.models.ensemble import (
    SMALLEST_WEIGHT,
    ClassifierEnsemble,
    join_classifiers,
    load_classifier,
)
from cascade.training.classification import operating_points
from cascade.training.cross_validation import ENSEMBLE_FILE
from cascade.training.images_seen import images_seen, without_images
from cascade.training.out_of_fold import OUT_OF_FOLD_FILE, read_out_of_fold, require_same_images

BAGS = 10
"""Resamples of the groups over which the search is averaged, so that it fits chance less."""

ROUNDS = 10
"""Members drawn for each resample; weights are multiples of its inverse before averaging."""

EQUAL, SEARCHED = "equal mean", "searched mean"
_TINY = 1e-7


@dataclass(frozen=True)
class Comparison:
    """What joining runs brings, on images that no network in question had seen.

    Attributes:
        weights: what the search finds on all images, for use.
        fold_weights: fold to the weights found on the other folds, with which it was scored.
        metrics: metrics of each run, of the equal mean (``EQUAL``) and of the searched mean
            (``SEARCHED``, each fold with the weights found on the others).
        differences: ROC AUC of one less another with its 95 % interval.
    """

    weights: tuple[float, ...]
    fold_weights: dict[int, tuple[float, ...]]
    metrics: dict[str, dict[str, Any]]
    differences: dict[str, dict[str, Any]]


def search_weights(
    scores: np.ndarray,
    labels: np.ndarray,
    groups: Sequence[str | None] | None = None,
    *,
    bags: int = BAGS,
    rounds: int = ROUNDS,
    seed: int = 0,
) -> np.ndarray:
    """Weights of several systems whose mean score ranks malignant before benign best.

    Forward selection with replacement (Caruana et al. 2004): begin with the best system, then draw,
    again and again, the one whose addition serves the mean best; the best mean on the way counts.
    It is repeated on resamples of the groups and averaged. Of two means with equal ROC AUC the one
    with the lower log loss is better. The result is never worse than the best single system on the
    images given: where the average of the searches is, that system alone gets the weight.

    Args:
        scores: ``(M, N)`` float in [0, 1], probability of malignant of M systems for N images.
        labels: ``(N,)`` int, 1 for malignant.
        groups: patient, else lesion, of each image, for the resamples.
        bags: number of resamples.
        rounds: systems drawn for each.
        seed: seed of the resamples.

    Returns:
        ``(M,)`` float64, none negative, with sum 1.

    Raises:
        DataError: shapes differ, a score is no probability, or there is one class only.
    """
    scores, labels = np.asarray(scores, np.float64), np.asarray(labels, np.int64)
    if scores.ndim != 2 or scores.shape[1:] != labels.shape or not scores.size:
        raise DataError(
            f"scores are {scores.shape} and labels {labels.shape}; give (M, N) scores of M systems "
            "and (N,) labels"
        )
    if not ((scores >= 0) & (scores <= 1)).all():
        raise DataError("a score is not a probability in [0, 1], so the systems cannot be averaged")
    if not 0 < labels.sum() < labels.size:
        raise DataError("all images are of one class, so no weights can be searched; use more")
    if len(scores) == 1:
        return np.ones(1)
    plan = plan_resampling(labels.size, groups=groups, strata=labels, seed=seed, resamples=bags)
    found = [
        _select(scores, labels, row, rounds)
        for block in plan.weights()
        for row in block
        if 0 < row @ labels < row.sum()
    ]
    everything = np.ones(labels.size)
    singles = [_quality(row, labels, everything) for row in scores]
    best = max(range(len(scores)), key=lambda index: singles[index])
    candidates = [np.mean(found, axis=0)] if found else []
    candidates.append(_select(scores, labels, everything, rounds))
    for weights in candidates:
        if _quality(weights @ scores, labels, everything) >= singles[best]:
            return np.asarray(weights)
    return np.eye(len(scores))[best]


def _select(
    scores: np.ndarray, labels: np.ndarray, image_weights: np.ndarray, rounds: int
) -> np.ndarray:
    """One forward selection on images that count ``(N,)`` times each."""
    drawn = np.zeros(len(scores))
    total = np.zeros(scores.shape[1])
    best, best_quality = drawn, (-np.inf, -np.inf)
    for count in range(1, rounds + 1):
        qualities = [_quality((total + row) / count, labels, image_weights) for row in scores]
        chosen = max(range(len(scores)), key=lambda index: qualities[index])  # the first of equals
        drawn = drawn + np.eye(len(scores))[chosen]
        total = total + scores[chosen]
        if qualities[chosen] > best_quality:
            best, best_quality = drawn / count, qualities[chosen]
    return best


def _quality(
    probabilities: np.ndarray, labels: np.ndarray, image_weights: np.ndarray
) -> tuple[float, float]:
    """ROC AUC, then the log loss with its sign turned; larger is better."""
    area = roc_auc(labels, probabilities, image_weights[None])[0]
    right = np.clip(np.where(labels == 1, probabilities, 1 - probabilities), _TINY, 1.0)
    # rounded, because sums in another order differ in the last digit and must not decide
    return round(float(area), 12), round(float(np.average(np.log(right), weights=image_weights)), 9)


def nested_scores(
    scores: np.ndarray,
    labels: np.ndarray,
    groups: Sequence[str | None],
    folds: np.ndarray,
    *,
    seed: int = 0,
) -> tuple[np.ndarray, dict[int, tuple[float, ...]]]:
    """Searched means in which no image helped to choose the weights that it is scored with.

    ``scores`` are ``(M, N)`` out-of-fold probabilities of M runs, ``labels`` and ``folds`` ``(N,)``
    int; no group is in two folds, and all runs have the same.

    Returns:
        ``(N,)`` scores, and for each fold the weights that were found on the other folds.
    """
    mean = np.empty(labels.size)
    weights: dict[int, tuple[float, ...]] = {}
    for number in np.unique(folds).tolist():
        held_out = folds == number
        others = np.flatnonzero(~held_out).tolist()
        chosen = search_weights(
            scores[:, others], labels[others], [groups[index] for index in others], seed=seed
        )
        mean[held_out] = np.clip(chosen @ scores[:, held_out], 0.0, 1.0)
        weights[number] = tuple(chosen.tolist())
    return mean, weights


def compare_runs(
    names: Sequence[str],
    scores: np.ndarray,
    labels: np.ndarray,
    groups: Sequence[str | None],
    folds: np.ndarray,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Comparison:
    """Score each run, their equal mean and their searched mean on the same images.

    ``scores`` are ``(M, N)`` out-of-fold probabilities of runs called ``names``; see
    :func:`nested_scores`.
    """
    nested, fold_weights = nested_scores(scores, labels, groups, folds, seed=seed)
    equal = np.clip(scores.mean(axis=0), 0.0, 1.0)
    systems = {**dict(zip(names, scores, strict=True)), EQUAL: equal, SEARCHED: nested}
    metrics = {
        name: classification_metrics(labels, values, groups=groups, seed=seed, resamples=resamples)
        for name, values in systems.items()
    }
    best = max(names, key=lambda name: metrics[name]["roc_auc"])
    differences = {}
    for first, second in ((EQUAL, best), (SEARCHED, best), (SEARCHED, EQUAL)):
        difference, low, high = paired_difference(
            roc_auc, labels, systems[first], systems[second], groups, seed, resamples=resamples
        )
        differences[f"{first} less {second}"] = {"difference": difference, "interval": [low, high]}
    return Comparison(
        weights=tuple(search_weights(scores, labels, groups, seed=seed).tolist()),
        fold_weights=fold_weights,
        metrics=metrics,
        differences=differences,
    )


log = logging.getLogger(__name__)


def join_runs(
    runs: Sequence[str | Path], output: str | Path, *, searched: bool = False, seed: int = 0
) -> Comparison:
    """Compare cross-validation runs, join their ensembles and write the result.

    ``runs`` are folders of :func:`cascade.training.cross_validation.cross_validate_classifier` over
    the same images and folds; ``searched`` takes the searched weights instead of equal ones.

    Raises:
        DataError: a run has no out-of-fold scores, or the runs differ in images or folds.
        ModelFileError: a run has no ensemble.
        ConfigError: the runs' classifiers differ in mask policy or size.
    """
    scores = require_same_images(
        [read_out_of_fold(Path(run) / OUT_OF_FOLD_FILE) for run in runs], runs
    )
    parts = [load_classifier(Path(run) / ENSEMBLE_FILE, device="cpu") for run in runs]
    names = [str(run) for run in runs]
    first = scores[0]
    probabilities = np.stack([item.probabilities for item in scores])
    equal = (1 / len(parts),) * len(parts)
    joined = join_classifiers(parts, equal)  # refuses runs that do not fit, before the long search
    comparison = compare_runs(
        names, probabilities, first.labels, first.groups, first.folds, seed=seed
    )
    weights = comparison.weights if searched else equal
    if searched:
        for name, weight in zip(names, weights, strict=True):
            if weight < SMALLEST_WEIGHT:
                log.warning("%s: left out of the ensemble, the search gives it no weight", name)
        joined = join_classifiers(parts, weights)
    mean = np.clip(np.array(weights) @ probabilities, 0.0, 1.0)
    joined.operating_points = operating_points(first.labels, mean)
    _document(joined, parts, comparison, searched=searched)
    joined.save(output)
    return comparison


def _document(
    joined: ClassifierEnsemble, parts: Sequence[Any], comparison: Comparison, *, searched: bool
) -> None:
    joined.metrics = {
        "out_of_fold": comparison.metrics[SEARCHED if searched else EQUAL],
        "weights": "search" if searched else "equal",
        "comparison": {name: metrics["roc_auc"] for name, metrics in comparison.metrics.items()},
        "differences": comparison.differences,
        "fold_weights": {str(fold): row for fold, row in comparison.fold_weights.items()},
    }
    joined.provenance = {
        **images_seen(*(part.provenance for part in parts)),
        "runs": [without_images(part.provenance) for part in parts],
    }
