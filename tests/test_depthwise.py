"""Depthwise convolutions of stride 2 beside bfloat16."""

from __future__ import annotations

import copy

import torch
from torch import nn

from cascade.models.depthwise import ExactDepthwise, exact_depthwise


def test_only_depthwise_layers_of_stride_2_change_and_keep_their_weights():
    network = nn.Sequential(
        nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=8),
        nn.Conv2d(8, 8, 3, padding=1, groups=8),
        nn.Conv2d(8, 8, 3, stride=2, padding=1),
    )
    before = copy.deepcopy(network.state_dict())
    exact_depthwise(network)
    assert [type(layer) for layer in network] == [ExactDepthwise, nn.Conv2d, nn.Conv2d]
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


def test_in_autocast_the_layer_computes_in_float32_and_gives_the_type_it_got():
    torch.manual_seed(0)
    layer = nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=8)
    expected = layer(images := torch.randn(2, 8, 16, 16).bfloat16().float())
    exact_depthwise(network := nn.Sequential(layer))
    assert torch.equal(network(images), expected)
    with torch.autocast("cpu", torch.bfloat16):
        got = network(images.bfloat16())
    assert got.dtype == torch.bfloat16
    assert torch.equal(got, expected.bfloat16())
    got.float().sum().backward()
    assert torch.isfinite(layer.weight.grad).all()
