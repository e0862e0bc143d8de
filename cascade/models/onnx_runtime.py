"""Both stages as ONNX Runtime sessions: the same answers as the torch networks, without torch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from cascade.config import CLASSES
from cascade.errors import (
    ConfigError,
    DeviceError,
    MissingExtraError,
    ModelFileError,
    ShapeError,
)
from cascade.mask_policy import MaskPolicy

PROBABILITIES, FEATURES, ACTIVATION_MAPS = "probabilities", "features", "activation_maps"


class OnnxStage:
    """One graph in one session; several threads may use it at once.

    Attributes:
        provenance: how the stage was made.
    """

    def __init__(
        self,
        graph: bytes,
        description: Mapping[str, Any],
        *,
        provenance: Mapping[str, Any] | None = None,
        device: str = "auto",
        threads: int | None = None,
        source: str = "model",
    ) -> None:
        """Open a session.

        Args:
            graph: a verified ONNX graph, without external data.
            description: the stage's settings.
            provenance: how it was made.
            device: ``auto`` and ``cpu`` are the CPU; ``cuda`` or ``cuda:N`` needs onnxruntime-gpu.
            threads: that compute; by default ``OMP_NUM_THREADS``, else all cores.
            source: what error messages call the graph.

        Raises:
            MissingExtraError: onnxruntime is not installed.
            DeviceError: the device is unknown or absent.
            ModelFileError: the graph cannot be read, or is not one of cascade's.
        """
        self.provenance = dict(provenance or {})
        self._description = dict(description)
        self._session = _open(graph, device, threads, source)
        self._outputs = {output.name for output in self._session.get_outputs()}
        inputs = self._session.get_inputs()
        shape = inputs[0].shape if len(inputs) == 1 else []
        if PROBABILITIES not in self._outputs or len(shape) != 4 or shape[3] != 3:
            raise ModelFileError(f"{source}: takes {shape} and gives {sorted(self._outputs)}")
        self._input = inputs[0].name
        self.size = int(shape[1])

    def describe(self) -> dict[str, Any]:
        """The stage's settings as plain JSON values."""
        return dict(self._description)

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
        outputs: list[np.ndarray] = self._session.run(
            list(names), {self._input: np.ascontiguousarray(images)}
        )
        return outputs


class OnnxSegmenter(OnnxStage):
    """Finds the lesion."""

    def predict(self, images: np.ndarray) -> np.ndarray:
        """``(N, S, S, 3)`` uint8 RGB to ``(N, S, S)`` float32 probabilities of lesion."""
        return self._run(images, PROBABILITIES)[0]

    def predict_with_features(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The same, and ``(N, D)`` float32 features that tell familiar images from others."""
        probabilities, features = self._run(images, PROBABILITIES, FEATURES)
        return probabilities, features


class OnnxClassifier(OnnxStage):
    """Judges a masked crop; temperature and bias are inside the graph.

    Attributes:
        policy: how the crops that it was trained on were cut.
        cutoff: probability of ``malignant`` from which the label is ``malignant``.
        operating_points: target sensitivity, as text such as ``"0.90"``, to its cutoff.
    """

    def __init__(self, graph: bytes, description: Mapping[str, Any], **options: Any) -> None:
        super().__init__(graph, description, **options)
        source = options.get("source", "model")
        try:
            if tuple(description["classes"]) != CLASSES:
                raise ModelFileError(
                    f"{source}: its classes are {description['classes']}, not {list(CLASSES)}"
                )
            self.policy = MaskPolicy.from_dict(description["policy"])
            self.cutoff = float(description["cutoff"])
            self.operating_points: dict[str, float] = dict(description["operating_points"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ModelFileError(
                f"{source}: its description is incomplete or of another kind "
                f"({type(error).__name__}: {error})"
            ) from error

    def predict_proba(self, images: np.ndarray) -> np.ndarray:
        """``(N, S, S, 3)`` uint8 RGB to ``(N, 2)`` float32 probabilities that sum to 1."""
        return self._run(images, PROBABILITIES)[0]

    @property
    def has_activation_map(self) -> bool:
        """Whether the graph gives class activation maps."""
        return ACTIVATION_MAPS in self._outputs

    def activation_map(self, images: np.ndarray, *, target: str) -> np.ndarray:
        """Where the classifier finds what speaks for a class (Zhou et al. 2016).

        The last feature maps weighted as the last layer weighs them. Averaged over the image they
        are the logit of the class, but for a constant, so values below 0 speak against it.

        Args:
            images: ``(N, S, S, 3)`` uint8 RGB.
            target: ``benign`` or ``malignant``.

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


def _open(graph: bytes, device: str, threads: int | None, source: str) -> Any:
    try:
        import onnxruntime
        from onnxruntime.capi import onnxruntime_pybind11_state as state
    except ImportError as error:
        raise MissingExtraError(
            "the ONNX runtime needs onnxruntime: pip install onnxruntime (or 'cascade[export]')"
        ) from error
    providers = _providers(device, onnxruntime.get_available_providers())
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = _threads(threads)
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors only; they are raised anyhow
    options.enable_cpu_mem_arena = False  # an arena never gives memory back
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # nothing lies in this "folder", so a graph that names files of weights is refused
    options.add_session_config_entry(
        "session.model_external_initializers_file_folder_path", os.devnull
    )
    try:
        session = onnxruntime.InferenceSession(graph, options, providers=providers)
    except _errors_of(state) as error:
        raise ModelFileError(f"{source}: onnxruntime cannot read it ({error})") from error
    wanted = providers[0][0] if isinstance(providers[0], tuple) else providers[0]
    if session.get_providers()[0] != wanted:  # it falls back without an error
        raise DeviceError(f"device {device!r} was asked for, but onnxruntime could not use it")
    return session


def _errors_of(module: Any) -> tuple[type[Exception], ...]:
    """All errors of onnxruntime, which share no class of their own."""
    kinds = (value for value in vars(module).values() if isinstance(value, type))
    return tuple(kind for kind in kinds if issubclass(kind, Exception))


def _providers(device: str, available: list[str]) -> list[Any]:
    if device in ("auto", "cpu"):
        return ["CPUExecutionProvider"]
    kind, _, number = device.partition(":")
    if kind != "cuda" or (number and not number.isdecimal()):
        raise DeviceError(f"device {device!r} is unknown; use auto, cpu, cuda or cuda:N")
    if "CUDAExecutionProvider" not in available:
        raise DeviceError(
            f"device {device!r} was asked for, but this onnxruntime has no CUDA; install "
            "onnxruntime-gpu instead of onnxruntime, or use --device cpu"
        )
    return [("CUDAExecutionProvider", {"device_id": int(number or 0)}), "CPUExecutionProvider"]


def _threads(threads: int | None) -> int:
    if threads is None:
        given = os.environ.get("OMP_NUM_THREADS", "")
        return int(given) if given.isdecimal() else 0  # 0 is one for each core
    if threads < 1:
        raise ConfigError(f"threads is {threads}; it must be at least 1")
    return threads
