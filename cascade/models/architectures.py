"""Classification networks by name, from torchvision and timm, with a new last layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
import torchvision
from torch import nn

from cascade.config import CLASSES, did_you_mean
from cascade.errors import ConfigError, PretrainedWeightsError
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

ALIASES = {
    "inception": "inception_v3", "resnet": "resnet50", "mobilenet": "mobilenet_v2",
    "efficientnet": "efficientnet_b0", "densenet": "densenet121", "vgg": "vgg16_bn",
}  # fmt: skip
AUXILIARY_WEIGHTS = {"inception_v3": 0.4, "googlenet": 0.3}
"""Weight of the auxiliary losses, from the papers of Inception v3 and GoogLeNet."""
_SMALLEST = {"inception_v3": 75, "googlenet": 32}


@dataclass(frozen=True)
class Architecture:
    """A classification network by its full name, ``torchvision/NAME`` or ``timm/NAME``."""

    library: str
    name: str

    def __str__(self) -> str:
        return f"{self.library}/{self.name}"

    @property
    def default_size(self) -> int:
        """Side in pixels that the network's ImageNet weights were trained at."""
        if self.library == "timm":
            settings = timm.get_pretrained_cfg(self.name)
            return int(settings.input_size[-1]) if settings else 224
        return 299 if self.name == "inception_v3" else 224

    @property
    def statistics(self) -> tuple[Sequence[float], Sequence[float]]:
        """Mean and standard deviation of the input that the ImageNet weights expect."""
        if self.library == "timm":
            settings = timm.get_pretrained_cfg(self.name)
            return (settings.mean, settings.std) if settings else (IMAGENET_MEAN, IMAGENET_STD)
        # torchvision's own input transform for these two amounts to exactly this
        return (HALF, HALF) if self.name in AUXILIARY_WEIGHTS else (IMAGENET_MEAN, IMAGENET_STD)


def find_architecture(name: str) -> Architecture:
    """Resolve a name; torchvision comes first where both libraries have it.

    Raises:
        ConfigError: neither library has it; the nearest names are given.
    """
    library, _, bare = name.rpartition("/")
    full = ALIASES.get(bare, bare)
    torchvision_names = torchvision.models.list_models(module=torchvision.models)
    if library in ("", "torchvision") and full in torchvision_names:
        return Architecture("torchvision", full)
    if library in ("", "timm") and timm.is_model(full.split(".")[0]):
        return Architecture("timm", full)
    known = [*ALIASES, *torchvision_names, *timm.list_models()]
    raise ConfigError(
        f"architecture {name!r} is in neither torchvision nor timm{did_you_mean(bare, known)}"
    )


def build_architecture(
    architecture: Architecture, *, size: int, dropout: float, fresh: bool = True
) -> nn.Module:
    """Build a network with random weights and one output for each class.

    ``fresh`` initialises for training from scratch, which is slow for Inception and not done on
    load.

    Raises:
        ConfigError: the network cannot take images of this size.
    """
    name = architecture.name
    if size < _SMALLEST.get(name, 0):
        raise ConfigError(f"{name} takes images of {_SMALLEST[name]} pixels or more, not {size}")
    try:
        if architecture.library == "timm":
            return _build_timm(name, size, dropout)
        return _build_torchvision(name, size, dropout, fresh)
    except (TypeError, ValueError, RuntimeError, AssertionError) as error:
        raise ConfigError(f"{architecture} cannot be built for {size} pixels: {error}") from error


def _build_timm(name: str, size: int, dropout: float) -> nn.Module:
    settings = timm.get_pretrained_cfg(name)
    fixed: dict[str, Any] = {"img_size": size} if settings and settings.fixed_input_size else {}
    return timm.create_model(
        name, pretrained=False, num_classes=len(CLASSES), drop_rate=dropout, **fixed
    )


def _build_torchvision(name: str, size: int, dropout: float, fresh: bool) -> nn.Module:
    options: dict[str, Any] = {"num_classes": len(CLASSES)}
    if name in AUXILIARY_WEIGHTS:
        # the auxiliary head of Inception is built for the 17x17 map of a 299 px image
        auxiliary = name != "inception_v3" or size >= 299
        options.update(init_weights=fresh, transform_input=False, aux_logits=auxiliary)
    elif name.startswith("vit_"):
        options["image_size"] = size
    elif name.startswith("maxvit"):
        options["input_size"] = (size, size)
    network = torchvision.models.get_model(name, weights=None, **options)
    for path, module in network.named_modules():
        if isinstance(module, nn.Dropout) and path.startswith(("classifier", "head", "dropout")):
            module.p = dropout
    return network


def load_weights(network: nn.Module, architecture: Architecture, weights: str) -> None:
    """Fill a network with ImageNet weights, downloaded or from a file; its last layer stays new.

    ``weights`` is ``imagenet``, ``none`` or a local file.
    """
    if weights == "none":
        return
    _soften_last_layers(network)
    if weights != "imagenet":
        load_backbone(network, timm_layout(read_weights(weights), network), weights)
    elif architecture.library == "torchvision":
        url = torchvision.models.get_model_weights(architecture.name).DEFAULT.url
        cache = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[-1]
        fetch = lambda: torch.hub.load_state_dict_from_url(  # noqa: E731
            url, map_location="cpu", weights_only=True, check_hash=True, progress=False
        )
        load_backbone(network, download(url, fetch, cached=cache.is_file()), "imagenet")
    else:
        settings = timm.get_pretrained_cfg(architecture.name)
        if not (settings and settings.hf_hub_id):
            raise PretrainedWeightsError(f"timm has no downloadable weights for {architecture}")
        path = hub_file(settings.hf_hub_id, "model.safetensors")
        load_backbone(network, read_weights(path), "imagenet")


def _soften_last_layers(network: nn.Module) -> None:
    """Start new last layers near zero.

    With the wide start that some networks give them (up to 0.7 for two classes in timm's
    EfficientNets) the first steps would unlearn the pretrained features.
    """
    for layer in _class_layers(network):
        nn.init.normal_(layer.weight, std=0.01)
        nn.init.zeros_(layer.bias)


def _class_layers(network: nn.Module) -> list[nn.Linear]:
    """The linear layers with one output for each class: the last one and auxiliary ones."""
    return [
        module
        for module in network.modules()
        if isinstance(module, nn.Linear) and module.out_features == len(CLASSES)
    ]


def last_layer(network: nn.Module, name: str) -> nn.Linear:
    """The layer whose inputs are the network's features and whose outputs are its logits.

    Raises:
        ConfigError: the network does not end in a linear layer.
    """
    linear = _class_layers(network)
    if not linear:
        raise ConfigError(f"{name} does not end in a linear layer; set --diagnosis_weight 0")
    return linear[-1]
