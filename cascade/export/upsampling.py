"""Decoders convolve at the size before the upsampling: the same numbers for less arithmetic.

Where every pixel is doubled, the nine weights of a 3 by 3 convolution meet only four different
pixels. Which four depends on whether row and column are even or odd, so there are four kernels of
2 by 2 pixels, sums of the original weights. The channels of a skip connection, which are not
upsampled, keep the original convolution; both results are added.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnxscript import optimizer

_TAPS = np.array([[[1, 0, 0], [0, 1, 1]], [[1, 1, 0], [0, 0, 1]]], np.float32)
"""Which of three weights meet the first and second pixel, for an even and an odd place."""


@dataclass(frozen=True)
class _Level:
    """The nodes that upsample, join the skip connection if there is one, convolve and normalise."""

    resize: onnx.NodeProto
    concat: onnx.NodeProto | None
    convolution: onnx.NodeProto
    normalization: onnx.NodeProto
    channels: int

    @property
    def name(self) -> str:
        """Prefix of all new names."""
        return self.resize.output[0]


class NewNodes:
    """Nodes to be put into a graph; each is named after the value that it gives."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []

    def add(self, kind: str, inputs: list[str], output: str, **options: Any) -> str:
        """Append a node and return the name of its value."""
        node = helper.make_node(kind, inputs, [output], name=f"node_{output}", **options)
        self.nodes.append(node)
        return output

    def constant(self, value: Any, output: str) -> str:
        """Append a constant."""
        return self.add("Constant", [], output, value=numpy_helper.from_array(np.asarray(value)))


def convolved_before_upsampling(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of a graph with the convolutions after upsampling done before it, where that is so.

    A level of a decoder is replaced if it is nearest upsampling by 2, joined with a skip connection
    or not, then a 3 by 3 convolution and batch normalisation. New weights are computed from the
    old ones by nodes that a runtime evaluates when it reads the graph, so the file hardly grows.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    shapes = known_shapes(model)
    doubling = [node for node in graph.node if _doubles(node, shapes)]
    if not doubling:
        return result
    for name, value in {
        "twice": np.array([1, 1, 2, 2], np.float32),
        **{f"rows{place}": taps for place, taps in enumerate(_TAPS)},
        **{f"columns{place}": taps.T for place, taps in enumerate(_TAPS)},
    }.items():
        graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
    levels = {}
    for node in doubling:
        del node.input[1:]
        node.input.extend(["", "twice"])  # a constant, which runtimes know better than a shape
        level = _level(node, graph, shapes)
        if level is not None:
            levels[level.normalization.output[0]] = level
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        level = levels.get(node.output[0])
        nodes += [node] if level is None else _replacement(level)
    set_nodes(graph, nodes)
    optimizer.remove_unused_nodes(result)
    return result


def set_nodes(graph: onnx.GraphProto, nodes: list[onnx.NodeProto]) -> None:
    """Replace the nodes of a graph, of which some may come from it."""
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)


def known_shapes(model: onnx.ModelProto) -> dict[str, list[int]]:
    """Sides of all values; 0 where they vary."""
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    values = [*inferred.input, *inferred.value_info, *inferred.output]
    shapes = {
        value.name: [side.dim_value for side in value.type.tensor_type.shape.dim]
        for value in values
    }
    return shapes | {item.name: list(item.dims) for item in inferred.initializer}


def _doubles(node: onnx.NodeProto, shapes: dict[str, list[int]]) -> bool:
    if node.op_type != "Resize" or len(node.input) < 2:
        return False
    before, after = (shapes.get(name, []) for name in (node.input[0], node.output[0]))
    options = _attributes(node)
    nearest = (options.get("mode"), options.get("nearest_mode")) == (b"nearest", b"floor")
    places = options.get("coordinate_transformation_mode") == b"asymmetric"
    doubled = len(before) == 4 and 0 not in before[1:]
    return nearest and places and doubled and after[2:] == [2 * before[2], 2 * before[3]]


