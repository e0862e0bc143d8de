import numpy as np
import pytest
import timm
import torch
from contracts import (
    BATCH,
    Built,
    StageContract,
    check_that_differences_are_listed,
    noise,
    tiny_file,
)

from cascade.config import SegmenterConfig
from cascade.errors import ConfigError, ModelFileError
from cascade.models.artifact import read_artifact
from cascade.models.segmenter import Segmenter, encoder_name

SMALL = (16, 16, 8, 8, 8)
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
NAMES = ["resnet18 unet", "mobilenet_v2 fpn", "mobilenet_v2 linknet", "tu-test_resnet unetplusplus"]


def config(encoder="mobilenet_v2", decoder="unet", **settings):
    settings = {"size": 32, "decoder_channels": SMALL, **settings}
    return SegmenterConfig(encoder=encoder, decoder=decoder, **settings)


@pytest.mark.parametrize("built", NAMES, indirect=True)
class TestEverySegmenter(StageContract):
    @classmethod
    def build(cls, name):
        encoder, decoder = name.split()
        size = 64 if decoder == "fpn" else 32
        segmenter = Segmenter.build(config(encoder, decoder, size=size))
        return Built(segmenter, noise(BATCH, size))

    def predict(self, network, images):
        return network.predict(images)

    def result_shape(self, network):
        return (network.size, network.size)

    def statistics(self, network):
        if not network.config.encoder.startswith("tu-"):
            return IMAGENET
        settings = timm.get_pretrained_cfg(network.config.encoder[3:])
        return settings.mean, settings.std


def test_probabilities_are_the_sigmoid_of_the_logits():
    segmenter = Segmenter.build(config()).eval()
    images = noise(2, 32)
    with torch.no_grad():
        logits = segmenter(torch.from_numpy(images)).numpy().astype(np.float64)
    np.testing.assert_allclose(segmenter.predict(images), 1 / (1 + np.exp(-logits)), atol=1e-6)


@pytest.mark.parametrize(
    ("short", "full"),
    [("mobilenet", "mobilenet_v2"), ("xception", "xception"), ("tu-resnet18", "tu-resnet18")],
)
def test_short_names_stand_for_encoders(short, full):
    assert encoder_name(short) == full


@pytest.mark.parametrize(
    ("wrong", "near"), [("mobilenetv2", "mobilenet_v2"), ("tu-convnext_tyni", "convnext_tiny")]
)
def test_a_mistyped_encoder_is_answered_with_the_nearest_name(wrong, near):
    with pytest.raises(ConfigError, match=wrong) as caught:
        Segmenter.build(config(wrong))
    assert "did you mean" in str(caught.value)
    assert near in str(caught.value)


def test_a_name_like_nothing_gets_no_hint():
    with pytest.raises(ConfigError, match="qqqq") as caught:
        encoder_name("qqqq")
    assert "did you mean" not in str(caught.value)


def test_a_decoder_that_does_not_fit_the_encoder_names_both():
    with pytest.raises(ConfigError, match=r"decoder linknet.*encoder mit_b0"):
        Segmenter.build(config("mit_b0", "linknet"))


def test_fewer_decoder_channels_make_a_shallower_network():
    segmenter = Segmenter.build(config(decoder_channels=(16, 8, 8)))
    assert segmenter.predict(noise(1, 32)).shape == (1, 32, 32)
    assert len(segmenter.network.decoder.blocks) == 3


@pytest.mark.parametrize(
    ("encoder", "expected"), [("xception", HALF), ("inceptionv4", HALF), ("resnet18", IMAGENET)]
)
def test_each_encoder_gets_the_statistics_it_was_trained_with(encoder, expected):
    from cascade.models.segmenter import _input_statistics

    assert _input_statistics(encoder, "none") == expected


def test_statistics_travel_with_the_file(tmp_path):
    segmenter = Segmenter.build(config())
    segmenter.normalization.mean += 0.125
    segmenter.save(tmp_path / "s.safetensors")
    loaded = Segmenter.load(tmp_path / "s.safetensors", device="cpu")
    assert torch.equal(loaded.normalization.mean, segmenter.normalization.mean)


def test_half_storage_halves_the_file_and_hardly_changes_the_answer(tmp_path):
    segmenter, images = Segmenter.build(config()), noise(2, 32)
    whole, half = tmp_path / "whole.safetensors", tmp_path / "half.safetensors"
    segmenter.save(whole)
    segmenter.save(half, half=True)
    assert half.stat().st_size < 0.55 * whole.stat().st_size
    kinds = {tensor.dtype.name for tensor in read_artifact(half).tensors.values()}
    assert kinds == {"float16", "int64"}  # counters stay whole numbers
    loaded = Segmenter.load(half, device="cpu")
    assert next(loaded.parameters()).dtype == torch.float32  # computes in full precision
    np.testing.assert_allclose(loaded.predict(images), segmenter.predict(images), atol=5e-3)


def test_a_file_of_another_network_lists_what_differs(tmp_path):
    check_that_differences_are_listed(Segmenter.build(config()), tmp_path / "other.safetensors")


def test_a_description_with_an_unknown_setting_is_refused(tmp_path):
    segmenter, path = Segmenter.build(config()), tmp_path / "s.safetensors"
    tiny_file(path, segmenter, config={**segmenter.describe()["config"], "deepth": 3})
    with pytest.raises(ConfigError, match="deepth"):
        Segmenter.load(path, device="cpu")
    tiny_file(path, segmenter, config=None)
    with pytest.raises(ModelFileError, match=r"s\.safetensors.*segmenter"):
        Segmenter.load(path, device="cpu")
