"""What every network of a stage promises, whatever its name; test files give the names."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from cascade.errors import ModelFileError, ShapeError
from cascade.models.artifact import Artifact, read_document, write_artifact
from cascade.models.network import Network

BATCH = 2


def noise(count: int, size: int, *, seed: int = 0) -> np.ndarray:
    """``(count, size, size, 3)`` uint8 images that no network answers alike."""
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def first_convolution(network: nn.Module) -> nn.Module:
    """The layer that the image reaches first."""
    return next(module for module in network.modules() if isinstance(module, nn.Conv2d))


@dataclass
class Built:
    """A network that the tests of one name share; they put it back as they found it."""

    network: Any
    images: np.ndarray

    @property
    def tensor(self) -> torch.Tensor:
        """The images as a batch."""
        return torch.from_numpy(self.images)


@functools.cache
def _built(contract: type[StageContract], name: str) -> Built:
    torch.manual_seed(0)
    return contract.build(name)


class StageContract:
    """Subclasses give ``names`` and how to build, predict and shape the result."""

    @pytest.fixture
    def built(self, request):
        return _built(type(self), request.param)

    @classmethod
    def build(cls, name: str) -> Built:
        raise NotImplementedError

    def predict(self, network: Any, images: np.ndarray) -> np.ndarray:
        raise NotImplementedError

    def result_shape(self, network: Any) -> tuple[int, ...]:
        """Shape of one image's result."""
        raise NotImplementedError

    def test_predictions_are_float32_probabilities_of_the_documented_shape(self, built):
        values = self.predict(built.network, built.images)
        assert values.shape == (BATCH, *self.result_shape(built.network))
        assert values.dtype == np.float32
        assert 0 <= values.min() <= values.max() <= 1
        alone = self.predict(built.network, built.images[1:])
        np.testing.assert_allclose(alone[0], values[1], atol=1e-5)

    def test_gradient_reaches_every_layer_from_the_first_on(self, built):
        network = built.network.train()
        network.zero_grad(set_to_none=True)
        # squares, because probabilities that sum to a constant have no gradient
        self.training_output(network, built.tensor).square().sum().backward()
        first = first_convolution(network.network)
        assert first.weight.grad.abs().max() > 0
        without = [name for name, item in network.named_parameters() if item.grad is None]
        network.zero_grad(set_to_none=True)
        assert without == []

    def training_output(self, network: Any, images: torch.Tensor) -> torch.Tensor:
        return network(images)

    def test_predicting_restores_the_training_state(self, built):
        before = {name: tensor.clone() for name, tensor in built.network.state_dict().items()}
        for training in (True, False):
            built.network.train(training)
            self.predict(built.network, built.images)
            with pytest.raises(ShapeError):
                self.predict(built.network, built.images.astype(np.float32))
            assert all(module.training is training for module in built.network.modules())
        for name, tensor in built.network.state_dict().items():
            assert torch.equal(tensor, before[name]), name  # batch statistics stay as they were

    def test_saved_and_loaded_it_predicts_the_same_bits(self, built, tmp_path):
        path = tmp_path / "network.safetensors"
        built.network.provenance["made"] = "by a test"
        built.network.save(path)
        loaded = type(built.network).load(path, device="cpu")
        assert not loaded.training
        stages = read_document(path)["stages"]  # without loading the network
        assert stages == {built.network.stage: built.network.describe()}
        assert loaded.describe() == built.network.describe()
        assert loaded.provenance == built.network.provenance
        np.testing.assert_array_equal(
            self.predict(loaded, built.images), self.predict(built.network, built.images)
        )

    def test_only_uint8_rgb_of_its_own_size_is_taken(self, built):
        for images in (
            built.images / 255.0,
            noise(1, built.network.size + 1),
            np.moveaxis(built.images, 3, 1),
            built.images[..., 0],
        ):
            with pytest.raises(ShapeError, match=f"uint8 RGB.*{built.network.size}") as caught:
                self.predict(built.network, images)
            assert caught.value.actual == images.shape

    def test_normalisation_happens_inside_and_is_arithmetic_on_fractions(self, built):
        seen = []
        hook = built.network.network.register_forward_pre_hook(
            lambda _, arguments: seen.append(arguments[0].detach().numpy().copy())
        )
        try:
            self.predict(built.network, built.images)
        finally:
            hook.remove()
        mean, std = self.statistics(built.network)
        expected = (built.images.astype(np.float64) / 255 - mean) / std
        np.testing.assert_allclose(np.moveaxis(seen[0], 1, 3), expected, atol=1e-6)

    def statistics(self, network: Any) -> tuple[Any, Any]:
        """Mean and standard deviation that the name's ImageNet weights document."""
        raise NotImplementedError


def check_that_differences_are_listed(network: Any, path: Any) -> None:
    """A file with a tensor too few, one too many and one of another shape is refused with all."""
    artifact = network.to_artifact()
    prefix = f"{network.stage}."
    names = sorted(name for name in artifact.tensors if artifact.tensors[name].ndim == 4)
    changed = dict(artifact.tensors)
    changed[names[0]] = changed[names[0]][:1]
    del changed[names[1]]
    changed[f"{prefix}network.surplus"] = np.zeros(3, np.float32)
    write_artifact(path, Artifact(artifact.stages, changed, {}, {}))
    with pytest.raises(ModelFileError) as caught:
        type(network).load(path, device="cpu")
    message = str(caught.value)
    assert str(path) in message
    assert "3 tensors do not fit" in message
    assert f"missing {names[1].removeprefix(prefix)}" in message
    assert "unexpected network.surplus" in message
    assert f"{names[0].removeprefix(prefix)} is {changed[names[0]].shape}, not" in message


def tiny_file(path: Any, network: Network, **changes: Any) -> None:
    """Write a network's file with another description."""
    artifact = network.to_artifact()
    stages = {network.stage: {**artifact.stages[network.stage], **changes}}
    write_artifact(path, Artifact(stages, artifact.tensors, {}, {}))
