"""EfficientNet weights in efficientnet-pytorch's layout, against an implementation of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import segmentation_models_pytorch as smp
import torch

from cascade.config import SegmenterConfig
from cascade.errors import PretrainedWeightsError
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


@pytest.mark.parametrize("size", [64, 96])
def test_a_timm_network_computes_the_same_with_the_renamed_tensors(tmp_path: Path, size: int):
    witness, state = random_state("efficientnet-b0")
    torch.save(state, tmp_path / "b0.pth")
    architecture = find_architecture("timm/tf_efficientnet_b0")
    network = build_architecture(architecture, size=size, dropout=0.0)
    load_weights(network, architecture, str(tmp_path / "b0.pth"))

    image = torch.rand(2, 3, size, size)
    with torch.inference_mode():
        expected = witness(image)[-1]
        actual = network.eval().blocks(network.bn1(network.conv_stem(image)))
    assert expected.abs().max() > 1e-3
    torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-5)


def test_the_encoder_of_a_segmenter_takes_such_a_file_and_expects_its_input(tmp_path: Path):
    import timm

    donor = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    state = donor.state_dict()
    old = {old: new for new, old in _old_names(donor).items()}
    torch.save({old[name]: value for name, value in state.items()}, tmp_path / "lite0.pth")
    config = SegmenterConfig(encoder="tu-tf_efficientnet_lite0", size=32)
    segmenter = Segmenter.build(config, weights=str(tmp_path / "lite0.pth"))
    encoder = segmenter.network.encoder.model.state_dict()
    assert encoder
    assert all(torch.equal(value, state[name]) for name, value in encoder.items())
    assert segmenter.normalization.mean.flatten().tolist() == [0.5, 0.5, 0.5]


def _old_names(donor: torch.nn.Module) -> dict[str, str]:
    """efficientnet-pytorch's name of each tensor of an EfficientNet-Lite0, by counting."""
    names, number = {}, -1
    parts = {2: ("depthwise_conv", "bn1", "project_conv", "bn2")}
    parts[3] = ("expand_conv", "bn0", "depthwise_conv", "bn1", "project_conv", "bn2")
    modules = {2: ("conv_dw", "bn1", "conv_pw", "bn2")}
    modules[3] = ("conv_pw", "bn1", "conv_dw", "bn2", "conv_pwl", "bn3")
    for path, block in donor.named_modules():
        if path.count(".") != 2 or not path.startswith("blocks"):
            continue
        number += 1
        count = 3 if hasattr(block, "conv_pwl") else 2
        for part, module in zip(parts[count], modules[count], strict=True):
            for leaf in getattr(block, module).state_dict():
                names[f"_blocks.{number}._{part}.{leaf}"] = f"{path}.{module}.{leaf}"
    top = {"conv_stem": "conv_stem", "bn1": "bn0", "conv_head": "conv_head", "bn2": "bn1"}
    for module, old in {**top, "classifier": "fc"}.items():
        for leaf in getattr(donor, module).state_dict():
            names[f"_{old}.{leaf}"] = f"{module}.{leaf}"
    return names


def test_tensors_of_another_size_of_network_are_refused(tmp_path: Path):
    _, state = random_state("efficientnet-b2")
    torch.save(state, tmp_path / "b2.pth")
    architecture = find_architecture("timm/tf_efficientnet_b0")
    network = build_architecture(architecture, size=64, dropout=0.0)
    with pytest.raises(PretrainedWeightsError, match=r"b2\.pth.*another architecture"):
        load_weights(network, architecture, str(tmp_path / "b2.pth"))


def test_other_layouts_are_left_alone():
    network = build_architecture(
        find_architecture("timm/tf_efficientnet_lite0"), size=64, dropout=0
    )
    state = dict(network.state_dict())
    assert timm_layout(state, network).keys() == state.keys()
    assert timm_layout({"features.0.weight": torch.zeros(1)}, network).keys() == {
        "features.0.weight"
    }
