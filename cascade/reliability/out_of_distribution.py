"""Does an image look like those that the network was trained on?

Probabilistic principal component analysis (Tipping and Bishop 1999) of features of the network: a
Gaussian whose covariance has a few directions of its own and the same variance in all others. An
image is out of distribution where its Mahalanobis distance, its score, exceeds that of nearly all
held-out images.

With features x of D numbers, ``z = (x - mean) / scale``, components ``u_k`` with variances ``v_k``
and the remaining variance ``s``, the distance is::

    sqrt((sum_k (u_k . z)^2 / v_k + (|z|^2 - sum_k (u_k . z)^2) / s) / D)

It is about 1 for images like those of the fit, whatever D is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from cascade.errors import ConfigError, DataError, ShapeError

_ARRAYS = ("mean", "scale", "components", "variances")
_SETTINGS = ("noise_variance", "threshold", "false_alarm", "fitted_on", "held_out")


@dataclass(frozen=True)
class OutOfDistributionDetector:
    """A fitted model of features; about 90 kB for 32 components of 1,280 features.

    Attributes:
        mean: ``(D,)`` float32.
        scale: ``(D,)`` float32, above 0; features are divided by it.
        components: ``(K, D)`` float16 orthonormal rows.
        variances: ``(K,)`` float32 along the components, falling.
        noise_variance: variance in every other direction.
        threshold: distance above which an image is out of distribution.
        false_alarm: share of held-out images that the threshold was chosen to exceed.
        fitted_on: number of images of the fit.
        held_out: number of images that the threshold was chosen on.
    """

    mean: np.ndarray
    scale: np.ndarray
    components: np.ndarray
    variances: np.ndarray
    noise_variance: float
    threshold: float
    false_alarm: float
    fitted_on: int
    held_out: int

    def __post_init__(self) -> None:
        width, count = self.mean.size, len(self.variances)
        shapes = {"mean": (width,), "scale": (width,), "components": (count, width)}
        for name, shape in {**shapes, "variances": (count,)}.items():
            array = getattr(self, name)
            if array.shape != shape or not np.isfinite(array).all():
                raise ShapeError(
                    f"out_of_distribution: {name} is {array.shape} or not finite; expected {shape}",
                    expected=shape,
                    actual=array.shape,
                )
        positive = (self.scale > 0).all() and (self.variances > 0).all() and self.noise_variance > 0
        if not positive or not self.threshold > 0:
            raise ConfigError("out_of_distribution: scale, variances and threshold must be above 0")

    @property
    def width(self) -> int:
        """Number of features of an image, D."""
        return int(self.mean.size)

    def distance(self, features: np.ndarray) -> np.ndarray:
        """Distances ``(N,)`` float64 of features ``(N, D)`` float; infinite for one with NaN.

        Raises:
            ShapeError: the features have another number of columns.
        """
        features = _checked(features, self.width)
        usable = np.isfinite(features).all(axis=1)
        centred = (np.where(usable[:, None], features, 0.0) - self.mean) / self.scale
        along = centred @ self.components.astype(np.float64).T
        beside = np.maximum((centred**2).sum(axis=1) - (along**2).sum(axis=1), 0.0)
        total = (along**2 / self.variances).sum(axis=1) + beside / self.noise_variance
        return np.where(usable, np.sqrt(total / self.width), np.inf)

    def is_in_distribution(self, features: np.ndarray) -> np.ndarray:
        """Whether each of ``(N, D)`` features is within the threshold, ``(N,)`` bool."""
        return np.asarray(self.distance(features) <= self.threshold)

    def to_arrays(self) -> dict[str, np.ndarray]:
        """What belongs among the tensors of a model file."""
        return {name: getattr(self, name) for name in _ARRAYS}

    def settings(self) -> dict[str, float | int]:
        """What belongs among its settings, as plain JSON values."""
        return {name: getattr(self, name) for name in _SETTINGS}

    @classmethod
    def from_arrays(
        cls, arrays: Mapping[str, np.ndarray], settings: Mapping[str, Any]
    ) -> OutOfDistributionDetector:
        """Read a model back; distances are the same to the last bit.

        Raises:
            ConfigError: an array or setting is missing or unknown.
            ShapeError: arrays do not fit each other.
        """
        for what, got, known in (("array", arrays, _ARRAYS), ("setting", settings, _SETTINGS)):
            if set(got) != set(known):
                differing = ", ".join(sorted(set(got) ^ set(known)))
                raise ConfigError(f"out_of_distribution: missing or unknown {what}: {differing}")
        values: dict[str, Any] = {name: np.asarray(value) for name, value in arrays.items()}
        return cls(**values, **settings)


def pooled_features(activations: np.ndarray) -> np.ndarray:
    """One row of features for each image, from the activations of a convolutional layer.

    Mean and standard deviation of each channel over the image, together scaled to length 1, so that
    the contrast of an image matters less than its texture. Take the last but one stage of the
    encoder: in the deepest one, images of anything look more alike.

    Args:
        activations: ``(N, C, h, w)`` float.

    Returns:
        ``(N, 2 * C)`` float32.

    Raises:
        ShapeError: the activations have another shape.
    """
    if activations.ndim != 4 or activations.dtype.kind != "f" or 0 in activations.shape[1:]:
        raise ShapeError(
            f"activations are {activations.shape} {activations.dtype}; give (N, C, h, w) float",
            expected="(N, C, h, w) float",
            actual=activations.shape,
        )
    places = activations.reshape(*activations.shape[:2], -1).astype(np.float32)
    features = np.concatenate([places.mean(axis=2), places.std(axis=2)], axis=1)
    length = np.linalg.norm(features, axis=1, keepdims=True)
    return np.asarray(features / np.maximum(length, np.float32(1e-12)))


def fit_out_of_distribution_detector(
    features: np.ndarray, *, held_out: np.ndarray, components: int = 32, false_alarm: float = 0.01
) -> OutOfDistributionDetector:
    """Fit a detector on images like those of the use.

    Features are standardised first; one that hardly varies is divided by a tenth of the features'
    median deviation instead, so that a unit that is always silent cannot decide alone.

    Args:
        features: ``(N, D)`` float of training images, N at least 2.
        held_out: ``(M, D)`` float of images that did not train the network, M at least 1. The
            threshold is the ``ceil((M + 1) * (1 - false_alarm))``-th smallest of their distances,
            or the largest where M is too small for that.
        components: directions with a variance of their own; fewer are kept where N or D allow no
            more.
        false_alarm: share of images like those of the fit that may exceed the threshold, in (0, 1).

    Raises:
        ShapeError: the widths differ.
        DataError: too few images, features that are not finite, or none that varies.
    """
    features = _checked(features, None)
    held_out = _checked(held_out, features.shape[1])
    if len(features) < 2 or not len(held_out):
        raise DataError(f"{len(features)} images to fit and {len(held_out)} held out; too few")
    if not (np.isfinite(features).all() and np.isfinite(held_out).all()):
        raise DataError("features to fit with must be finite")
    if components < 1 or not 0 < false_alarm < 1:
        raise ConfigError(f"components {components} or false_alarm {false_alarm}: out of range")
    mean, scale = features.mean(axis=0).astype(np.float32), _scale(features)
    directions, variances, noise = _principal((features - mean) / scale, components)
    model = OutOfDistributionDetector(
        mean=mean,
        scale=scale,
        components=directions.astype(np.float16),
        variances=variances.astype(np.float32),
        noise_variance=noise,
        threshold=1.0,
        false_alarm=false_alarm,
        fitted_on=len(features),
        held_out=len(held_out),
    )
    distances = np.sort(model.distance(held_out))
    rank = min(len(distances), math.ceil((len(distances) + 1) * (1 - false_alarm) - 1e-9))
    return replace(model, threshold=float(distances[rank - 1]))


def _scale(features: np.ndarray) -> np.ndarray:
    deviations = features.std(axis=0)
    varying = deviations[deviations > 0]
    if not varying.size:
        raise DataError("all images have the same features; there is nothing to fit")
    return np.maximum(deviations, 0.1 * np.median(varying)).astype(np.float32)


def _principal(centred: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Leading directions ``(K, D)``, their variances, and the mean variance of all others."""
    images, width = centred.shape
    _, singular, directions = np.linalg.svd(centred, full_matrices=False)
    variances = singular**2 / (images - 1)
    kept = max(1, min(count, width - 1, images - 2))
    floor = 1e-6 * float(variances[0])  # features of small data can lie in few directions exactly
    noise = max(float(variances[kept:].sum()) / max(width - kept, 1), floor)
    return directions[:kept], np.maximum(variances[:kept], noise), noise


def _checked(features: np.ndarray, width: int | None) -> np.ndarray:
    features = np.asarray(features)
    fits = (
        features.ndim == 2 and features.dtype.kind == "f" and width in (None, *features.shape[1:])
    )
    if not fits or not features.shape[1]:
        raise ShapeError(
            f"features are {features.shape} {features.dtype}; give (N, {width or 'D'}) float",
            expected=f"(N, {width or 'D'}) float",
            actual=features.shape,
        )
    return features.astype(np.float64)
