"""A convolution with one output channel as products first and shifted sums after.

Runtimes compute output channels in blocks of 8 or 16, so the last layer of a segmenter, which has
one, takes sixteen times the arithmetic that it needs. Here each of its nine weights first meets
all input channels of a pixel, which fills the block. The nine products are then moved to the pixel
that they belong to and added.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

from cascade.export.upsampling import NewNodes, is_plain, known_shapes, set_nodes

_TAPS, _BLOCK = 9, 16
_FEWEST_CHANNELS = 8
"""With fewer there is nothing to gain."""


def products_before_sums(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of a graph in which 3 by 3 convolutions to a single channel are taken apart.

    New weights are computed from the old ones by nodes that a runtime evaluates when it reads the
    graph.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph, shapes = result.graph, known_shapes(model)
    nodes: list[onnx.NodeProto] = []
    changed = False
    for node in graph.node:
        outputs, channels = shapes[node.input[1]][:2] if is_plain(node, shapes) else (0, 0)
        single = outputs == 1 and channels >= _FEWEST_CHANNELS
        nodes += _replacement(node, channels) if single else [node]
        changed |= single
    if changed:
        moves = np.zeros((_BLOCK, 1, 3, 3), np.float32)
        moves.reshape(_BLOCK, _TAPS)[range(_TAPS), range(_TAPS)] = 1
        graph.initializer.append(numpy_helper.from_array(moves, "moves"))
        set_nodes(graph, nodes)
    return result


def _replacement(convolution: onnx.NodeProto, channels: int) -> list[onnx.NodeProto]:
    name = convolution.output[0]
    pixels, weight, *bias = convolution.input
    new = NewNodes()
    flat = new.constant([channels, _TAPS, 1, 1], f"{name}.flat")
    columns = new.add("Reshape", [weight, flat], f"{name}.columns")
    rows = new.add("Transpose", [columns], f"{name}.rows", perm=[1, 0, 2, 3])
    filling = new.constant([0, 0, 0, 0, _BLOCK - _TAPS, 0, 0, 0], f"{name}.filling")
    kernel = new.add("Pad", [rows, filling], f"{name}.kernel")
    products = new.add("Conv", [pixels, kernel], f"{name}.products")
    moved = new.add("Conv", [products, "moves"], f"{name}.moved", group=_BLOCK, pads=[1, 1, 1, 1])
    ones = new.constant(np.ones((1, _BLOCK, 1, 1), np.float32), f"{name}.ones")
    new.add("Conv", [moved, ones, *bias], name)
    return new.nodes
