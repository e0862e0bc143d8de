"""What the cascade knows of its two stages. Torch modules and exported graphs both fulfil it."""

from __future__ import annotations

from typing import Any, Protocol, Self, TypeVar

import numpy as np

from cascade.lesion.masking import MaskPolicy
from cascade.reliability import Diagnoses


class Stage(Protocol):
    """What both stages say of how they compute; a stage of one's own need not."""

    @property
    def runtime(self) -> str:
        """What computes it: ``torch``, ``onnx`` or ``openvino``."""

    @property
    def cores(self) -> int:
        """How many cores it may use, and so how many threads are worth starting."""

    @property
    def on_gpu(self) -> bool:
        """Whether a GPU computes it, which wants many images at a time."""

    def single_threaded(self) -> Self | None:
        """The same stage, each call of which computes on one core, in the caller's thread.

        Several threads may call it at the same time: that keeps all cores busy with one image
        each, where one call on all cores leaves some idle in every small layer. ONNX Runtime gives
        the same bits as the stage itself. The second session is opened when it is first asked
        for, and kept.

        Returns:
            ``None`` where the stage does not offer that, as torch networks and stages on a GPU.
        """


AnyStage = TypeVar("AnyStage")


def single_threaded(stage: AnyStage) -> AnyStage | None:
    """``stage.single_threaded()``; ``None`` as well for a stage without that method."""
    ask = getattr(stage, "single_threaded", None)
    return ask() if ask is not None else None


class SegmenterStage(Stage, Protocol):
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


class ClassifierStage(Stage, Protocol):
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

    @property
    def diagnoses(self) -> Diagnoses | None:
        """The diagnoses that it tells apart; a stage of one's own need not have this."""

    def predict_proba(self, images: np.ndarray) -> np.ndarray:
        """``(N, S, S, 3)`` uint8 RGB to ``(N, 2)`` float32 probabilities."""

    def predict_with_shares(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The same, and ``(N, K)`` float32 shares of each diagnosis within its class.

        Only called where :attr:`diagnoses` is not ``None``.
        """

    def describe(self) -> dict[str, Any]:
        """The stage's settings as plain JSON values."""
