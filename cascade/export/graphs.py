"""Torch networks as ONNX graphs: uint8 RGB in, probabilities out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from onnxscript import optimizer
from torch import nn

from cascade.errors import ConfigError
from cascade.export.activation import Head, find_heads
from cascade.export.single_output import products_before_sums
from cascade.export.upsampling import convolved_before_upsampling
from cascade.models.artifact import INTENDED_USE
from cascade.models.classifier import Classifier
from cascade.models.ensemble import ClassifierEnsemble
from cascade.models.network import Network, hooked
from cascade.models.onnx_runtime import (
    ACTIVATION_MAPS,
    DIAGNOSIS_SHARES,
    FEATURES,
    PROBABILITIES,
)
from cascade.models.segmenter import Segmenter
from cascade.version import __version__

OPSET = 18
IMAGES = "images"
_LARGEST = 2**31
_SMALL = 16
"""Constants of fewer numbers are not worth a node that widens them."""


class _SegmenterGraph(nn.Module):
    """Probabilities and, where the network has an encoder's last stage but one, features."""

    def __init__(self, segmenter: Segmenter) -> None:
        super().__init__()
        self.segmenter = segmenter

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits, activations = self.segmenter.forward_with_activations(images)
        return logits.float().sigmoid(), pooled_features(activations)


class _ClassifierGraph(nn.Module):
    """Calibrated probabilities; shares of the diagnoses and activation maps where it has them."""

    def __init__(self, classifier: Classifier | ClassifierEnsemble) -> None:
        super().__init__()
        self.classifier = classifier
        self.heads: tuple[Head, ...] = find_heads(classifier)
        self.outputs = (
            PROBABILITIES,
            *([DIAGNOSIS_SHARES] if classifier.diagnoses is not None else []),
            *([ACTIVATION_MAPS] if self.heads else []),
        )

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        outputs: dict[nn.Module, torch.Tensor] = {}

        def keep(module: nn.Module, _: Any, output: torch.Tensor) -> None:
            outputs[module] = output

        with hooked([head.layer for head in self.heads], keep):
            if self.classifier.diagnoses is None:
                found = {"logits": self.classifier(images)}
            else:
                logits, shares = self.classifier.forward_with_shares(images)
                found = {"logits": logits, DIAGNOSIS_SHARES: shares}
        found[PROBABILITIES] = self.classifier.calibrated(found["logits"]).softmax(dim=1)
        if self.heads:
            maps = [head.maps(outputs[head.layer]) for head in self.heads]
            found[ACTIVATION_MAPS] = torch.stack(maps).sum(dim=0)
        return tuple(found[name] for name in self.outputs)


def pooled_features(activations: torch.Tensor) -> torch.Tensor:
    """:func:`cascade.reliability.pooled_features` in torch, ``(N, C, h, w)`` to ``(N, 2 * C)``."""
    places = activations.flatten(start_dim=2)
    mean = places.mean(dim=2)
    spread = (places - mean[:, :, None]).square().mean(dim=2).sqrt()
    features = torch.cat([mean, spread], dim=1)
    length = features.square().sum(dim=1, keepdim=True).sqrt()
    return features / length.clamp_min(1e-12)


def segmenter_graph(segmenter: Segmenter) -> onnx.ModelProto:
    """The first stage as a graph with the outputs ``probabilities`` and ``features``."""
    return _exported(_SegmenterGraph(segmenter), segmenter, (PROBABILITIES, FEATURES))


def classifier_graph(classifier: Classifier | ClassifierEnsemble) -> onnx.ModelProto:
    """The second stage as a graph with ``probabilities``.

    ``diagnosis_shares`` and ``activation_maps`` come after them where the classifier has them.
    """
    module = _ClassifierGraph(classifier)
    return _exported(module, classifier, module.outputs)


