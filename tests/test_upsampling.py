"""Graphs with their convolutions rearranged: other nodes, the same numbers."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest
import torch
from contracts import noise
from onnx import helper
from torch import nn

from cascade.export.graphs import segmenter_graph
from cascade.export.single_output import products_before_sums
from cascade.export.upsampling import convolved_before_upsampling
from cascade.models.onnx_session import OnnxSession


def kinds(model):
    return Counter(node.op_type for node in model.graph.node)


def answers(model, batch, outputs):
    return OnnxSession(model.SerializeToString(), source="x").run(batch, outputs)


class Level(nn.Module):
    """One level of a decoder, or nearly one."""

    def __init__(
        self, *, kernel=3, groups=1, factor=2.0, mode="nearest", normalized=True, joined=True,
        bias=True,
    ):  # fmt: skip
        super().__init__()
        self.factor, self.mode, self.joined = factor, mode, joined
        channels = 12 if joined else 9
        self.convolution = nn.Conv2d(
            channels, 8, kernel, padding=kernel // 2, groups=groups, bias=bias
        )
        self.normalization = nn.BatchNorm2d(8) if normalized else nn.Identity()
        if normalized:
            for tensor in (self.normalization.weight, self.normalization.running_var):
                nn.init.uniform_(tensor, 0.5, 2.0)
            for tensor in (self.normalization.bias, self.normalization.running_mean):
                nn.init.normal_(tensor)

    def forward(self, pixels):
        skip = pixels.permute(0, 3, 1, 2).float() / 255
        small = torch.cat([skip, 1 - skip, skip * skip], dim=1)[:, :, ::2, ::2]
        large = nn.functional.interpolate(small, scale_factor=self.factor, mode=self.mode)
        if self.joined:
            large = torch.cat([large, skip[:, :, : large.shape[2], : large.shape[3]]], dim=1)
        return self.normalization(self.convolution(large)).relu()


def graph_of(level, size=16):
    pixels = torch.zeros(2, size, size, 3, dtype=torch.uint8)
    program = torch.onnx.export(
        level.eval(), (pixels,), dynamo=True, opset_version=18, input_names=["images"],
        output_names=["probabilities"], verbose=False, optimize=False,
        dynamic_shapes={"pixels": {0: torch.export.Dim("batch")}},
    )  # fmt: skip
    graph = program.model_proto
    from onnxscript import optimizer

    optimizer.fold_constants(graph)
    return graph


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("joined", [True, False], ids=["skip connection", "no skip connection"])
def test_a_level_gives_the_same_numbers_also_at_the_border(joined, bias):
    torch.manual_seed(0)
    model = graph_of(Level(joined=joined, bias=bias))
    changed = convolved_before_upsampling(model)
    assert kinds(changed)["Resize"] == 0
    assert kinds(changed)["DepthToSpace"] == 1
    batch = noise(3, 16)
    (expected,), (got,) = (answers(graph, batch, ("probabilities",)) for graph in (model, changed))
    assert expected.std() > 0.1
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "options",
    [{"kernel": 5}, {"groups": 2}, {"mode": "bilinear"}, {"normalized": False}],
    ids=["kernel", "groups", "bilinear", "not normalized"],
)
def test_other_levels_stay_as_they_are(options):
    model = graph_of(Level(**options))
    changed = convolved_before_upsampling(model)
    assert (kinds(changed)["Resize"], kinds(changed)["DepthToSpace"]) == (1, 0)
    batch = noise(1, 16)
    (expected,), (got,) = (answers(graph, batch, ("probabilities",)) for graph in (model, changed))
    np.testing.assert_array_equal(got, expected)


def test_the_given_graph_stays_as_it_is_and_one_without_upsampling_is_only_copied():
    model = graph_of(Level())
    before = model.SerializeToString()
    convolved_before_upsampling(model)
    assert model.SerializeToString() == before
    value = helper.make_tensor_value_info("images", onnx.TensorProto.FLOAT, [1])
    plain = helper.make_model(helper.make_graph([], "plain", [value], []))
    assert convolved_before_upsampling(plain) == plain


class Mask(nn.Module):
    """A last layer."""

    def __init__(self, *, outputs=1, kernel=3, bias=True):
        super().__init__()
        self.before = nn.Conv2d(3, 12, 1)
        self.last = nn.Conv2d(12, outputs, kernel, padding=kernel // 2, bias=bias)

    def forward(self, pixels):
        return self.last(self.before(pixels.permute(0, 3, 1, 2).float() / 255))


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
def test_a_single_output_gives_the_same_numbers_also_at_the_border(bias):
    torch.manual_seed(1)
    model = graph_of(Mask(bias=bias))
    changed = products_before_sums(model)
    assert kinds(changed)["Conv"] == kinds(model)["Conv"] + 2
    batch = noise(3, 16)
    (expected,), (got,) = (answers(graph, batch, ("probabilities",)) for graph in (model, changed))
    assert expected.std() > 0.01
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("options", [{"outputs": 2}, {"kernel": 1}], ids=["two", "one pixel"])
def test_other_last_layers_stay_as_they_are(options):
    model = graph_of(Mask(**options))
    assert products_before_sums(model) == model


def test_a_segmenter_is_exported_with_all_levels_and_its_last_layer_changed():
    from tiny_export import tiny_cascade

    model = segmenter_graph(tiny_cascade().segmenter)
    changed = products_before_sums(convolved_before_upsampling(model))
    assert kinds(changed)["DepthToSpace"] == kinds(model)["Resize"] > 0
    assert kinds(changed)["Resize"] == 0
    outputs = ("probabilities", "features")
    for ours, theirs in zip(
        *(answers(graph, noise(2, 32), outputs) for graph in (changed, model)), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)
