"""U-Net levels that convolve before the upsampling: the same values and gradients."""

from __future__ import annotations

import copy

import pytest
import segmentation_models_pytorch as smp
import torch
from segmentation_models_pytorch.decoders.unet.decoder import UnetDecoderBlock
from torch.nn import functional

from cascade.models.decoder import (
    TransposedBlock,
    convolve_before_upsampling,
    transposed_weight,
)


def test_the_weights_are_those_of_upsampling_and_convolution_also_at_the_border():
    torch.manual_seed(0)
    images, weight = torch.randn(2, 5, 6, 7), torch.randn(4, 5, 3, 3)
    large = functional.interpolate(images, scale_factor=2, mode="nearest")
    expected = functional.conv2d(large, weight, padding=1)
    got = functional.conv_transpose2d(images, transposed_weight(weight), stride=2, padding=1)
    torch.testing.assert_close(got, expected)


def unet(**options):
    torch.manual_seed(1)
    return smp.Unet("mobilenet_v2", encoder_weights=None, decoder_channels=(32, 16, 16, 8, 8),
                    **options)  # fmt: skip


@pytest.mark.parametrize("normalized", ["batchnorm", False], ids=["normalized", "plain"])
def test_values_and_gradients_are_those_of_the_library(normalized):
    theirs = unet(decoder_use_norm=normalized).double()
    ours = copy.deepcopy(theirs)
    convolve_before_upsampling(ours)
    images = torch.randn(3, 3, 64, 96, dtype=torch.float64)
    answers = []
    for network in (theirs, ours):
        answer = network(images)
        answer.square().mean().backward()
        answers.append(answer)
    torch.testing.assert_close(answers[1], answers[0])
    pairs = zip(theirs.named_parameters(), ours.parameters(), strict=True)
    for (name, expected), got in pairs:
        torch.testing.assert_close(
            got.grad, expected.grad, msg=lambda text, name=name: f"{name}: {text}"
        )
    assert theirs.state_dict().keys() == ours.state_dict().keys()


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_levels_of_another_kind_stay_as_they_are():
    for options in ({"decoder_attention_type": "scse"}, {"decoder_interpolation": "bilinear"}):
        network = unet(**options)
        convolve_before_upsampling(network)
        kinds = {type(block) for block in network.decoder.blocks}
        assert kinds == {UnetDecoderBlock}
    usual = unet()
    convolve_before_upsampling(usual)
    assert {type(block) for block in usual.decoder.blocks} == {TransposedBlock}
