"""An ONNX graph in OpenVINO, which is faster on processors of Intel."""

from __future__ import annotations

import copy
import threading
from typing import Any, Literal

import numpy as np

from cascade.errors import ConfigError, DeviceError, MissingExtraError, ModelFileError
from cascade.models.onnx_session import thread_count

Precision = Literal["float32", "bfloat16"]
_HINTS = {"float32": "f32", "bfloat16": "bf16"}


class OpenVinoSession:
    """A graph that is ready to run; several threads may use it at once.

    OpenVINO by itself computes in bfloat16 where the processor can, and then gives other answers
    than elsewhere; so the precision is always said.

    Attributes:
        input_shape: that of the one input, with -1 for what may vary.
        outputs: names of what the graph gives.
        cores: how many it may use.
    """

    runtime = "openvino"
    on_gpu = False

    def __init__(
        self,
        graph: bytes,
        *,
        device: str = "auto",
        threads: int | None = None,
        precision: Precision = "float32",
        source: str,
    ) -> None:
        """Compile a graph for the CPU.

        The default number of threads is that of :func:`cascade.models.cores.usable_cores`.

        Raises:
            MissingExtraError: openvino is not installed.
            DeviceError: another device than the CPU was asked for.
            ConfigError: the CPU does not compute in this precision.
            ModelFileError: the graph cannot be read.
        """
        if device not in ("auto", "cpu"):
            raise DeviceError(f"device {device!r}: openvino runs on the CPU here; use auto or cpu")
        try:
            import openvino
        except ImportError as error:
            raise MissingExtraError(
                "the openvino runtime needs openvino: pip install openvino, or the extra "
                "'cascade[openvino]'"
            ) from error
        self._core = openvino.Core()
        if precision == "bfloat16" and "BF16" not in self._core.get_property(
            "CPU", "OPTIMIZATION_CAPABILITIES"
        ):
            raise ConfigError("cpu does not compute in bfloat16; use float32")
        self.cores = thread_count(threads)
        self._settings = {
            "INFERENCE_PRECISION_HINT": _HINTS[precision],
            "INFERENCE_NUM_THREADS": str(self.cores),
            "ENABLE_CPU_PINNING": "NO",
        }
        try:
            self._model = self._core.read_model(graph)
            self._compiled = self._compile("LATENCY", streams=1)
        except RuntimeError as error:
            raise ModelFileError(f"{source}: openvino cannot read it ({error})") from error
        inputs = self._model.inputs
        shape = inputs[0].partial_shape if len(inputs) == 1 else ()
        self.input_shape = tuple(side.get_length() if side.is_static else -1 for side in shape)
        self.outputs = {output.any_name for output in self._model.outputs}
        self._requests = threading.local()
        self._opening = threading.Lock()
        self._single: OpenVinoSession | None = self if self.cores == 1 else None

    def _compile(self, hint: str, *, streams: int) -> Any:
        settings = {**self._settings, "PERFORMANCE_HINT": hint, "NUM_STREAMS": str(streams)}
        return self._core.compile_model(self._model, "CPU", settings)

    def single_threaded(self) -> OpenVinoSession:
        """The graph compiled for one stream a core, each of which serves one caller at a time."""
        with self._opening:
            if self._single is None:
                single = copy.copy(self)
                single._compiled = self._compile("THROUGHPUT", streams=self.cores)
                single._requests = threading.local()
                single._single = single
                self._single = single
        return self._single

    def run(self, images: np.ndarray, names: tuple[str, ...]) -> list[np.ndarray]:
        """The named outputs for a batch."""
        request = getattr(self._requests, "request", None)
        if request is None:  # one for each caller's thread
            request = self._requests.request = self._compiled.create_infer_request()
        request.infer([images])
        return [np.array(request.get_tensor(name).data) for name in names]
