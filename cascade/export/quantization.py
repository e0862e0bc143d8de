"""Graphs that compute in 8-bit integers, with ranges from images."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxscript import optimizer

from cascade.errors import CascadeError, ConfigError, DataError
from cascade.export.graphs import IMAGES, arranged
from cascade.imaging import ImageSource, read_image
from cascade.imaging.resize import resize_pixels
from cascade.pipeline import Cascade

log = logging.getLogger(__name__)

FEWEST_IMAGES = 20
_DECODER = "segmenter.network.decoder."


class _Inputs(CalibrationDataReader):
    """Batches of one image, as onnxruntime asks for them."""

    def __init__(self, batches: Sequence[np.ndarray]) -> None:
        self._batches: Iterator[np.ndarray] = iter(batches)

    def get_next(self) -> dict[str, np.ndarray] | None:
        batch = next(self._batches, None)
        return None if batch is None else {IMAGES: batch}


def with_8_bit_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """A graph that stores the weights of dense convolutions in 8 bits; it computes in float32.

    Each output channel has its own scale, so that its largest weight becomes 127. Weights of
    depthwise convolutions, which are few and lose most, stay as they are. The runtime multiplies
    by the scales once, when it reads the graph, so this saves space and costs no time.
    """
    result = arranged(model)
    channel_axes = {"Conv": 0, "ConvTranspose": 1}
    axes = {
        node.input[1]: channel_axes[node.op_type]
        for node in result.graph.node
        if node.op_type in channel_axes
    }
    scales, nodes = [], []
    for stored in result.graph.initializer:
        weight = numpy_helper.to_array(stored)
        if stored.name not in axes or min(weight.shape[:2]) == 1:
            continue
        others = tuple(axis for axis in range(weight.ndim) if axis != axes[stored.name])
        largest = np.abs(weight).max(axis=others, keepdims=True)
        scale = np.where(largest > 0, largest / 127, 1).astype(np.float32)
        name = stored.name
        stored.CopyFrom(
            numpy_helper.from_array(np.rint(weight / scale).astype(np.int8), f"{name}.int8")
        )
        scales.append(numpy_helper.from_array(scale, f"{name}.scale"))
        nodes += [
            helper.make_node("Cast", [f"{name}.int8"], [f"{name}.steps"], to=TensorProto.FLOAT),
            helper.make_node("Mul", [f"{name}.steps", f"{name}.scale"], [name]),
        ]
    nodes += result.graph.node
    del result.graph.node[:]
    result.graph.node.extend(nodes)
    result.graph.initializer.extend(scales)
    return result


def split_images(
    images: Sequence[ImageSource],
) -> tuple[Sequence[ImageSource], Sequence[ImageSource]]:
    """Images to calibrate with, and others to compare on.

    Raises:
        DataError: there are too few.
    """
    if len(images) < FEWEST_IMAGES:
        raise DataError(
            f"int8 needs at least {FEWEST_IMAGES} images, half of them for the ranges of "
            f"numbers and half to compare on; got {len(images)} (--images)"
        )
    return images[::2], images[1::2]


def calibration_inputs(
    cascade: Cascade, images: Sequence[ImageSource]
) -> dict[str, list[np.ndarray]]:
    """What each stage sees of images, ``(1, S, S, 3)`` uint8 each.

    Raises:
        DataError: none of them can be judged.
    """
    inputs: dict[str, list[np.ndarray]] = {"segmenter": [], "classifier": []}
    for source in images:
        try:
            image = read_image(source, limits=cascade.limits)
            crop = cascade(image.pixels)[0].crop
        except CascadeError as error:
            log.warning("not used: %s", error)
            continue
        inputs["segmenter"].append(resize_pixels(image.pixels, cascade.segmenter.size)[None])
        inputs["classifier"].append(crop[None])
    if not inputs["segmenter"]:
        raise DataError("none of the images for int8 can be judged")
    return inputs


def quantized(model: onnx.ModelProto, inputs: Sequence[np.ndarray]) -> onnx.ModelProto:
    """A graph whose convolutions compute in 8-bit integers.

    Of a segmenter only the decoder does, where most of the time goes. Encoders are made of layers
    that lose much by it, and left as they are they give the same features.

    ``inputs`` are ``(1, S, S, 3)`` uint8; the float32 model stays as it is.

    Raises:
        ConfigError: there is no convolution to quantize.
    """
    merged = optimizer.optimize(model)
    convolutions = [node for node in merged.graph.node if node.op_type == "Conv"]
    is_segmenter = any(node.input[1].startswith(_DECODER) for node in convolutions)
    kept = [
        node.name
        for node in convolutions
        if is_segmenter and not node.input[1].startswith(_DECODER)
    ]
    if len(kept) == len(convolutions):
        raise ConfigError("the network has no convolutions, so int8 gains nothing")
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "float32.onnx", Path(folder) / "int8.onnx"
        # layers are merged already; onnxruntime asks for its own tool to do so otherwise
        merged.metadata_props.add(key="onnx.quant.pre_process", value="onnxruntime.quant")
        onnx.save(merged, source)
        quantize_static(
            source,
            target,
            _Inputs(inputs),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv", "Relu"],
            nodes_to_exclude=kept,
            per_channel=True,
            reduce_range=True,  # 7 bits for weights: else sums overflow on processors without VNNI
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        return onnx.load(target)
