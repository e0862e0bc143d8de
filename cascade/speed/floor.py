"""The least time in which this processor could judge an image: what any runtime is compared with.

The floor is the decoding of the file, divided by the threads, plus the arithmetic of both networks
at the highest speed that a dense 3x3 convolution reaches here. Everything else counts as overhead:
resizing, masks, measurements, safeguards, memory traffic, and layers that run slower than that.
"""

from __future__ import annotations

import importlib.util
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from cascade.errors import DataError
from cascade.models.exported import STAGES, read_exported

CONVOLUTIONS = ((8, 128, 64), (16, 256, 32), (8, 512, 16))
"""Batch, channels and side of the convolutions that are tried; the fastest one counts."""

_SECONDS_EACH = 0.3
_MORE_ON_GPU = 16
"""Times as large are the batches that fill a GPU."""


def measure_floor(task: Mapping[str, Any]) -> dict[str, Any]:
    """Measure what the floor is made of.

    ``task`` holds the path of the cascade's ``file`` or exported ``folder``, ``precisions``,
    ``threads``, and ``sets``: the paths of each set of images.

    Returns:
        ``decode_ms`` by set, ``side``: the networks' input, ``flops`` by stage with ``counted_by``,
        and ``peak_flops`` by precision, ``None`` where torch cannot say.
    """
    counted = _count(task)
    precisions = sorted({"float32", *task["precisions"]})
    return {
        **counted,
        "decode_ms": {
            name: statistics.median(decode_ms(path, counted["side"]) for path in files)
            for name, files in task["sets"].items()
        },
        "peak_flops": {name: peak_flops(name, task["threads"]) for name in precisions},
    }


def _count(task: Mapping[str, Any]) -> dict[str, Any]:
    """Operations of each network for one image, a multiplication and an addition being two."""
    if task["folder"] and importlib.util.find_spec("onnx"):
        exported = read_exported(task["folder"])
        try:
            counts = [graph_flops(exported.graph(stage)) for stage in STAGES]
        except DataError as error:
            return {"flops": None, "side": 0, "counted_by": str(error)}
        sides, flops = zip(*counts, strict=True)
        how = "convolutions and matrix products of the ONNX graphs, shapes by onnx"
    elif task["file"] and importlib.util.find_spec("torch"):
        from cascade import Cascade

        cascade = Cascade.load(task["file"], device="cpu", runtime="torch")
        stages = (cascade.segmenter, cascade.classifier)
        functions = (cascade.segmenter.predict, cascade.classifier.predict_proba)
        sides = tuple(stage.size for stage in stages)
        flops = tuple(map(torch_flops, functions, sides))
        how = "torch.utils.flop_counter.FlopCounterMode"
    else:
        return {"flops": None, "side": 0, "counted_by": "neither onnx nor torch is installed"}
    return {
        "flops": dict(zip(STAGES, flops, strict=True)), "side": max(sides), "counted_by": how,
    }  # fmt: skip


def graph_flops(graph: bytes) -> tuple[int, int]:
    """Side of an ONNX graph's input, and its floating-point operations for one image.

    Raises:
        DataError: a shape depends on more than the input's.
    """
    import onnx

    model = onnx.load_from_string(graph)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    del model.graph.value_info[:]  # shapes with the batch left open
    for output in model.graph.output:
        output.type.tensor_type.ClearField("shape")
    model = onnx.shape_inference.infer_shapes(model, data_prop=True)
    shapes = {item.name: tuple(item.dims) for item in model.graph.initializer}
    for item in (*model.graph.value_info, *model.graph.input, *model.graph.output):
        sides = [side.dim_value for side in item.type.tensor_type.shape.dim]
        shapes[item.name] = (sides[0] or 1, *sides[1:]) if sides else ()  # one image, where open
    total = 0
    for node in model.graph.node:
        if node.op_type in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
            total += _node_flops(node, shapes)
    return shapes[model.graph.input[0].name][1], total


def _node_flops(node: Any, shapes: Mapping[str, tuple[int, ...]]) -> int:
    first, second, made = (
        shapes.get(name, ()) for name in (node.input[0], node.input[1], node.output[0])
    )
    if not all(math.prod(shape) and shape for shape in (first, second, made)):
        raise DataError(f"the shape of {node.output[0]} is not known")
    if node.op_type == "Conv":
        return 2 * math.prod(made) * math.prod(second[1:])
    if node.op_type == "ConvTranspose":
        return 2 * math.prod(first) * math.prod(second[1:])
    transposed = any(item.name == "transA" and item.i for item in node.attribute)
    return 2 * math.prod(made) * first[0 if transposed else -1]


