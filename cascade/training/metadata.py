"""Fitting a metadata fusion: image scores that are fair, and what is known beside each image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from cascade.config import CLASSES
from cascade.data.splits import Splits, make_folds
from cascade.data.tables import Table
from cascade.errors import ConfigError, DataError
from cascade.metrics.classification import classification_metrics
from cascade.pipeline.prediction import Failure
from cascade.progress import progress
from cascade.reliability import Metadata, MetadataFusion, fit_metadata_fusion, fit_platt
from cascade.reliability.metadata import FIELDS
from cascade.reliability.metadata_fusion import FusionFit
from cascade.training.images_seen import require_same_division

if TYPE_CHECKING:
    from cascade.pipeline import Cascade
    from cascade.training.out_of_fold import OutOfFold

FOLDS = 10
_SCORES = ("roc_auc", "brier", "ece", "log_loss")


@dataclass(frozen=True)
class MetadataResult:
    """A fitted fusion; ``facts`` say how it was fitted, as plain JSON values."""

    fusion: MetadataFusion
    facts: dict[str, Any] = field(default_factory=dict)


def metadata_of(table: Table) -> list[Metadata]:
    """Age, sex and site of each record.

    Raises:
        DataError: a cell is not what it may be; the message names its row.
    """
    known = []
    for record in table:
        try:
            known.append(Metadata.of(record.attributes))
        except ConfigError as error:
            raise DataError(f"{table.path}: {record.name}: {error}") from error
    return known


def fit_on_validation(
    cascade: Cascade, table: Table, splits: Splits, *, seed: int = 0
) -> MetadataResult:
    """Fit a fusion on what a finished cascade says of its validation images.

    Args:
        cascade: both stages, calibrated.
        table: labelled records with the columns ``age``, ``sex`` and ``site``, or some of them.
        splits: the division that the classifier was trained with.
        seed: divides the images into folds.

    Raises:
        DataError: the classifier was trained with another division, an image cannot be predicted,
            or there is too little to fit.
    """
    require_same_division(cascade.provenance["classifier"], splits)
    _, validation = splits.parts(table)
    metadata_of(validation)  # what is wrong with the table is said before the long part
    paths = [record.image_path for record in validation]
    judged = []
    for result in progress(
        cascade.predict_iter(paths), description="validation images", total=len(paths)
    ):
        if isinstance(result, Failure):
            raise DataError(f"{table.path}: cannot be fitted with: {result.error}")
        judged.append(result.image_probability)
    kept = [
        record.name for record, chance in zip(validation, judged, strict=True) if chance is not None
    ]
    chances = np.array([chance for chance in judged if chance is not None])
    return _fitted(validation.subset(kept), chances, seed)


def fit_on_out_of_fold(table: Table, scores: OutOfFold, *, seed: int = 0) -> MetadataResult:
    """Fit a fusion on scores of a cross-validation, which are calibrated first (Platt 1999).

    Args:
        table: the labelled records that were cross-validated, or more of them.
        scores: each of the network that never saw the image.
        seed: divides the images into folds.

    Raises:
        DataError: an image of the scores is not in the table, or there is too little to fit.
    """
    logits = np.stack([np.zeros(len(scores)), scores.logits], axis=1)
    fitted = fit_platt(logits, scores.labels)
    chances = dict(zip(scores.names, fitted.probabilities(logits)[:, 1].tolist(), strict=True))
    scored = table.subset(scores.names)
    return _fitted(scored, np.array([chances[name] for name in scored.names()]), seed)


def _fitted(table: Table, chances: np.ndarray, seed: int) -> MetadataResult:
    metadata, labels = metadata_of(table), table.labels()
    fit = fit_metadata_fusion(chances, labels, metadata, _folds(table, seed))
    return MetadataResult(fit.fusion, _facts(fit, metadata, labels, chances))


def _folds(table: Table, seed: int) -> np.ndarray:
    """``(N,)`` number of the fold of each record; a patient or lesion has one."""
    rarest = min(len({item.group for item in table if item.label == name}) for name in CLASSES)
    if rarest < 2:
        raise DataError(
            f"{table.path}: {len(table)} images to fit with have a class of {rarest} patients or "
            "lesions; give a table with at least two of each class"
        )
    numbers = {
        name: number
        for number, fold in enumerate(make_folds(table, min(FOLDS, rarest), seed=seed))
        for name in fold.validation
    }
    return np.array([numbers[name] for name in table.names()])


def _facts(
    fit: FusionFit, metadata: Sequence[Metadata], labels: np.ndarray, chances: np.ndarray
) -> dict[str, Any]:
    return {
        "images": len(labels),
        "malignant": int(labels.sum()),
        "known": {
            name: sum(getattr(item, name) is not None for item in metadata) for name in FIELDS
        },
        "penalty": fit.penalty,
        "held_out_log_loss_by_penalty": {f"{key:g}": loss for key, loss in fit.log_losses.items()},
        "image_alone": _scores(labels, chances),
        "held_out": _scores(labels, fit.held_out),
    }


def _scores(labels: np.ndarray, chances: np.ndarray) -> dict[str, float]:
    measured = classification_metrics(labels, chances, resamples=1)
    return {name: float(measured[name]) for name in _SCORES}
