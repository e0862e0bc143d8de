"""Depthwise convolutions whose gradient is slow in bfloat16."""

from __future__ import annotations

import copy

import pytest
import torch
from timm.layers import Conv2dSame
from torch import nn

from cascade.models.depthwise import ExactConv2d, ExactConv2dSame, exact_depthwise


def test_only_depthwise_layers_with_stride_or_large_kernels_change_and_keep_their_weights():
    network = nn.Sequential(
        nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=8),
        nn.Conv2d(8, 8, 5, padding=2, groups=8),
        Conv2dSame(8, 8, 3, stride=2, groups=8),
        nn.Conv2d(8, 8, 3, padding=1, groups=8),
        nn.Conv2d(8, 8, 3, stride=2, padding=1),
        nn.Conv2d(8, 8, 5, padding=2),
    )
    before = copy.deepcopy(network.state_dict())
    exact_depthwise(network)
    kinds = [type(layer) for layer in network]
    assert kinds == [ExactConv2d, ExactConv2d, ExactConv2dSame, *[nn.Conv2d] * 3]
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=8),
        nn.Conv2d(8, 8, 5, padding=2, groups=8),
        Conv2dSame(8, 8, 5, stride=2, groups=8),
    ],
)
def test_in_autocast_the_layer_computes_in_float32_and_gives_the_type_it_got(layer):
    torch.manual_seed(0)
    expected = layer(images := torch.randn(2, 8, 16, 16).bfloat16().float())
    exact_depthwise(network := nn.Sequential(layer))
    assert torch.equal(network(images), expected)
    with torch.autocast("cpu", torch.bfloat16):
        got = network(images.bfloat16())
    assert got.dtype == torch.bfloat16
    assert torch.equal(got, expected.bfloat16())
    got.float().sum().backward()
    assert torch.isfinite(layer.weight.grad).all()
