"""A layer of diagnoses for a finished classifier, which leaves its other answers as they are.

The network is not trained any further: for each class apart, a multinomial logistic regression
tells its diagnoses apart from the features before the last layer, on crops as the cascade cuts
them in use. Each diagnosis has the same weight in it, however rare it is. Afterwards the logarithm
of its share of the training images is added to its logit, so that the shares are those of a
population like the training images. The strength of the penalty is the one with the best balanced
log loss on the validation images.
"""

from __future__ import annotations

import datetime
import logging
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from cascade.data.splits import Splits
from cascade.data.tables import Record, Table
from cascade.errors import ConfigError
from cascade.metrics.multiclass import multiclass_metrics
from cascade.models.classifier import Classifier
from cascade.pipeline import Cascade, Failure
from cascade.pipeline.augmented_views import VIEWS, TestTimeAugmentation, view
from cascade.progress import progress
from cascade.reliability import Diagnoses
from cascade.training.diagnosis import UNKNOWN, diagnoses_of, diagnosis_indices
from cascade.training.images_seen import require_same_division

log = logging.getLogger(__name__)

STRENGTHS = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 1e-2)
"""Inverse penalties that are tried, of features with mean 0 and spread 1."""

_MOST_STEPS = 100
"""Weak penalties want more, and have the worse log loss long before."""


@dataclass(frozen=True)
class Examples:
    """Crops as a classifier sees them.

    Attributes:
        features: ``(N, D)`` float32, before the last layer.
        truth: ``(N,)`` int, place of the diagnosis.
        classes: ``(N, 2)`` float32 probabilities of benign and malignant.
    """

    features: np.ndarray
    truth: np.ndarray
    classes: np.ndarray


@dataclass(frozen=True)
class Layer:
    """Logits of K diagnoses: ``features @ weight.T + bias``, with the strength of each class."""

    weight: np.ndarray
    bias: np.ndarray
    strengths: tuple[float, float]


