"""EfficientNet weights in efficientnet-pytorch's layout, against an implementation of it."""

from __future__ import annotations

from pathlib import Path

import segmentation_models_pytorch as smp
import torch

from cascade.config import SegmenterConfig
from cascade.models.architectures import build_architecture, find_architecture, load_weights
from cascade.models.pretrained import timm_layout
from cascade.models.segmenter import Segmenter


def random_state(encoder: str) -> tuple[torch.nn.Module, dict[str, torch.Tensor]]:
    """A network of segmentation-models-pytorch, which uses the layout, with moving statistics."""
    torch.manual_seed(0)
    witness = smp.encoders.get_encoder(encoder, weights=None).eval()
    for module in witness.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean, -0.1, 0.1)
            torch.nn.init.uniform_(module.running_var, 0.8, 1.2)
            torch.nn.init.uniform_(module.weight, 0.8, 1.2)
    return witness, dict(witness.state_dict())


def test_a_timm_network_computes_the_same_with_the_renamed_tensors(tmp_path: Path):
    witness, state = random_state("efficientnet-b0")
    torch.save(state, tmp_path / "b0.pth")
    architecture = find_architecture("timm/tf_efficientnet_b0")
    network = build_architecture(architecture, size=64, dropout=0.0)
    load_weights(network, architecture, str(tmp_path / "b0.pth"))

    image = torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        expected = witness(image)[-1]
        actual = network.eval().blocks(network.bn1(network.conv_stem(image)))
    assert expected.abs().max() > 1e-3
    torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-5)


def test_the_encoder_of_a_segmenter_takes_such_a_file(tmp_path: Path):
    _, state = random_state("efficientnet-b0")
    torch.save(state, tmp_path / "b0.pth")
    config = SegmenterConfig(encoder="tu-tf_efficientnet_b0", size=32)
    segmenter = Segmenter.build(config, weights=str(tmp_path / "b0.pth"))
    encoder = segmenter.network.encoder.model
    assert torch.equal(encoder.conv_stem.weight, state["_conv_stem.weight"])
    last = state["_blocks.15._project_conv.weight"]
    assert torch.equal(encoder.blocks[-1][-1].conv_pwl.weight, last)


def test_other_layouts_are_left_alone():
    network = build_architecture(
        find_architecture("timm/tf_efficientnet_lite0"), size=64, dropout=0
    )
    state = dict(network.state_dict())
    assert timm_layout(state, network).keys() == state.keys()
    assert timm_layout({"features.0.weight": torch.zeros(1)}, network).keys() == {
        "features.0.weight"
    }
