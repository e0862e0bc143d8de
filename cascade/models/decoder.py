"""U-Net decoders that convolve at the size before the upsampling: the same numbers for less work.

Where every pixel is doubled, the nine weights of a 3 by 3 convolution meet only four different
pixels. Upsampling and convolution together are a transposed convolution with 4 by 4 weights and
stride 2, whose weights are sums of the nine: less than half the arithmetic, forward and backward.
The channels of the skip connection, which are not upsampled, keep their convolution.
"""

from __future__ import annotations

import torch
from segmentation_models_pytorch.decoders.unet.decoder import UnetDecoderBlock
from torch import nn
from torch.nn import functional

_ALONG = torch.tensor([[0.0, 0.0, 1.0], [0.0, 1.0, 1.0], [1.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
"""Which of three weights meet the input pixel that each of four taps belongs to."""


class TransposedBlock(UnetDecoderBlock):
    """A level of a U-Net's decoder with its first convolution done before the upsampling."""

    def forward(
        self,
        feature_map: torch.Tensor,
        target_height: int,
        target_width: int,
        skip_connection: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """``(N, C, h, w)`` to ``(N, D, 2h, 2w)``, other sizes as the block of the library does."""
        doubled = (2 * feature_map.shape[2], 2 * feature_map.shape[3])
        # exported graphs have their own form of the same, see cascade.export.upsampling
        if doubled != (target_height, target_width) or torch.compiler.is_exporting():
            return super().forward(feature_map, target_height, target_width, skip_connection)
        convolution, *rest = self.conv1
        below = feature_map.shape[1]
        weight = transposed_weight(convolution.weight[:, :below])
        result = functional.conv_transpose2d(
            feature_map, weight, convolution.bias, stride=2, padding=1
        )
        if skip_connection is not None:
            beside = convolution.weight[:, below:]
            result = result + functional.conv2d(skip_connection, beside, padding=1)
        for layer in (*rest, self.conv2):
            result = layer(result)
        return result


def transposed_weight(weight: torch.Tensor) -> torch.Tensor:
    """Weights ``(D, C, 3, 3)`` after nearest upsampling by 2 as those ``(C, D, 4, 4)`` before it.

    With padding 1 a transposed convolution of stride 2 adds input pixel i into output pixel y with
    tap ``y + 1 - 2 i``; that pixel stands at ``2 i`` and ``2 i + 1`` of the upsampled image. Within
    autocast the sums are as coarse as the weights are there.
    """
    outputs, channels = weight.shape[:2]
    taps = torch.kron(_ALONG, _ALONG).to(weight)
    rows = weight.transpose(0, 1).reshape(channels * outputs, 9)
    return (rows @ taps.T).view(channels, outputs, 4, 4)


def convolve_before_upsampling(network: nn.Module) -> None:
    """Let the levels of a U-Net do so, where they are of the usual kind; weights stay as they are.

    A usual level upsamples to the nearest pixel and has no attention.
    """
    for block in network.modules():
        if type(block) is UnetDecoderBlock and _is_usual(block):
            block.__class__ = TransposedBlock


def _is_usual(block: UnetDecoderBlock) -> bool:
    plain = isinstance(block.attention1.attention, nn.Identity)
    plain &= isinstance(block.attention2.attention, nn.Identity)
    return plain and block.interpolation_mode == "nearest"
