"""Whether the context within a patient helps to tell malignant lesions from benign ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from cascade.metrics.classification import roc_auc
from cascade.metrics.intervals import RESAMPLES, paired_difference

COMBINATIONS = {
    "rank": ("rank",),
    "ugly_duckling": ("ugly_duckling",),
    "rank_and_ugly_duckling": ("rank", "ugly_duckling"),
}
"""What is added to the probability in each comparison."""

FOLDS = 5
FEWEST_PATIENTS = 2
"""Patients with and without a malignant lesion, below which nothing can be fitted and tested."""

_SMALLEST = 1e-6


def context_metrics(
    labels: np.ndarray,
    probabilities: np.ndarray,
    places: np.ndarray,
    scores: np.ndarray,
    patients: Sequence[str],
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> dict[str, Any]:
    """Compare the probability alone with the probability and the context of each lesion.

    Each combination is a logistic regression of the log odds of the probability and the context,
    fitted out of fold: a patient's lesions are judged by a regression that never saw the patient.
    The probability alone is not fitted, so the noise of fitting counts against the combination.

    Args:
        labels: ``(N,)`` int of each image, 1 for malignant.
        probabilities: ``(N,)`` float in [0, 1] of malignant.
        places: ``(N,)`` float, place within the patient by probability, from 0 (highest) to 1.
        scores: ``(N,)`` float, ugly-duckling scores, all finite.
        patients: of each image.
        seed: of folds and resamples.
        resamples: bootstrap resamples of patients.

    Returns:
        ``n`` images of ``patients``, ``positives`` of ``malignant_patients``; then either
        ``undefined``, the reason why nothing can be compared, or ``folds``, the ``roc_auc`` of the
        probability alone, ``ugly_duckling_roc_auc`` of the score alone, ``combinations`` with
        ``roc_auc``, ``difference`` to the probability alone and its paired 95 % ``interval`` by
        patient, and ``found_first``, see :func:`found_first`.
    """
    labels = np.asarray(labels, np.int64)
    malignant = {name for name, label in zip(patients, labels, strict=True) if label}
    counts: dict[str, Any] = {
        "n": int(labels.size), "patients": len(set(patients)),
        "positives": int(labels.sum()), "malignant_patients": len(malignant),
    }  # fmt: skip
    fewer = min(len(malignant), counts["patients"] - len(malignant))
    if fewer < FEWEST_PATIENTS:
        return {**counts, "undefined": (
            f"a comparison takes {FEWEST_PATIENTS} patients with a malignant lesion and as many "
            "without, all with four measured lesions"
        )}  # fmt: skip
    folds = min(FOLDS, fewer)
    chances = np.clip(probabilities, _SMALLEST, 1 - _SMALLEST)
    columns = {
        "log_odds": np.log(chances / (1 - chances)),
        "rank": np.asarray(places, np.float64),
        "ugly_duckling": np.log1p(scores),
    }
    numbers = np.unique(np.asarray(patients, str), return_inverse=True)[1]
    whole = np.ones((1, labels.size))
    combinations = {}
    for name, added in COMBINATIONS.items():
        features = np.stack([columns[key] for key in ("log_odds", *added)], axis=1)
        combined = _out_of_fold(features, labels, numbers, folds=folds, seed=seed)
        difference, low, high = paired_difference(
            roc_auc, labels, combined, chances, patients, seed, resamples=resamples
        )
        combinations[name] = {
            "roc_auc": float(roc_auc(labels, combined, whole)[0]),
            "difference": difference,
            "interval": [low, high],
        }
    return {
        **counts,
        "folds": folds,
        "roc_auc": float(roc_auc(labels, chances, whole)[0]),
        "ugly_duckling_roc_auc": float(roc_auc(labels, np.asarray(scores), whole)[0]),
        "combinations": combinations,
        "found_first": found_first(labels, chances, np.asarray(scores), numbers),
    }


def _out_of_fold(
    features: np.ndarray, labels: np.ndarray, patients: np.ndarray, *, folds: int, seed: int
) -> np.ndarray:
    """``(N,)`` probabilities, each of a regression that did not see the patient."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedGroupKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    division = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    judged = np.empty(labels.size)
    for train, test in division.split(features, labels, patients):
        model = make_pipeline(StandardScaler(), LogisticRegression())
        if labels[train].min() == labels[train].max():  # nothing to learn from
            judged[test] = 1 / (1 + np.exp(-features[test, 0]))
            continue
        judged[test] = model.fit(features[train], labels[train]).predict_proba(features[test])[:, 1]
    return judged


def found_first(
    labels: np.ndarray, probabilities: np.ndarray, scores: np.ndarray, patients: np.ndarray
) -> dict[str, Any]:
    """How often the first lesion of a patient is malignant.

    Only patients with lesions of both classes count. Where several share the first place, their
    malignant share counts.

    Args:
        labels: ``(N,)`` int, 1 for malignant.
        probabilities: ``(N,)`` of malignant.
        scores: ``(N,)`` ugly-duckling scores.
        patients: ``(N,)`` int.

    Returns:
        ``patients``, how many; the share by ``probability``, by ``ugly_duckling`` score and by
        ``chance``; ``None`` without such patients.
    """
    shares = []
    for patient in np.unique(patients):
        own = labels[patients == patient]
        if own.min() == own.max():
            continue
        firsts = [
            own[values == values.max()].mean()
            for values in (probabilities[patients == patient], scores[patients == patient])
        ]
        shares.append((*firsts, own.mean()))
    means = np.mean(shares, axis=0).tolist() if shares else [None] * 3
    names = ("probability", "ugly_duckling", "chance")
    return {"patients": len(shares), **dict(zip(names, means, strict=True))}
