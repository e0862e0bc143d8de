"""An ONNX graph in OpenVINO, which is faster on processors of Intel."""

from __future__ import annotations

from typing import Literal

import numpy as np

from cascade.errors import DeviceError, MissingExtraError, ModelFileError
from cascade.models.onnx_session import thread_count

Precision = Literal["float32", "bfloat16"]
_HINTS = {"float32": "f32", "bfloat16": "bf16"}


class OpenVinoSession:
    """A graph that is ready to run; several threads may use it at once.

    OpenVINO by itself computes in bfloat16 where the processor can, and then gives other answers
    than elsewhere; so the precision is always said.

    ``input_shape`` is that of the one input, with -1 for what may vary.
    """

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

        The default number of threads is ``OMP_NUM_THREADS``, else one for each core.

        Raises:
            MissingExtraError: openvino is not installed.
            DeviceError: another device than the CPU was asked for.
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
        settings = {
            "INFERENCE_PRECISION_HINT": _HINTS[precision],
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": "1",
            "ENABLE_CPU_PINNING": "NO",
        }
        count = thread_count(threads)
        if count is not None:
            settings["INFERENCE_NUM_THREADS"] = str(count)
        core = openvino.Core()
        try:
            model = core.read_model(graph)
            self._compiled = core.compile_model(model, "CPU", settings)
        except RuntimeError as error:
            raise ModelFileError(f"{source}: openvino cannot read it ({error})") from error
        shape = model.inputs[0].partial_shape if len(model.inputs) == 1 else ()
        self.input_shape = tuple(side.get_length() if side.is_static else -1 for side in shape)
        self.outputs = {output.any_name for output in model.outputs}

    def run(self, images: np.ndarray, names: tuple[str, ...]) -> list[np.ndarray]:
        """The named outputs for a batch."""
        request = self._compiled.create_infer_request()  # one for each caller's thread
        request.infer([images])
        return [np.array(request.get_tensor(name).data) for name in names]