def _exported(module: nn.Module, network: Network, outputs: tuple[str, ...]) -> onnx.ModelProto:
    images = torch.zeros(2, network.size, network.size, 3, dtype=torch.uint8)
    try:
        program = torch.onnx.export(
            module.eval(),
            (images,),
            dynamo=True,
            opset_version=OPSET,
            input_names=[IMAGES],
            output_names=list(outputs),
            dynamic_shapes={IMAGES: {0: torch.export.Dim("batch")}},
            optimize=False,  # it would merge layers, and weights stored as float16 grow
            verbose=False,
        )
    except torch.onnx.errors.OnnxExporterError as error:
        reason = str(error.__cause__ or error).strip().splitlines()[0]
        raise ConfigError(f"the {network.stage} cannot be exported to ONNX: {reason}") from error
    if program is None:  # only where a file was named
        raise ConfigError(f"the {network.stage} cannot be exported to ONNX")
    graph = program.model_proto
    optimizer.fold_constants(graph)
    optimizer.remove_unused_nodes(graph)
    _strip(graph)
    description = {
        "stage": network.stage,
        "settings": network.describe(),
        "intended_use": INTENDED_USE,
    }
    helper.set_model_props(graph, {"cascade": json.dumps(description)})
    graph.producer_name, graph.producer_version = "cascade", __version__
    return graph


def _strip(graph: onnx.ModelProto) -> None:
    """Remove notes of the exporter, which name the files and lines that made each node."""
    del graph.graph.value_info[:]
    values = (graph.graph.input, graph.graph.output, graph.graph.initializer, graph.graph.node)
    for item in (item for several in values for item in several):
        del item.metadata_props[:]
        item.doc_string = ""
    graph.graph.doc_string = ""


def serialized(model: onnx.ModelProto) -> bytes:
    """A graph as it is written: decoders rearranged, weights as float16 where that loses nothing.

    A cascade that was saved with ``half=True`` holds nothing but such weights, and its graphs are
    half as large. They are widened before they are used: all arithmetic stays in float32.

    Raises:
        ConfigError: the graph is too large for one file.
    """
    smaller = _halved(arranged(model))
    if smaller.ByteSize() >= _LARGEST:
        raise ConfigError("a network of over two gigabytes does not fit into one ONNX file")
    content: bytes = smaller.SerializeToString()
    return content


def arranged(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of a graph that gives the same for less work; nothing is left to do a second time."""
    return products_before_sums(convolved_before_upsampling(model))


def _halved(model: onnx.ModelProto) -> onnx.ModelProto:
    result = onnx.ModelProto()
    result.CopyFrom(model)
    casts = []
    for weight in result.graph.initializer:
        if weight.data_type != onnx.TensorProto.FLOAT:
            continue
        full = numpy_helper.to_array(weight)
        with np.errstate(over="ignore"):
            half = full.astype(np.float16)
        if full.size < _SMALL or not np.array_equal(half.astype(np.float32), full):
            continue
        name = weight.name
        weight.CopyFrom(numpy_helper.from_array(half, f"{name}.half"))
        casts.append(
            helper.make_node(
                "Cast", [weight.name], [name], name=f"{name}.widen", to=onnx.TensorProto.FLOAT
            )
        )
    nodes = [*casts, *result.graph.node]
    del result.graph.node[:]
    result.graph.node.extend(nodes)
    return result


def describe_graph(model: onnx.ModelProto) -> Mapping[str, Any]:
    """What a graph takes and gives, as plain JSON values."""
    if any(node.op_type == "QuantizeLinear" for node in model.graph.node):
        precision = "int8"
    elif any(weight.data_type == onnx.TensorProto.INT8 for weight in model.graph.initializer):
        precision = "float32 with int8 weights"
    else:
        precision = "float32"
    return {
        "opset": OPSET,
        "precision": precision,
        "input": {value.name: _shape(value) for value in model.graph.input},
        "outputs": {value.name: _shape(value) for value in model.graph.output},
    }


def _shape(value: onnx.ValueInfoProto) -> dict[str, Any]:
    tensor = value.type.tensor_type
    return {
        "type": onnx.TensorProto.DataType.Name(tensor.elem_type).lower(),
        "shape": [dim.dim_param or dim.dim_value for dim in tensor.shape.dim],
    }
