"""The first stage: a U-Net, or another decoder, that marks the lesion's pixels."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import segmentation_models_pytorch as smp
import timm
import torch
from segmentation_models_pytorch.encoders import encoders as smp_encoders

from cascade.config import SegmenterConfig, did_you_mean, from_dict, to_dict
from cascade.errors import ConfigError, PretrainedWeightsError
from cascade.models.decoder import convolve_before_upsampling
from cascade.models.network import Network, Normalization
from cascade.models.pretrained import (
    HALF,
    IMAGENET_MEAN,
    IMAGENET_STD,
    download,
    hub_file,
    load_backbone,
    read_weights,
    timm_layout,
)
from cascade.reliability import pooled_features

ENCODER_ALIASES = {
    "mobilenet": "mobilenet_v2", "inception": "inceptionv4", "resnet": "resnet50",
    "efficientnet": "efficientnet-b0", "densenet": "densenet121", "vgg": "vgg16_bn",
}  # fmt: skip
_HALF_SCALED = ("xception", "inceptionv4", "inceptionresnetv2")
_WITH_CHANNELS = ("unet", "unetplusplus", "manet")


class Segmenter(Network):
    """Probability of lesion for each pixel.

    Attributes:
        config: what was built, with the encoder's full name.
    """

    stage = "segmenter"

    def __init__(
        self, config: SegmenterConfig, network: torch.nn.Module, normalization: Normalization
    ) -> None:
        super().__init__()
        self.config = config
        self.normalization = normalization
        self.network = network

    @classmethod
    def build(cls, config: SegmenterConfig, *, weights: str = "none") -> Self:
        """Build a segmenter.

        Args:
            config: encoder, decoder and size.
            weights: ``imagenet`` downloads the encoder's weights, ``none`` starts at random, else
                a local ``.pth`` or ``.safetensors`` file with the encoder's weights.

        Raises:
            ConfigError: the encoder is unknown or does not fit the decoder or size.
            PretrainedWeightsError: the weights cannot be had or belong to another network.
        """
        config = replace(config, encoder=encoder_name(config.encoder))
        network = _decoder(config)
        mean, std = _input_statistics(config.encoder, weights)
        _load_encoder(network, config.encoder, weights)
        segmenter = cls(config, network, Normalization(mean, std, size=config.size))
        segmenter.provenance["encoder_weights"] = weights if weights == "none" else _named(weights)
        return segmenter.to(memory_format=torch.channels_last)

    def describe(self) -> dict[str, Any]:
        """The segmenter's settings as plain JSON values."""
        return {"config": to_dict(self.config)}

    @classmethod
    def from_description(cls, description: Mapping[str, Any]) -> Self:
        """An untrained segmenter of the described architecture."""
        config = from_dict(SegmenterConfig, description["config"])
        return cls(config, _decoder(config), Normalization(HALF, HALF, size=config.size))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """``(N, S, S, 3)`` uint8 RGB to ``(N, S, S)`` float logits."""
        return self.network(self.normalization(images))[:, 0]

    def forward_with_activations(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The same logits, and ``(N, C, h, w)`` float of the encoder's last stage but one."""
        network: Any = self.network  # its parts are modules, which torch's types do not say
        stages = network.encoder(self.normalization(images))
        logits = network.segmentation_head(network.decoder(stages))[:, 0]
        return logits, stages[-2].float()

    def predict(self, images: np.ndarray) -> np.ndarray:
        """``(N, S, S, 3)`` uint8 RGB to ``(N, S, S)`` float32 probabilities in [0, 1]."""
        with self.predicting():
            return self(self.to_device(images)).float().sigmoid().cpu().numpy()

    def predict_with_features(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Probabilities as :meth:`predict` gives them, and features of the same pass.

        ``images`` are ``(N, S, S, 3)`` uint8 RGB.

        Returns:
            ``(N, S, S)`` float32 in [0, 1], and ``(N, D)`` float32: means and spreads of the
            channels of the encoder's last stage but one.
        """
        with self.predicting():
            logits, activations = self.forward_with_activations(self.to_device(images))
            features = pooled_features(activations.cpu().numpy())
            return logits.float().sigmoid().cpu().numpy(), features


def encoder_name(name: str) -> str:
    """The full name of an encoder.

    Raises:
        ConfigError: there is none of that name; the nearest names are given.
    """
    full = ENCODER_ALIASES.get(name, name)
    if full in smp_encoders:
        return full
    if full.startswith("tu-"):
        if timm.is_model(full[3:].split(".")[0]):
            return full
        raise ConfigError(
            f"encoder {name!r}: timm has no such network"
            f"{did_you_mean(full[3:], timm.list_models())}"
        )
    known = [*smp_encoders, *ENCODER_ALIASES]
    raise ConfigError(f"encoder {name!r} is unknown{did_you_mean(name, known)}")


def _decoder(config: SegmenterConfig) -> torch.nn.Module:
    options: dict[str, Any] = {}
    if config.decoder in _WITH_CHANNELS:
        options["decoder_channels"] = config.decoder_channels
        options["encoder_depth"] = len(config.decoder_channels)
    try:
        network = smp.create_model(
            config.decoder, encoder_name=config.encoder, encoder_weights=None, classes=1, **options
        )
    except (KeyError, ValueError, TypeError, RuntimeError, NotImplementedError) as error:
        raise ConfigError(
            f"decoder {config.decoder} cannot be built on encoder {config.encoder}: {error}"
        ) from error
    convolve_before_upsampling(network)
    return network


def _input_statistics(encoder: str, weights: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation that an encoder's ImageNet weights were trained with."""
    if encoder.startswith("tu-"):
        settings = timm.get_pretrained_cfg(encoder[3:])
        return (settings.mean, settings.std) if settings else (IMAGENET_MEAN, IMAGENET_STD)
    if weights == "imagenet":
        known = _hub_settings(encoder)
        path = hub_file(known["repo_id"], "config.json", known["revision"])
        values = json.loads(Path(path).read_text(encoding="utf-8"))
        scale = max(values.get("input_range", [0, 1]))
        return (
            tuple(value / scale for value in values["mean"]),
            tuple(value / scale for value in values["std"]),
        )
    if encoder.startswith("timm-") and (settings := timm.get_pretrained_cfg(encoder[5:])):
        return settings.mean, settings.std
    return (HALF, HALF) if encoder in _HALF_SCALED else (IMAGENET_MEAN, IMAGENET_STD)


def _load_encoder(network: Any, encoder: str, weights: str) -> None:
    if weights == "none":
        return
    target = network.encoder
    if weights != "imagenet":
        module = target.model if encoder.startswith("tu-") else target
        state = timm_layout(read_weights(weights), module)
        if encoder.startswith("tu-"):  # timm leaves out what comes after the last feature map
            unused = timm.create_model(encoder[3:], pretrained=False).state_dict().keys()
            unused -= module.state_dict().keys()
            state = {name: value for name, value in state.items() if name not in unused}
        load_backbone(module, state, weights)
    elif encoder.startswith("tu-"):
        fetch = lambda: smp.encoders.get_encoder(encoder, weights=True)  # noqa: E731
        filled = download("https://huggingface.co/timm", fetch, cached=False)
        target.load_state_dict(filled.state_dict())
    else:
        known = _hub_settings(encoder)
        path = hub_file(known["repo_id"], "model.safetensors", known["revision"])
        load_backbone(target, read_weights(path), "imagenet")


def _hub_settings(encoder: str) -> dict[str, str]:
    offered = smp_encoders[encoder]["pretrained_settings"]
    if "imagenet" not in offered:
        raise PretrainedWeightsError(
            f"there are no imagenet weights for encoder {encoder}, only {', '.join(offered)}"
        )
    return offered["imagenet"]


def _named(weights: str) -> str:
    return weights if weights == "imagenet" else Path(weights).name
