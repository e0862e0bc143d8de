"""What the cascade knows of its two stages. Torch modules and exported graphs both fulfil it."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from cascade.lesion.masking import MaskPolicy


class SegmenterStage(Protocol):
    """Finds the lesion."""

    @property
    def size(self) -> int:
        """Side of the network's input in pixels."""

    def predict(self, images: np.ndarray) -> np.ndarray:
        """``(N, S, S, 3)`` uint8 RGB to ``(N, S, S)`` float32 probabilities of lesion."""

    def predict_with_features(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The same, and ``(N, D)`` float32 features for the out-of-distribution detector.

        Only called where a cascade has a
        :class:`cascade.reliability.OutOfDistributionDetector`.
        """

    def describe(self) -> dict[str, Any]:
        """The stage's settings as plain JSON values."""


class ClassifierStage(Protocol):
    """Judges a masked crop."""

    @property
    def size(self) -> int:
        """Side of the network's input in pixels."""

    @property
    def policy(self) -> MaskPolicy:
        """How the crops that it was trained on were cut."""

    @property
    def cutoff(self) -> float:
        """Probability of ``malignant`` from which the label is ``malignant``."""

    def predict_proba(self, images: np.ndarray) -> np.ndarray:
        """``(N, S, S, 3)`` uint8 RGB to ``(N, 2)`` float32 probabilities."""

    def describe(self) -> dict[str, Any]:
        """The stage's settings as plain JSON values."""
