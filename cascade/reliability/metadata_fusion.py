"""Late fusion: the calibrated log odds of the image, moved by what is known beside it.

With the log odds ``z`` of the image's calibrated probability::

    log odds = z + sum of the terms of age, sex and site that are known

What is not known adds nothing, so with nothing known the answer is exactly that of the image. The
terms are the coefficients of a logistic regression with offset ``z`` and a quadratic penalty
(ridge), which draws the fused answer towards that of the image; its strength is chosen by
cross-validation. Adding covariates to a fixed linear predictor is what Steyerberg et al. 2004
(Stat Med 23:2567) call model extension.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np

from cascade.errors import ConfigError, DataError, ShapeError
from cascade.reliability.conformal import ConformalScores
from cascade.reliability.metadata import OLDEST, SEXES, SITES, Metadata

AGE_TERMS = ("age_known", "age", "age_squared")
TERMS = (*AGE_TERMS, *SEXES, *SITES)
"""Names of all coefficients."""

MIDDLE_AGE, AGE_STEP = 50.0, 20.0
"""Age enters as ``a = (years - 50) / 20`` and as the square of that."""

PENALTIES = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
"""Strengths to choose from; the penalty is half of one times the sum of squared coefficients."""

FEWEST_OF_A_TERM = 10
"""A sex or site of fewer fitting images has no coefficient, so it counts as not known."""

_LARGEST_LOG_ODDS = 30.0
_STEPS = 100


@dataclass(frozen=True)
class MetadataFusion:
    """How age, sex and site move the probability of malignant.

    Attributes:
        coefficients: by their names in :data:`TERMS`; a missing one is 0, and a sex or site
            without one is not used.
        youngest: least age of the fitting images; younger ones count as this age.
        oldest: greatest age, likewise.
        conformal: calibration scores of the fused probabilities, for sets of classes.
    """

    coefficients: Mapping[str, float]
    youngest: float = 0.0
    oldest: float = OLDEST
    conformal: ConformalScores | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        values = self.coefficients.values()
        if not set(self.coefficients) <= set(TERMS) or not all(map(_is_number, values)):
            raise ConfigError(
                f"the coefficients of a metadata fusion are {dict(self.coefficients)}; give "
                f"numbers for names among {', '.join(TERMS)}"
            )
        limits = (self.youngest, self.oldest)
        if not all(map(_is_number, limits)) or not 0 <= self.youngest <= self.oldest <= OLDEST:
            raise ConfigError(
                f"the ages of a metadata fusion are {limits}; give years from 0 to {OLDEST:.0f}"
            )

    def used(self, metadata: Metadata) -> tuple[str, ...]:
        """The names of what is known and changes the answer."""
        terms = {"age": "age", "sex": metadata.sex, "site": metadata.site}
        return tuple(name for name in metadata.known() if terms[name] in self.coefficients)

    def logit(self, image_logit: float, metadata: Metadata) -> float:
        """The fused log odds of malignant; those of the image where nothing is used.

        Args:
            image_logit: log odds of the image's calibrated probability.
            metadata: what is known.
        """
        terms = _terms(metadata, self.youngest, self.oldest)
        return image_logit + sum(self.coefficients.get(name, 0.0) * x for name, x in terms.items())

    def probability(self, of_image: float, metadata: Metadata) -> float:
        """The fused probability of malignant; exactly ``of_image`` where nothing is used."""
        if not self.used(metadata):
            return of_image
        return 1.0 / (1.0 + math.exp(-self.logit(log_odds(of_image), metadata)))

    def to_dict(self) -> dict[str, Any]:
        """The fusion as plain JSON values."""
        return {
            "coefficients": dict(self.coefficients),
            "youngest": self.youngest,
            "oldest": self.oldest,
            "conformal": self.conformal and self.conformal.to_dict(),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read a fusion back.

        Raises:
            ConfigError: a value is missing, unknown or not allowed.
        """
        names = ("coefficients", "youngest", "oldest", "conformal")
        if set(values) != set(names) or not isinstance(values["coefficients"], Mapping):
            raise ConfigError(
                f"metadata fusion: got {', '.join(map(str, values))}; give {', '.join(names)}"
            )
        scores = values["conformal"]
        return cls(
            values["coefficients"],
            values["youngest"],
            values["oldest"],
            None if scores is None else ConformalScores.from_dict(scores),
        )


@dataclass(frozen=True)
class FusionFit:
    """A fitted fusion and how it was chosen.

    Attributes:
        fusion: fitted on all images.
        penalty: the chosen strength.
        log_losses: mean log loss of each strength on images that were held out.
        held_out: ``(N,)`` fused probabilities with the chosen strength, each of a fusion that did
            not see the image's group.
    """

    fusion: MetadataFusion
    penalty: float
    log_losses: Mapping[float, float]
    held_out: np.ndarray = field(repr=False)


