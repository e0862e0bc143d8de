"""Which layer of a network its heat map is read from, and how its output becomes a map."""

from __future__ import annotations

import math
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from cascade.errors import ConfigError
from cascade.models.network import hooked

_POOLING = (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)


@dataclass(frozen=True)
class TargetLayer:
    """A layer whose output has a value for each place in the image.

    ``prefix_tokens`` come before those of the image, such as the class token; ``rectified``: the
    network applies a ReLU to the output that is no module of its own.
    """

    module: nn.Module
    prefix_tokens: int = 0
    rectified: bool = False

    def as_maps(self, output: torch.Tensor) -> torch.Tensor:
        """The layer's output as ``(N, C, h, w)``.

        Raises:
            ConfigError: it has another shape.
        """
        maps = _as_maps(output, self.prefix_tokens)
        if maps is None:
            raise ConfigError(
                f"the output of {type(self.module).__name__} is {tuple(output.shape)}, which is no "
                "map over the image; choose another layer"
            )
        return maps


@dataclass(frozen=True)
class _Family:
    """Networks that need another layer than the last one with a map."""

    layer: str
    prefix_tokens: int = 0
    rectified: bool = False


_FAMILIES = {
    # The class token alone is classified, so after the last attention no patch has a gradient:
    # the last place where all of them still have one is what that attention reads.
    "torchvision VisionTransformer": _Family("encoder.layers.-1.ln_1", prefix_tokens=1),
    "timm with class token": _Family("blocks.-1.norm1", prefix_tokens=1),
    # Averaged over all places, channels last.
    "torchvision SwinTransformer": _Family("norm"),
    "timm SwinTransformer": _Family("norm"),
    "timm SwinTransformerV2": _Family("norm"),
    # A ReLU without a module stands between the features and their mean.
    "torchvision DenseNet": _Family("features", rectified=True),
}


def named_layer(network: nn.Module, name: str) -> TargetLayer:
    """The layer that a user chose by its path within the network, such as ``features.17``.

    Raises:
        ConfigError: there is none.
    """
    found = _at(network, name)
    if found is None:
        children = ", ".join(child for child, _ in network.named_children())
        raise ConfigError(f"the network has no layer {name!r}; its first parts are {children}")
    return TargetLayer(found, _prefix_tokens(network))


def find_layer(network: nn.Module, run: Callable[[], object]) -> TargetLayer:
    """The layer that the family's entry names, else the last one that gives a map.

    ``run`` sends one image through the network.

    Raises:
        ConfigError: no layer gives a map of more than one place.
    """
    if (family := _FAMILIES.get(_family_of(network))) is not None:
        found = _at(network, family.layer)
        if found is not None:
            prefix = _prefix_tokens(network) or family.prefix_tokens
            return TargetLayer(found, prefix, family.rectified)
    elif (last := _last_map(network, run)) is not None:
        return TargetLayer(last)
    raise ConfigError(
        f"{type(network).__name__} has no layer that is known to give a map of more than one place "
        "for images of this size, so there is no heat map; name one (GradCAM(..., layer=NAME))"
    )


def _family_of(network: nn.Module) -> str:
    kind = type(network)
    library = kind.__module__.partition(".")[0]
    if library != "torchvision" and _prefix_tokens(network):
        return "timm with class token"
    return f"{library} {kind.__name__}"


def _prefix_tokens(network: nn.Module) -> int:
    known = getattr(network, "num_prefix_tokens", None)
    if known is not None:
        return int(known)
    own = (name for name, _ in network.named_parameters(recurse=False))
    return int(any(name.startswith("cls_token") for name in own))


def _at(network: nn.Module, path: str) -> nn.Module | None:
    found: nn.Module | None = network
    for name in path.split("."):
        children = list(found.named_children()) if found is not None else []
        if name == "-1":
            found = children[-1][1] if children else None
        else:
            found = dict(children).get(name)
    return found


def _last_map(network: nn.Module, run: Callable[[], object]) -> nn.Module | None:
    """The last module to finish, and to run once, whose output is a map of several places."""
    finished: list[nn.Module] = []
    thread = threading.get_ident()

    def note(module: nn.Module, _: object, output: object) -> None:
        if threading.get_ident() != thread:  # somebody else predicts meanwhile
            return
        if isinstance(output, torch.Tensor) and not isinstance(module, _POOLING):
            maps = _as_maps(output, 0)
            if maps is not None and maps.shape[2] * maps.shape[3] > 1:
                finished.append(module)

    with hooked(network.modules(), note):
        run()
    times = Counter(finished)
    return next((module for module in reversed(finished) if times[module] == 1), None)


def _as_maps(output: torch.Tensor, prefix_tokens: int) -> torch.Tensor | None:
    """Channels first, channels last or tokens as ``(N, C, h, w)``; maps of crops are square."""
    if output.ndim == 4:
        _, first, second, third = output.shape
        if second == third:
            return output
        return output.permute(0, 3, 1, 2) if first == second else None
    if output.ndim != 3:
        return None
    for skipped in (prefix_tokens, 0):  # some networks add their class token later
        patches = output[:, skipped:]
        side = math.isqrt(patches.shape[1])
        if side and side * side == patches.shape[1]:
            return patches.transpose(1, 2).unflatten(2, (side, side))
    return None
