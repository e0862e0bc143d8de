"""Sets of classes instead of a label, right as often as promised for each class.

Split conformal prediction, class by class ("Mondrian"; Vovk 2012, Angelopoulos and Bates 2021):
a class is in the set of an image unless its probability is lower than for nearly all calibration
images of that class. If new images resemble the calibration images, the true class is in the set
for at least the share ``coverage`` of the malignant images and of the benign ones, however good the
classifier is. A weak classifier pays with sets of both classes: it abstains.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cascade.config import CLASSES
from cascade.errors import ConfigError, DataError, ShapeError

_DECIMALS = 4


@dataclass(frozen=True)
class ConformalScores:
    """Probabilities that a classifier gave to the true class of its calibration images.

    Take validation images that did not train the classifier; those that chose its calibration may
    be taken again at little cost. Stored values are rounded down to 4 decimals, which can only make
    the sets larger.

    ``benign`` holds probabilities of ``benign`` of the benign images in rising order; likewise
    ``malignant``.
    """

    benign: tuple[float, ...]
    malignant: tuple[float, ...]

    def __post_init__(self) -> None:
        for name in CLASSES:
            values = getattr(self, name)
            if not all(isinstance(v, (int, float)) and 0 <= v <= 1 for v in values):
                raise ConfigError(f"conformal scores: {name} holds a value outside [0, 1]")
            # The epsilon because 0.0057 times 10,000 may come out just below 57
            rounded = (math.floor(v * 10**_DECIMALS + 1e-9) / 10**_DECIMALS for v in values)
            object.__setattr__(self, name, tuple(sorted(rounded)))

    @classmethod
    def from_probabilities(cls, malignant: np.ndarray, labels: np.ndarray) -> ConformalScores:
        """Take the scores of calibration images.

        ``malignant`` ``(N,)`` float are calibrated probabilities, ``labels`` ``(N,)`` int are 1 for
        malignant.

        Raises:
            ShapeError: the arrays differ in length, or a probability is outside [0, 1].
            DataError: a label is neither 0 nor 1.
        """
        chances, labels = _probabilities(malignant), np.asarray(labels)
        if labels.shape != chances.shape:
            raise ShapeError(
                f"{chances.size} probabilities and labels of shape {labels.shape}; give one each",
                expected=chances.shape,
                actual=labels.shape,
            )
        if not np.isin(labels, (0, 1)).all():
            raise DataError("labels must be 0 (benign) or 1 (malignant)")
        return cls(
            tuple((1.0 - chances[labels == 0]).tolist()), tuple(chances[labels == 1].tolist())
        )

    def to_dict(self) -> dict[str, list[float]]:
        """The scores as plain JSON values."""
        return {name: list(getattr(self, name)) for name in CLASSES}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ConformalScores:
        """Read scores back.

        Raises:
            ConfigError: a class is missing, unknown or holds something else than probabilities.
        """
        if set(values) != set(CLASSES) or not all(isinstance(v, list) for v in values.values()):
            raise ConfigError(
                f"conformal scores: got {', '.join(map(str, values)) or 'nothing'}; "
                f"give a list of probabilities for each of {', '.join(CLASSES)}"
            )
        return cls(**{name: tuple(values[name]) for name in CLASSES})

    def limits(self, coverage: float = 0.9) -> dict[str, float]:
        """The smallest probability with which each class enters a set.

        That is the ``ceil((n + 1) * coverage)``-th largest of its n calibration scores. 0, which
        always enters, where n is too small for the coverage: below ``coverage / (1 - coverage)``,
        that is 9 images for 0.9 and 19 for 0.95.

        Raises:
            ConfigError: the coverage is not within (0, 1].
        """
        if not 0 < coverage <= 1:
            raise ConfigError(f"coverage is {coverage}; it must be above 0 and at most 1")
        return {name: _limit(getattr(self, name), coverage) for name in CLASSES}

    def prediction_set(
        self, malignant: np.ndarray | float, coverage: float = 0.9
    ) -> list[tuple[str, ...]]:
        """The classes that stay possible for each image.

        Args:
            malignant: ``(N,)`` float probabilities of ``malignant``, or one number.
            coverage: share of images of each class whose set holds the true class, in (0, 1].

        Returns:
            One set an image: ``("benign",)``, ``("malignant",)``, or both, which is to abstain.
            Both also stand for the empty set, of an image that fits neither class; that adds to
            the coverage and never takes from it.

        Raises:
            ConfigError: the coverage is not within (0, 1].
            ShapeError: a probability is outside [0, 1].
        """
        chances, limits = _probabilities(malignant), self.limits(coverage)
        of_class = {CLASSES[0]: 1.0 - chances, CLASSES[1]: chances}
        # 1 - (1 - p) is not always p in floating point; never shut an image out for that
        inside = [of_class[name] >= limits[name] - 1e-12 for name in CLASSES]
        return [
            tuple(name for name, kept in zip(CLASSES, pair, strict=True) if kept) or CLASSES
            for pair in zip(*inside, strict=True)
        ]

    def support(self, malignant: float) -> dict[str, float]:
        """Conformal p-value of each class for one image: how usual its probability would be.

        ``(1 + calibration scores of the class that are not above the image's) / (n + 1)``. A class
        leaves the set of coverage c about where its value falls below 1 - c.
        """
        chance = float(_probabilities(malignant)[0])
        result = {}
        for name, value in zip(CLASSES, (1.0 - chance, chance), strict=True):
            scores = getattr(self, name)
            below = bisect_left(scores, value + 1e-12)
            result[name] = (1 + below) / (len(scores) + 1)
        return result


def describe_sets(sets: Sequence[tuple[str, ...]], labels: np.ndarray) -> dict[str, Any]:
    """What the sets of labelled images are worth.

    Args:
        sets: one set an image, see :meth:`ConformalScores.prediction_set`.
        labels: ``(N,)`` integers, 1 is malignant.

    Returns:
        ``n``; ``abstained``: share of images with both classes; ``coverage``: for each class, the
        share of its images whose set holds it, or ``None`` without images;
        ``accuracy_if_answered``: share of right answers among the sets of one class, or ``None``.
    """
    labels = np.asarray(labels)
    if labels.shape != (len(sets),) or not len(sets):
        raise ShapeError(
            f"{len(sets)} sets and labels of shape {labels.shape}; give one of each an image",
            expected=(len(sets),),
            actual=labels.shape,
        )
    right = np.array([CLASSES[label] in kept for label, kept in zip(labels, sets, strict=True)])
    single = np.array([len(kept) == 1 for kept in sets])
    return {
        "n": len(sets),
        "abstained": float((~single).mean()),
        "coverage": {name: _share(right[labels == label]) for label, name in enumerate(CLASSES)},
        "accuracy_if_answered": _share(right[single]),
    }


def _share(flags: np.ndarray) -> float | None:
    return float(flags.mean()) if flags.size else None


def _limit(scores: Sequence[float], coverage: float) -> float:
    # 100 * 0.55 is 55.00000000000001, and its ceiling must be 55
    rank = max(1, math.ceil((len(scores) + 1) * coverage - 1e-9))
    return scores[len(scores) - rank] if rank <= len(scores) else 0.0


def _probabilities(values: np.ndarray | float) -> np.ndarray:
    chances = np.atleast_1d(np.asarray(values, np.float64))
    if chances.ndim != 1 or not ((chances >= 0) & (chances <= 1)).all():
        raise ShapeError(
            f"probabilities are of shape {chances.shape}; give (N,) numbers within [0, 1]",
            expected="(N,) within [0, 1]",
            actual=chances.shape,
        )
    return chances
