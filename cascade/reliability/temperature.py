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
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from cascade.config import check_settings, from_dict, setting, to_dict
from cascade.errors import DataError, ShapeError

log = logging.getLogger(__name__)

COLDEST, HOTTEST = 0.05, 20.0
"""Temperatures are kept within these; one at a limit says that the scores or labels are odd."""

_NEWTON_STEPS = 100


@dataclass(frozen=True)
class Calibration:
    """How logits become probabilities. The default is the plain softmax.

    Attributes:
        temperature: divides the difference of the logits.
        bias: is added afterwards, in log odds of ``malignant``; below 0 makes it rarer.
    """

    temperature: float = setting(
        1.0, "divides the logits before the softmax", minimum=COLDEST, maximum=HOTTEST
    )
    bias: float = setting(0.0, "added to the log odds of malignant", minimum=-100.0, maximum=100.0)

    def __post_init__(self) -> None:
        check_settings(self)

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """``(N, 2)`` float logits to ``(N, 2)`` float32 probabilities that sum to 1."""
        return calibrated_probabilities(logits, self.temperature, self.bias)

    def to_dict(self) -> dict[str, Any]:
        """The calibration as plain JSON values."""
        return to_dict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Calibration:
        """Read a calibration back.

        Raises:
            ConfigError: a key is unknown or a value is not allowed.
        """
        return from_dict(cls, values)


def calibrated_probabilities(
    logits: np.ndarray, temperature: float = 1.0, bias: float = 0.0
) -> np.ndarray:
    """Probabilities of both classes.

    Args:
        logits: ``(N, 2)`` float, benign first.
        temperature: divides the difference of the logits; above 0.
        bias: is added to the log odds of ``malignant``.

    Returns:
        ``(N, 2)`` float32; rows sum to 1. A row with a logit that is not a number has none either.

    Raises:
        ShapeError: the logits have another shape.
    """
    log_odds = _difference(logits) / temperature + bias
    return np.stack([_sigmoid(-log_odds), _sigmoid(log_odds)], axis=1).astype(np.float32)


def fit_temperature(
    logits: np.ndarray, labels: np.ndarray, *, weights: np.ndarray | None = None
) -> float:
    """The temperature with the least negative log-likelihood (Guo et al. 2017).

    The likelihood is convex in ``1 / temperature``, so its slope is followed to its only zero by
    bisection.

    Args:
        logits: ``(N, 2)`` float of validation images, benign first.
        labels: ``(N,)`` integers, 1 is malignant.
        weights: ``(N,)`` of at least 0; an image of weight 2 counts as two. By default all are 1.

    Returns:
        A temperature within [0.05, 20]. 1 where both logits agree for every image.

    Raises:
        ShapeError: an array has another shape, or values that are not finite.
        DataError: a class is missing, so that there is nothing to fit.
    """
    difference, labels, weights = _checked(logits, labels, weights)
    if not difference.any():
        return 1.0

    def slope(inverse: float) -> float:
        return float(np.sum(weights * (_sigmoid(inverse * difference) - labels) * difference))

    return _warned(1.0 / _zero_of(slope, 1.0 / HOTTEST, 1.0 / COLDEST))


def fit_platt(
    logits: np.ndarray, labels: np.ndarray, *, weights: np.ndarray | None = None
) -> Calibration:
    """Temperature and bias with the least negative log-likelihood (Platt 1999).

    As Platt proposed, the targets are not 0 and 1 but ``1 / (N_benign + 2)`` and
    ``(N_malignant + 1) / (N_malignant + 2)``, which keeps the answer finite where the classes are
    separated and matters little otherwise. Solved by Newton's method with halved steps (Lin, Lin
    and Weng 2007). Fit this on images with the share of malignant ones that is expected in use.

    Args:
        logits: ``(N, 2)`` float of validation images, benign first.
        labels: ``(N,)`` integers, 1 is malignant.
        weights: ``(N,)`` of at least 0; an image of weight 2 counts as two. By default all are 1.

    Returns:
        A calibration with a temperature within [0.05, 20]; scores that order the images the wrong
        way get temperature 20, never a negative one. Where both logits differ by the same amount
        for every image, only the bias is fitted.

    Raises:
        ShapeError: an array has another shape, or values that are not finite.
        DataError: a class is missing, so that there is nothing to fit.
    """
    difference, labels, weights = _checked(logits, labels, weights)
    malignant = float(np.sum(weights * labels))
    benign = float(np.sum(weights)) - malignant
    targets = np.where(labels == 1, (malignant + 1) / (malignant + 2), 1 / (benign + 2))
    inverse = 1.0
    if np.ptp(difference) > 0:
        inverse = float(
            np.clip(_newton(difference, targets, weights), 1.0 / HOTTEST, 1.0 / COLDEST)
        )

    def slope(bias: float) -> float:
        return float(np.sum(weights * (_sigmoid(inverse * difference + bias) - targets)))

    return Calibration(_warned(1.0 / inverse), _zero_of(slope, -100.0, 100.0))


def _newton(difference: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> float:
    """The factor of ``difference`` in the best logistic curve through ``targets``."""
    middle, spread = float(np.mean(difference)), float(np.std(difference))
    columns = np.stack([(difference - middle) / spread, np.ones_like(difference)], axis=1)

    def loss(line: np.ndarray) -> float:
        log_odds = columns @ line
        return float(np.sum(weights * (np.logaddexp(0.0, log_odds) - targets * log_odds)))

    line = np.zeros(2)
    for _ in range(_NEWTON_STEPS):
        chances = _sigmoid(columns @ line)
        gradient = columns.T @ (weights * (chances - targets))
        curvature = columns.T @ (columns * (weights * chances * (1 - chances))[:, None])
        step = np.linalg.solve(curvature + 1e-12 * np.eye(2), gradient)
        size = 1.0
        while loss(line - size * step) > loss(line) and size > 1e-10:
            size /= 2
        line = line - size * step
        if np.abs(step).max() < 1e-10:
            break
    return float(line[0]) / spread


def _zero_of(slope: Callable[[float], float], low: float, high: float) -> float:
    """Where a function that never falls crosses zero; a limit where it does not."""
    if slope(low) >= 0:
        return low
    if slope(high) <= 0:
        return high
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    return (low + high) / 2


def _warned(temperature: float) -> float:
    temperature = min(max(temperature, COLDEST), HOTTEST)  # 1 / (1 / x) may miss x by a bit
    if temperature in (COLDEST, HOTTEST):
        log.warning(
            "the fitted temperature is %g, a limit: the validation images are separated without "
            "error, or their scores say nothing about the labels",
            temperature,
        )
    return temperature


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


def _checked(
    logits: np.ndarray, labels: np.ndarray, weights: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    difference, labels = _difference(logits), np.asarray(labels)
    weights = np.ones(labels.shape) if weights is None else np.asarray(weights, np.float64)
    if not labels.shape == weights.shape == difference.shape:
        raise ShapeError(
            f"{len(difference)} logits, labels {labels.shape}, weights {weights.shape}; "
            "give one label and one weight an image",
            expected=difference.shape,
            actual=labels.shape,
        )
    if not (np.isfinite(difference).all() and np.isfinite(weights).all() and (weights >= 0).all()):
        raise ShapeError("logits must be finite, and weights finite and at least 0")
    if not np.isin(labels, (0, 1)).all():
        raise DataError("labels must be 0 (benign) or 1 (malignant)")
    for label, name in enumerate(("benign", "malignant")):
        if not weights[labels == label].sum() > 0:
            raise DataError(f"no {name} image to calibrate with; both classes are needed")
    return difference, labels.astype(np.float64), weights
