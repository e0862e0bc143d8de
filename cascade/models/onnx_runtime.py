"""Both stages as ONNX graphs: the same answers as the torch networks, without torch."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, Protocol, Self

import numpy as np

from cascade.config import CLASSES
from cascade.errors import ConfigError, ModelFileError, ShapeError
from cascade.lesion.policy import MaskPolicy
from cascade.reliability import Diagnoses

PROBABILITIES, FEATURES, ACTIVATION_MAPS = "probabilities", "features", "activation_maps"
DIAGNOSIS_SHARES = "diagnosis_shares"


class GraphSession(Protocol):
    """A graph that a runtime has read; several threads may use it at once."""

    @property
    def input_shape(self) -> tuple[Any, ...]:
        """Shape of the one input; empty where there are several."""

    @property
    def outputs(self) -> set[str]:
        """Names of what the graph gives."""

    @property
    def runtime(self) -> str:
        """What has read it: ``onnx`` or ``openvino``."""

    @property
    def cores(self) -> int:
        """How many cores it may use."""

    @property
    def on_gpu(self) -> bool:
        """Whether a GPU computes it."""

    def single_threaded(self) -> GraphSession | None:
        """The same graph for calls of several threads; see :class:`cascade.models.protocol.Stage`.

        ``None`` on a GPU.
        """

    def run(self, images: np.ndarray, names: tuple[str, ...]) -> list[np.ndarray]:
        """The named outputs for a batch."""


class OnnxStage:
    """What both stages share: a session, settings, and a check of what goes in."""

    def __init__(
        self,
        session: GraphSession,
        description: Mapping[str, Any],
        *,
        provenance: Mapping[str, Any] | None = None,
        source: str = "model",
    ) -> None:
        """Use a graph as a stage.

        ``source`` is what error messages call the graph.

        Raises:
            ModelFileError: the graph is not one of cascade's.
        """
        shape = session.input_shape
        square = len(shape) == 4 and shape[1] == shape[2] and shape[3] == 3
        if PROBABILITIES not in session.outputs or not (square and isinstance(shape[1], int)):
            raise ModelFileError(
                f"{source}: takes {shape} and gives {', '.join(sorted(session.outputs))}; a graph "
                f"of cascade takes (N, S, S, 3) and gives {PROBABILITIES}"
            )
        self.size: int = shape[1]
        self.provenance = dict(provenance or {})
        self._session = session
        self._description = dict(description)

    def describe(self) -> dict[str, Any]:
        """The stage's settings as plain JSON values."""
        return dict(self._description)

    @property
    def runtime(self) -> str:
        """What computes it: ``onnx`` or ``openvino``."""
        return self._session.runtime

    @property
    def cores(self) -> int:
        """How many cores it may use."""
        return self._session.cores

    @property
    def on_gpu(self) -> bool:
        """Whether a GPU computes it."""
        return self._session.on_gpu

    def single_threaded(self) -> Self | None:
        """The same stage for calls of several threads; see :class:`.protocol.Stage`."""
        session = self._session.single_threaded()
        if session is None:
            return None
        other = copy.copy(self)
        other._session = session
        return other

    def _run(self, images: np.ndarray, *names: str) -> list[np.ndarray]:
        """The named outputs for ``(N, S, S, 3)`` uint8 RGB.

        Raises:
            ShapeError: the batch is not uint8 RGB at this network's size.
        """
        expected = (self.size, self.size, 3)
        if images.dtype != np.uint8 or images.shape[1:] != expected:
            raise ShapeError(
                f"a network takes uint8 RGB (N, {self.size}, {self.size}, 3), got "
                f"{images.shape} {images.dtype}",
                expected=("N", *expected),
                actual=images.shape,
            )
        return self._session.run(np.ascontiguousarray(images), names)


class OnnxSegmenter(OnnxStage):
    """Finds the lesion."""

    def predict(self, images: np.ndarray) -> np.ndarray:
        """``(N, S, S, 3)`` uint8 RGB to ``(N, S, S)`` float32 probabilities of lesion."""
        return _within_1(self._run(images, PROBABILITIES)[0])

    def predict_with_features(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The same, and ``(N, D)`` float32 features for the out-of-distribution detector."""
        probabilities, features = self._run(images, PROBABILITIES, FEATURES)
        return _within_1(probabilities), features


def _within_1(probabilities: np.ndarray) -> np.ndarray:
    """Without what rounding adds: the runtime's sigmoid is 1.0000001 for large values."""
    return np.clip(probabilities, np.float32(0), np.float32(1))


class OnnxClassifier(OnnxStage):
    """Judges a masked crop; temperature and bias are inside the graph."""

    def __init__(
        self, session: GraphSession, description: Mapping[str, Any], **options: Any
    ) -> None:
        super().__init__(session, description, **options)
        source = options.get("source", "model")
        try:
            if tuple(description["classes"]) != CLASSES:
                raise ModelFileError(
                    f"{source}: its classes are {description['classes']}, not {list(CLASSES)}"
                )
            self.policy = MaskPolicy.from_dict(description["policy"])
            self.cutoff = float(description["cutoff"])
            self.operating_points: dict[str, float] = dict(description["operating_points"])
            self.diagnoses = Diagnoses.from_description(description.get("diagnoses"))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ModelFileError(
                f"{source}: its description is incomplete or of another kind "
                f"({type(error).__name__}: {error})"
            ) from error
        if self.diagnoses is not None and DIAGNOSIS_SHARES not in session.outputs:
            raise ModelFileError(
                f"{source}: tells of diagnoses, but the graph does not give {DIAGNOSIS_SHARES}; "
                "write it again with: cascade export"
            )

    def predict_proba(self, images: np.ndarray) -> np.ndarray:
        """``(N, S, S, 3)`` uint8 RGB to ``(N, 2)`` float32 probabilities that sum to 1."""
        return self._run(images, PROBABILITIES)[0]

    def predict_with_shares(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The same, and ``(N, K)`` float32 shares of each diagnosis within its class."""
        probabilities, shares = self._run(images, PROBABILITIES, DIAGNOSIS_SHARES)
        return probabilities, shares

    @property
    def has_activation_map(self) -> bool:
        """Whether the graph gives class activation maps."""
        return ACTIVATION_MAPS in self._session.outputs

    def activation_map(self, images: np.ndarray, *, target: str) -> np.ndarray:
        """Where the classifier finds what speaks for a class (Zhou et al. 2016).

        The last feature maps weighted as the last layer weighs them. Averaged over the image they
        are the logit of the class, but for a constant, so values below 0 speak against it.

        ``images`` are ``(N, S, S, 3)`` uint8 RGB.

        Returns:
            ``(N, h, w)`` float32, not scaled; h and w are those of the last feature maps.

        Raises:
            ConfigError: the target is no class, or the architecture has no such map.
        """
        if target not in CLASSES:
            raise ConfigError(f"target is {target!r}; choose from {', '.join(CLASSES)}")
        if not self.has_activation_map:
            raise ConfigError(
                "this classifier does not end in an average of feature maps and one linear layer, "
                "so it has no class activation map; explain it with the torch runtime"
            )
        return self._run(images, ACTIVATION_MAPS)[0][:, CLASSES.index(target)]
