"""Some depthwise convolutions in float32 where a CPU computes the rest in bfloat16.

For bfloat16 torch has no fast gradient of those with stride 2 or kernels above 3 x 3: it takes two
to eleven times as long as in float32, which is the more exact, too. A training of
EfficientNet-Lite0 spent more than half of its time in them.
"""

from __future__ import annotations

import torch
from timm.layers import Conv2dSame
from torch import nn


class ExactConv2d(nn.Conv2d):
    """A convolution that leaves autocast on the CPU."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """``(N, C, H, W)`` to ``(N, C, H', W')``, in the type of the input."""
        if images.device.type != "cpu" or not torch.is_autocast_enabled("cpu"):
            return super().forward(images)
        with torch.autocast("cpu", enabled=False):
            return super().forward(images.float()).to(images.dtype)


class ExactConv2dSame(ExactConv2d, Conv2dSame):
    """One that timm pads as TensorFlow does."""


_EXACT: dict[type[nn.Conv2d], type[nn.Conv2d]] = {
    nn.Conv2d: ExactConv2d,
    Conv2dSame: ExactConv2dSame,
}


def exact_depthwise(network: nn.Module) -> None:
    """Let a network's depthwise convolutions without a fast gradient do so; weights stay."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d) and type(layer) in _EXACT and _is_slow(layer):
            layer.__class__ = _EXACT[type(layer)]


def _is_slow(layer: nn.Conv2d) -> bool:
    depthwise = layer.groups == layer.in_channels == layer.out_channels > 1
    return depthwise and (max(layer.stride) > 1 or max(layer.kernel_size) > 3)