def _level(
    resize: onnx.NodeProto, graph: onnx.GraphProto, shapes: dict[str, list[int]]
) -> _Level | None:
    """The level that starts with an upsampling, if it is of the kind that is replaced."""
    used = Counter(name for node in graph.node for name in node.input)

    def after(node: onnx.NodeProto) -> onnx.NodeProto | None:
        value = node.output[0]
        following = [other for other in graph.node if value in other.input]
        alone = used[value] == 1 and following and following[0].input[0] == value
        return following[0] if alone else None

    concat, convolution = None, after(resize)
    if convolution is not None and convolution.op_type == "Concat":
        concat, convolution = convolution, after(convolution)
    if convolution is None or not is_plain(convolution, shapes):
        return None
    normalization = after(convolution)
    if normalization is None or normalization.op_type != "BatchNormalization":
        return None
    if concat is not None and len(concat.input) != 2:
        return None
    return _Level(resize, concat, convolution, normalization, shapes[resize.input[0]][1])


def is_plain(node: onnx.NodeProto, shapes: dict[str, list[int]]) -> bool:
    """Whether a node is a 3 by 3 convolution that keeps the size and mixes all channels."""
    options = _attributes(node)
    return (
        node.op_type == "Conv"
        and options.get("group") == 1
        and options.get("pads") == [1, 1, 1, 1]
        and options.get("strides") == options.get("dilations") == [1, 1]
        and shapes.get(node.input[1], [])[2:] == [3, 3]
    )


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {item.name: helper.get_attribute_value(item) for item in node.attribute}


def _replacement(level: _Level) -> list[onnx.NodeProto]:
    """The nodes that give what the normalisation of a level gave."""
    name = level.name
    new = NewNodes()
    _, scale, shift, mean, variance = level.normalization.input
    epsilon = np.float32(_attributes(level.normalization).get("epsilon", 1e-5))
    weight, *bias = level.convolution.input[1:]
    first, last = new.constant([0], f"{name}.first"), new.constant([2**31 - 1], f"{name}.last")
    middle = new.constant([level.channels], f"{name}.middle")
    axis = new.constant([1], f"{name}.axis")
    upper = new.add("Slice", [weight, first, middle, axis], f"{name}.upper")
    wide = new.add("Add", [variance, new.constant(epsilon, f"{name}.epsilon")], f"{name}.wide")
    factor = new.add("Div", [scale, new.add("Sqrt", [wide], f"{name}.root")], f"{name}.factor")
    column = new.constant([-1, 1, 1, 1], f"{name}.column")
    factors = new.add("Reshape", [factor, column], f"{name}.factors")
    scaled = new.add("Mul", [upper, factors], f"{name}.scaled")
    offset = []
    if level.concat is None:  # else it is added with the channels of the skip connection
        centre = new.add("Sub", [mean, *bias], f"{name}.centre") if bias else mean
        moved = new.add("Mul", [centre, factor], f"{name}.moved")
        offset = [new.add("Sub", [shift, moved], f"{name}.offset")]
    phases = []
    for row in (0, 1):
        rows = new.add("MatMul", [f"rows{row}", scaled], f"{name}.rows{row}")
        for side in (0, 1):
            part = f"{name}.{row}{side}"
            kernel = new.add("MatMul", [rows, f"columns{side}"], f"{part}.kernel")
            pads = [1 - row, 1 - side, row, side]
            inputs = [level.resize.input[0], kernel, *offset]
            phases.append(new.add("Conv", inputs, part, pads=pads))
    stacked = new.add("Concat", phases, f"{name}.phases", axis=1)
    result = level.normalization.output[0]
    upsampled = result if level.concat is None else f"{name}.upsampled"
    new.add("DepthToSpace", [stacked], upsampled, blocksize=2, mode="DCR")
    if level.concat is not None:
        skip = new.add("Slice", [weight, middle, last, axis], f"{name}.skip")
        inputs = [level.concat.input[1], skip, *bias]
        kept = new.add("Conv", inputs, f"{name}.kept", pads=[1, 1, 1, 1])
        normalized = new.add(
            "BatchNormalization", [kept, scale, shift, mean, variance], f"{name}.normalized",
            epsilon=float(epsilon),
        )  # fmt: skip
        new.add("Add", [upsampled, normalized], result)
    return new.nodes