def fit_diagnoses(
    cascade: Cascade,
    table: Table,
    splits: Splits,
    *,
    cropper: Cascade | None = None,
    views: TestTimeAugmentation = "none",
) -> dict[str, Any]:
    """Fit a layer of diagnoses to a cascade's classifier, which is changed in place.

    It then tells the diagnoses of the table's column ``diagnosis``. What it says about malignant
    stays the same.

    Args:
        cascade: of torch networks.
        table: labelled records, of which some name a diagnosis.
        splits: the division that the classifier was trained with.
        cropper: the same cascade in a faster runtime, to cut the crops; by default itself.
        views: mirrored and turned copies of the training crops to learn from, too.

    Returns:
        Numbers of images and chosen strengths, and under ``validation`` the scores of
        :func:`cascade.metrics.multiclass.multiclass_metrics`, as plain JSON values.

    Raises:
        ConfigError: the classifier is an ensemble or no torch network, or does not end in a linear
            layer.
        DataError: the classifier was trained with another division, or a class has no diagnosis.
        ImageError: an image cannot be read.
    """
    classifier = cascade.classifier
    if not isinstance(classifier, Classifier):
        raise ConfigError(
            "diagnoses are fitted to a single torch classifier; an ensemble tells those that all "
            "its members tell"
        )
    require_same_division(classifier.provenance, splits)
    parts = splits.parts(table)
    diagnoses = diagnoses_of(parts[0].records)
    log.info("diagnoses: %s", ", ".join(diagnoses.names))
    train, validation = (
        [one for one in part if diagnosis_indices([one], diagnoses)[0] != UNKNOWN] for part in parts
    )
    learnt = examples(cropper or cascade, classifier, train, diagnoses, views)
    held_out = examples(cropper or cascade, classifier, validation, diagnoses, "none")
    layer = fit_layer(learnt, held_out, diagnoses)
    set_layer(classifier, diagnoses, layer)
    facts = {
        "images": len(train),
        "validation_images": len(validation),
        "views": views,
        "strengths": dict(zip(("benign", "malignant"), layer.strengths, strict=True)),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    scores = _scores(layer, held_out, diagnoses, [record.group for record in validation])
    classifier.provenance["diagnoses"] = facts
    classifier.metrics = {**classifier.metrics, "diagnoses": scores}
    return {**facts, "validation": scores}


def examples(
    cropper: Cascade,
    classifier: Classifier,
    records: Sequence[Record],
    diagnoses: Diagnoses,
    views: TestTimeAugmentation,
) -> Examples:
    """The crops of records as the classifier sees them, each in several views.

    Raises:
        ImageError: an image cannot be read.
    """
    features, classes = [], []
    paths = [record.image_path for record in records]
    predictions = cropper.predict_iter(paths)
    for prediction in progress(predictions, description="features", total=len(paths)):
        if isinstance(prediction, Failure):
            raise prediction.error
        turned = [view(prediction.crop[None], how)[0] for how in VIEWS[views]]
        with classifier.predicting():
            images = classifier.to_device(np.stack(turned))
            logits, _, seen = classifier.forward_with_features(images)
            classes.append(classifier.calibrated(logits).softmax(dim=1).cpu().numpy())
            features.append(seen.float().cpu().numpy())
    truth = diagnosis_indices(records, diagnoses).repeat(len(VIEWS[views]))
    return Examples(np.concatenate(features), truth, np.concatenate(classes))


def fit_layer(learnt: Examples, held_out: Examples, diagnoses: Diagnoses) -> Layer:
    """Fit the diagnoses of each class apart, with the strength that suits the held-out crops."""
    mean = learnt.features.mean(axis=0, dtype=np.float64)
    spread = learnt.features.std(axis=0, dtype=np.float64)
    spread[spread < 1e-8] = 1.0  # a feature that never changes tells nothing
    benign = len(diagnoses.benign)
    shares = np.log(diagnoses.training_shares)
    parts = []
    for first, count in ((0, benign), (benign, len(diagnoses.malignant))):
        own, judged = (_within(part, first, count, mean, spread) for part in (learnt, held_out))
        weight, bias, strength = _fit_class(own, judged, count)
        parts.append((weight / spread, bias - weight @ (mean / spread), strength))
    weights, biases, strengths = zip(*parts, strict=True)
    return Layer(np.concatenate(weights), np.concatenate(biases) + shares, strengths)


def _within(
    part: Examples, first: int, count: int, mean: np.ndarray, spread: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Scaled features and truth of the crops whose diagnosis belongs to one class."""
    own = (part.truth >= first) & (part.truth < first + count)
    return ((part.features[own] - mean) / spread).astype(np.float32), part.truth[own] - first


def _fit_class(
    learnt: tuple[np.ndarray, np.ndarray], held_out: tuple[np.ndarray, np.ndarray], count: int
) -> tuple[np.ndarray, np.ndarray, float]:
    """Weight ``(count, D)``, bias and strength of one class's diagnoses."""
    features, truth = learnt
    if count == 1:  # it is certain
        return np.zeros((1, features.shape[1])), np.zeros(1), STRENGTHS[0]
    fits = [(*_regression(features, truth, count, strength), strength) for strength in STRENGTHS]
    judged = held_out if held_out[1].size else learnt
    return min(fits, key=lambda fit: _balanced_log_loss(judged[0] @ fit[0].T + fit[1], judged[1]))


def _regression(
    features: np.ndarray, truth: np.ndarray, count: int, strength: float
) -> tuple[np.ndarray, np.ndarray]:
    """Multinomial logistic regression in which each class has the same weight."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=strength, class_weight="balanced", max_iter=_MOST_STEPS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(features, truth)
    weight, bias = model.coef_, model.intercept_
    if count == 2:  # of two classes it keeps the second alone
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    return weight.astype(np.float64), bias.astype(np.float64)


def _balanced_log_loss(logits: np.ndarray, truth: np.ndarray) -> float:
    """Mean over the classes of the mean negative log likelihood of their images."""
    logarithms = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
    losses = -logarithms[np.arange(truth.size), truth]
    return float(np.mean([losses[truth == one].mean() for one in np.unique(truth)]))


def set_layer(classifier: Classifier, diagnoses: Diagnoses, layer: Layer) -> None:
    """Let a classifier tell diagnoses by a layer."""
    classifier.set_diagnoses(None)
    classifier.set_diagnoses(diagnoses)
    head = classifier.diagnosis_head
    if head is None:
        raise ConfigError("the classifier has no layer for diagnoses")
    with torch.no_grad():
        head.weight.copy_(torch.from_numpy(layer.weight))
        head.bias.copy_(torch.from_numpy(layer.bias))


def _scores(
    layer: Layer, held_out: Examples, diagnoses: Diagnoses, groups: Sequence[str]
) -> dict[str, Any]:
    logits = held_out.features @ layer.weight.T + layer.bias
    chances = np.exp(logits - np.logaddexp.reduce(logits, axis=1, keepdims=True))
    probabilities = diagnoses.probabilities(held_out.classes, chances)
    return multiclass_metrics(
        held_out.truth,
        probabilities,
        diagnoses.likeliest_of_equals(probabilities),
        names=diagnoses.names,
        groups=groups,
    )