def log_odds(probability: float) -> float:
    """The log odds of a probability in [0, 1], within ±30."""
    if not 0.0 < probability < 1.0:
        return math.copysign(_LARGEST_LOG_ODDS, probability - 0.5)
    return max(
        -_LARGEST_LOG_ODDS, min(_LARGEST_LOG_ODDS, math.log(probability / (1 - probability)))
    )


def fit_metadata_fusion(
    probabilities: np.ndarray,
    labels: np.ndarray,
    metadata: Sequence[Metadata],
    folds: np.ndarray,
    *,
    penalties: Sequence[float] = PENALTIES,
) -> FusionFit:
    """Fit a fusion on images that did not train the classifier.

    The strength of the penalty is the one with the least log loss on images that were held out.
    The calibration scores are those of held-out probabilities, too.

    Args:
        probabilities: ``(N,)`` float in [0, 1], calibrated, from the image alone.
        labels: ``(N,)`` int, 1 for malignant.
        metadata: of each image.
        folds: ``(N,)`` int; images of one number are held out together, so a patient has one.
        penalties: strengths to choose from.

    Raises:
        ShapeError: the lengths differ.
        DataError: nothing is known of any image, or a class is missing.
    """
    labels, folds = np.asarray(labels), np.asarray(folds)
    if not len(probabilities) == len(labels) == len(metadata) == len(folds):
        raise ShapeError(
            f"{len(probabilities)} probabilities, {len(labels)} labels, {len(metadata)} metadata "
            f"and {len(folds)} folds; give one of each an image"
        )
    ages = [item.age for item in metadata if item.age is not None]
    youngest, oldest = (min(ages), max(ages)) if ages else (0.0, OLDEST)
    names, design = _design(metadata, youngest, oldest)
    if not names or len(np.unique(labels)) < 2:
        raise DataError(
            f"nothing to fit a metadata fusion with: {len(labels)} images, "
            f"{int(np.sum(labels))} of them malignant; both classes are needed, and age, sex or "
            f"site of at least {FEWEST_OF_A_TERM} images"
        )
    offset = np.array([log_odds(float(value)) for value in probabilities])
    judged = {penalty: _held_out(design, offset, labels, folds, penalty) for penalty in penalties}
    losses = {penalty: _log_loss(values, labels) for penalty, values in judged.items()}
    best = min(losses, key=lambda penalty: (losses[penalty], -penalty))
    held_out = 1 / (1 + np.exp(-judged[best]))
    weights = _ridge(design, offset, labels, best)
    fusion = MetadataFusion(
        dict(zip(names, weights.tolist(), strict=True)),
        float(youngest),
        float(oldest),
        ConformalScores.from_probabilities(held_out, labels),
    )
    return FusionFit(fusion, best, losses, held_out)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _terms(metadata: Metadata, youngest: float, oldest: float) -> dict[str, float]:
    """Name to value of the terms that are known."""
    terms: dict[str, float] = {name: 1.0 for name in (metadata.sex, metadata.site) if name}
    if metadata.age is not None:
        age = (min(max(metadata.age, youngest), oldest) - MIDDLE_AGE) / AGE_STEP
        terms |= dict(zip(AGE_TERMS, (1.0, age, age * age), strict=True))
    return terms


def _design(
    metadata: Sequence[Metadata], youngest: float, oldest: float
) -> tuple[list[str], np.ndarray]:
    """The terms that enough images have, and their values ``(N, K)``."""
    rows = [_terms(item, youngest, oldest) for item in metadata]
    names = [name for name in TERMS if sum(name in row for row in rows) >= FEWEST_OF_A_TERM]
    values = [[row.get(name, 0.0) for name in names] for row in rows]
    return names, np.array(values, np.float64).reshape(len(rows), len(names))


def _held_out(
    design: np.ndarray, offset: np.ndarray, labels: np.ndarray, folds: np.ndarray, penalty: float
) -> np.ndarray:
    """``(N,)`` fused log odds, each of a fit without the image's fold."""
    judged = np.empty(len(labels))
    for fold in np.unique(folds):
        out = folds == fold
        weights = _ridge(design[~out], offset[~out], labels[~out], penalty)
        judged[out] = offset[out] + design[out] @ weights
    return judged


def _ridge(
    design: np.ndarray, offset: np.ndarray, labels: np.ndarray, penalty: float
) -> np.ndarray:
    """``(K,)`` coefficients of the penalised logistic regression with an offset (Newton)."""
    weights = np.zeros(design.shape[1])
    for _ in range(_STEPS):
        chances = 1 / (1 + np.exp(-(offset + design @ weights)))
        slope = design.T @ (chances - labels) + penalty * weights
        curvature = (design.T * (chances * (1 - chances))) @ design
        step = np.linalg.solve(curvature + penalty * np.eye(len(weights)), slope)
        weights = weights - step
        if np.abs(step).max() < 1e-10:
            break
    return weights


def _log_loss(logits: np.ndarray, labels: np.ndarray) -> float:
    return float(np.mean(np.logaddexp(0.0, logits) - labels * logits))
