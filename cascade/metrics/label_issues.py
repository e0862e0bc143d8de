"""Confident learning: which labels do the scores of a cross-validation contradict?

Northcutt, Jiang, Chuang (2021), "Confident learning: estimating uncertainty in dataset labels",
Journal of Artificial Intelligence Research 70, 1373-1411. It holds only for out-of-fold scores: a
network repeats the labels that it was trained on.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cascade.errors import DataError
from cascade.metrics.classification import check_scores


@dataclass(frozen=True)
class LabelIssues:
    """What the scores say about the labels.

    Attributes:
        issues: ``(K,)`` int64, the images whose label is contradicted, lowest score first; the
            label that is suggested is the other one.
        scores: ``(N,)`` float64 in [0, 1], how well each label agrees with its score: the
            probability of the given label less that class's threshold, scaled so that both classes
            sum to 1. Without the thresholds, all images of a rare class would come first.
        thresholds: ``(2,)`` float64, the mean probability of each class, benign first, over the
            images that are labelled so.
    """

    issues: np.ndarray
    scores: np.ndarray
    thresholds: np.ndarray


def label_issues(labels: np.ndarray, probabilities: np.ndarray) -> LabelIssues:
    """Find labels that the scores contradict: those off the diagonal of the confident joint.

    An image counts as confidently of a class if the class's probability reaches the threshold of
    that class; of two such classes the more probable one counts (equations 1 and 2 of the paper).

    Args:
        labels: ``(N,)`` int, as given, 1 for malignant.
        probabilities: ``(N,)`` float in [0, 1] of malignant, each from a network that was not
            trained on the image.

    Raises:
        DataError: a class is missing, or a value is out of range.
    """
    labels, malignant = check_scores(labels, probabilities)
    if len(set(labels.tolist())) < 2:
        raise DataError("label issues need images of both classes")
    each = np.stack([1 - malignant, malignant], axis=1)
    thresholds = np.array([each[labels == kind, kind].mean() for kind in (0, 1)])
    confident = each >= thresholds - 1e-6  # as in cleanlab: a constant score reaches its mean
    likelier = np.where(confident, each, -1.0).argmax(axis=1)
    contradicted = confident.any(axis=1) & (likelier != labels)
    shifted = each - thresholds + thresholds.max()
    scores = shifted[np.arange(len(labels)), labels] / shifted.sum(axis=1)
    found = np.flatnonzero(contradicted)
    return LabelIssues(found[np.argsort(scores[found], kind="stable")], scores, thresholds)
