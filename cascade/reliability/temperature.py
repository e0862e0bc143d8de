"""Probabilities that mean what they say: a temperature and a bias fitted on validation images.

A classifier that is trained with class weights, label smoothing or balanced sampling is wrong about
how often ``malignant`` occurs, and a long training makes it too sure. A temperature (Guo et al.
2017) mends the second, a bias the first; both together are Platt's method (Platt 1999). Neither
changes the order of the images, so no ROC curve changes.

With ``d = logit of malignant - logit of benign``, the probability of ``malignant`` is
``sigmoid(d / temperature + bias)``. With bias 0 that is the softmax of ``logits / temperature``.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np

from cascade.config import CLASSES, check_settings, setting, to_dict
from cascade.errors import DataError, ShapeError

log = logging.getLogger(__name__)

COLDEST, HOTTEST = 0.05, 20.0
"""Temperatures are kept within these; one at a limit says that the scores or labels are odd."""

_LARGEST_BIAS = 100.0


@dataclass(frozen=True)
class Calibration:
    """How logits become probabilities. The default is the plain softmax."""

    temperature: float = setting(
        1.0, "divides the difference of the logits", minimum=COLDEST, maximum=HOTTEST
    )
    bias: float = setting(
        0.0, "added to the log odds of malignant", minimum=-_LARGEST_BIAS, maximum=_LARGEST_BIAS
    )

    def __post_init__(self) -> None:
        check_settings(self)

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """``(N, 2)`` float logits to ``(N, 2)`` float32 probabilities that sum to 1."""
        return calibrated_probabilities(logits, self.temperature, self.bias)

    def to_dict(self) -> dict[str, Any]:
        """The calibration as plain JSON values."""
        return to_dict(self)


def calibrated_probabilities(
    logits: np.ndarray, temperature: float = 1.0, bias: float = 0.0
) -> np.ndarray:
    """``(N, 2)`` float logits, benign first, to ``(N, 2)`` float32 probabilities that sum to 1.

    A row with a logit that is not a number has no probabilities either.

    Raises:
        ShapeError: the logits have another shape.
    """
    log_odds = _difference(logits) / temperature + bias
    return np.stack([_sigmoid(-log_odds), _sigmoid(log_odds)], axis=1).astype(np.float32)


def fit_platt(logits: np.ndarray, labels: np.ndarray) -> Calibration:
    """Temperature and bias with the least negative log-likelihood (Platt 1999).

    As Platt proposed, the targets are not 0 and 1 but ``1 / (N_benign + 2)`` and
    ``(N_malignant + 1) / (N_malignant + 2)``, which keeps the answer finite where the classes are
    separated and matters little otherwise. Fit this on images with the share of malignant ones
    that is expected in use.

    Args:
        logits: ``(N, 2)`` float of validation images, benign first.
        labels: ``(N,)`` integers, 1 is malignant.

    Returns:
        A calibration with a temperature within [0.05, 20]; scores that order the images the wrong
        way get temperature 20, never a negative one. Where both logits differ by the same amount
        for every image, only the bias is fitted.

    Raises:
        ShapeError: an array has another shape, or values that are not finite.
        DataError: a class is missing, so that there is nothing to fit.
    """
    from scipy.optimize import minimize

    difference, labels = _checked(logits, labels)
    benign, malignant = np.bincount(labels)
    targets = np.where(labels == 1, (malignant + 1) / (malignant + 2), 1 / (benign + 2))
    middle, spread = float(difference.mean()), float(difference.std()) or 1.0
    standard = (difference - middle) / spread

    def loss(line: np.ndarray) -> tuple[float, np.ndarray]:
        log_odds = line[0] * standard + line[1]
        excess = _sigmoid(log_odds) - targets
        value = np.mean(np.logaddexp(0.0, log_odds) - targets * log_odds)
        return float(value), np.array([np.mean(excess * standard), np.mean(excess)])

    slopes = (spread / HOTTEST, spread / COLDEST)
    found = minimize(
        loss,
        (spread, 0.0),
        jac=True,
        method="L-BFGS-B",
        bounds=[slopes, (None, None)],
        options={"ftol": 1e-16, "gtol": 1e-10},
    )
    inverse = float(found.x[0]) / spread
    bias = float(np.clip(found.x[1] - inverse * middle, -_LARGEST_BIAS, _LARGEST_BIAS))
    temperature = float(np.clip(1.0 / inverse, COLDEST, HOTTEST))  # a bit of rounding beyond
    if temperature in (COLDEST, HOTTEST):
        log.warning(
            "the fitted temperature is %g, a limit: the validation images are separated without "
            "error, or their scores say nothing about the labels",
            temperature,
        )
    return Calibration(temperature, bias)


def _sigmoid(log_odds: np.ndarray) -> np.ndarray:
    return 0.5 * (1.0 + np.tanh(0.5 * log_odds))  # never overflows


def _difference(logits: np.ndarray) -> np.ndarray:
    logits = np.asarray(logits)
    if logits.ndim != 2 or logits.shape[1] != 2 or logits.dtype.kind != "f":
        raise ShapeError(
            f"logits are {logits.shape} {logits.dtype}; give (N, 2) float, benign first",
            expected="(N, 2) float",
            actual=logits.shape,
        )
    values = logits.astype(np.float64)
    return np.asarray(values[:, 1] - values[:, 0])


def _checked(logits: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    difference, labels = _difference(logits), np.asarray(labels)
    if labels.shape != difference.shape:
        raise ShapeError(
            f"{len(difference)} logits and labels {labels.shape}; give one label an image",
            expected=difference.shape,
            actual=labels.shape,
        )
    if not np.isfinite(difference).all():
        raise ShapeError("logits must be finite")
    if not np.isin(labels, (0, 1)).all():
        raise DataError("labels must be 0 (benign) or 1 (malignant)")
    for label, name in enumerate(CLASSES):
        if not (labels == label).any():
            raise DataError(f"no {name} image to calibrate with; both classes are needed")
    return difference, labels.astype(np.int64)
