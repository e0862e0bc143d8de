"""An ONNX graph in ONNX Runtime."""

from __future__ import annotations

import functools
import threading
from typing import Any

import numpy as np

from cascade.errors import ConfigError, DeviceError, MissingExtraError, ModelFileError
from cascade.models.cores import usable_cores


class OnnxSession:
    """A graph that is ready to run; several threads may use it at once.

    Attributes:
        input_shape: that of the one input, with words for what may vary.
        outputs: names of what the graph gives.
        cores: how many it may use.
        on_gpu: whether CUDA computes.
    """

    runtime = "onnx"

    def __init__(
        self, graph: bytes, *, device: str = "auto", threads: int | None = None, source: str
    ) -> None:
        """Open a session.

        ``auto`` and ``cpu`` are the CPU; ``cuda`` or ``cuda:N`` needs onnxruntime-gpu. The default
        number of threads is that of :func:`cascade.models.cores.usable_cores`.

        Raises:
            MissingExtraError: onnxruntime is not installed.
            DeviceError: the device is unknown or absent.
            ModelFileError: the graph cannot be read.
        """
        self.cores = thread_count(threads)
        self._session = _opened(graph, device, self.cores, source)
        self._single: OnnxSession | None = self if self.cores == 1 else None
        self._opening = threading.Lock()
        self.on_gpu = device.startswith("cuda")
        self._graph = b"" if self._single or self.on_gpu else graph
        self._source = source
        inputs = self._session.get_inputs()
        self._input = inputs[0].name
        self.input_shape = tuple(inputs[0].shape) if len(inputs) == 1 else ()
        self.outputs = {output.name for output in self._session.get_outputs()}

    def single_threaded(self) -> OnnxSession | None:
        """A session that computes in the thread of each caller; ``None`` on a GPU."""
        if self.on_gpu:
            return None
        with self._opening:
            if self._single is None:
                self._single = OnnxSession(
                    self._graph, device="cpu", threads=1, source=self._source
                )
                self._single.cores = self.cores  # for the callers together
                self._graph = b""
        return self._single

    def run(self, images: np.ndarray, names: tuple[str, ...]) -> list[np.ndarray]:
        """The named outputs for a batch."""
        outputs: list[np.ndarray] = self._session.run(list(names), {self._input: images})
        return outputs


def _opened(graph: bytes, device: str, threads: int, source: str) -> Any:
    try:
        import onnxruntime
        from onnxruntime.capi import onnxruntime_pybind11_state as state
    except ImportError as error:
        raise MissingExtraError(
            "the onnx runtime needs onnxruntime: pip install onnxruntime, or the extra "
            "'cascade[export]'"
        ) from error
    providers = _providers(device, onnxruntime.get_available_providers())
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors only; they are raised anyhow
    if not device.startswith("cuda"):
        _share_arena()
        options.add_session_config_entry("session.use_env_allocators", "1")
    # threads that wait without spinning leave the other cores to other processes
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        session = onnxruntime.InferenceSession(graph, options, providers=providers)
    except _errors_of(state) as error:
        raise ModelFileError(f"{source}: onnxruntime cannot read it ({error})") from error
    if device.startswith("cuda") and "CUDAExecutionProvider" not in session.get_providers():
        raise DeviceError(f"device {device!r} was asked for, but onnxruntime cannot use it")
    return session


@functools.cache
def _share_arena() -> None:
    """Let all sessions of this process take the memory of feature maps from one arena.

    It keeps what all runs at one time needed and no more, and none is fetched from the system
    again for each image, which would take a fifth of the time. An arena for each session would
    keep as much again for each.
    """
    import onnxruntime

    place = onnxruntime.OrtMemoryInfo(
        "Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT
    )
    only_what_is_asked_for = 1  # the default doubles the arena each time
    settings = onnxruntime.OrtArenaCfg(0, only_what_is_asked_for, -1, -1)
    onnxruntime.create_and_register_allocator(place, settings)


def thread_count(threads: int | None) -> int:
    """How many threads are to compute: the number given, else one for each usable core.

    Raises:
        ConfigError: it is less than 1.
    """
    if threads is None:
        return usable_cores()
    if threads < 1:
        raise ConfigError(f"threads is {threads}; it must be at least 1")
    return threads


def _errors_of(module: Any) -> tuple[type[Exception], ...]:
    """All errors of onnxruntime, which share no class of their own."""
    kinds = (value for value in vars(module).values() if isinstance(value, type))
    return tuple(kind for kind in kinds if issubclass(kind, Exception))


def _providers(device: str, available: list[str]) -> list[Any]:
    if device in ("auto", "cpu"):
        return ["CPUExecutionProvider"]
    kind, colon, number = device.partition(":")
    if kind != "cuda" or (colon and not number.isdecimal()):
        raise DeviceError(f"device {device!r} is unknown; use auto, cpu, cuda or cuda:N")
    if "CUDAExecutionProvider" not in available:
        raise DeviceError(
            f"device {device!r} was asked for, but this onnxruntime has no CUDA; install "
            "onnxruntime-gpu instead of onnxruntime, or use --device cpu"
        )
    return [("CUDAExecutionProvider", {"device_id": int(number or 0)}), "CPUExecutionProvider"]