def torch_flops(predict: Callable[[np.ndarray], Any], side: int) -> int:
    """Floating-point operations of a torch network for one image of so many pixels a side."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        predict(np.zeros((1, side, side, 3), np.uint8))
    return int(counter.get_total_flops())


def peak_flops(precision: str, threads: int, device: str = "cpu") -> float | None:
    """Operations a second of the fastest dense 3x3 convolution of torch in this precision.

    ``None`` without torch, and for a precision that its convolutions do not have.
    """
    if importlib.util.find_spec("torch") is None:
        return None
    import torch

    kind = getattr(torch, precision, None)
    if not isinstance(kind, torch.dtype) or not kind.is_floating_point:
        return None
    torch.set_num_threads(threads)
    with torch.inference_mode():
        return max(_convolution_flops(torch, kind, device, *shape) for shape in CONVOLUTIONS)


def _convolution_flops(
    torch: Any, kind: Any, device: str, batch: int, channels: int, side: int
) -> float:
    on_gpu = device != "cpu"
    batch *= _MORE_ON_GPU if on_gpu else 1
    layer = torch.nn.Conv2d(channels, channels, 3, padding=1, bias=False).to(device, kind)
    layer = layer.to(memory_format=torch.channels_last)
    images = torch.zeros(batch, channels, side, side, dtype=kind, device=device)
    images = images.to(memory_format=torch.channels_last)
    wait = torch.cuda.synchronize if on_gpu else int
    for _ in range(3 if on_gpu else 1):
        layer(images)
    fastest, begun = math.inf, time.perf_counter()
    while time.perf_counter() - begun < _SECONDS_EACH:
        wait()
        start = time.perf_counter()
        layer(images)
        wait()
        fastest = min(fastest, time.perf_counter() - start)
    return 2 * batch * side**2 * channels**2 * 9 / fastest


def decode_ms(path: str | Path, side: int) -> float:
    """Milliseconds in which OpenCV decodes a file on one thread, at the best of a few attempts.

    JPEG decoders can halve, quarter or take an eighth of an image on the way. The strongest of
    these reductions that leaves the short side at ``side`` pixels or more is tried as well.
    """
    data = np.fromfile(path, np.uint8)
    whole = cv2.imdecode(data, cv2.IMREAD_COLOR)
    if whole is None:  # such as DICOM
        return 0.0
    flags = [cv2.IMREAD_COLOR]
    factor = min(whole.shape[:2]) // max(side, 1)
    for least, flag in (
        (8, cv2.IMREAD_REDUCED_COLOR_8),
        (4, cv2.IMREAD_REDUCED_COLOR_4),
        (2, cv2.IMREAD_REDUCED_COLOR_2),
    ):
        if factor >= least:
            flags.append(flag)
            break
    return min(_decoding_ms(data, flag) for flag in flags for _ in range(2))


def _decoding_ms(data: np.ndarray, flag: int) -> float:
    start = time.perf_counter()
    cv2.imdecode(data, flag)
    return (time.perf_counter() - start) * 1000


def floor_seconds(
    floor: Mapping[str, Any], name: str, precision: str, threads: int
) -> float | None:
    """Least seconds an image of a set could take when many are judged; ``None`` if unknown.

    A precision counts at least as fast as float32, whose units can compute it, too.
    """
    known = [floor["peak_flops"].get(name) for name in (precision, "float32")]
    peak = max((speed for speed in known if speed is not None), default=None)
    if floor["flops"] is None or peak is None:
        return None
    decoding = floor["decode_ms"][name] / 1000 / threads
    return float(decoding + sum(floor["flops"].values()) / peak)


def merge_floors(floors: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Several measurements as one: the fastest decoding and the highest speed of each."""
    first = floors[0]
    peaks = {
        name: None if known is None else max(floor["peak_flops"][name] for floor in floors)
        for name, known in first["peak_flops"].items()
    }
    decoding = {
        name: min(floor["decode_ms"][name] for floor in floors) for name in first["decode_ms"]
    }
    return {**first, "decode_ms": decoding, "peak_flops": peaks}
