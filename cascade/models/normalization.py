"""The first layer of every network: uint8 RGB in, normalised channels out."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from cascade.errors import ShapeError


class Normalization(nn.Module):
    """Turns ``(N, S, S, 3)`` uint8 RGB into ``(N, 3, S, S)`` float32 around zero.

    Mean and standard deviation are buffers, so they travel with the weights and into exported
    graphs, and nothing outside a network ever normalises.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float], *, size: int) -> None:
        super().__init__()
        self.size = size
        self.register_buffer("mean", torch.tensor(list(mean)).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(list(std)).view(1, 3, 1, 1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Normalise a batch.

        Raises:
            ShapeError: the batch is not uint8 RGB at this network's size.
        """
        expected = (self.size, self.size, 3)
        if images.dtype != torch.uint8 or tuple(images.shape[1:]) != expected:
            raise ShapeError(
                f"a network takes uint8 RGB (N, {self.size}, {self.size}, 3), got "
                f"{tuple(images.shape)} {images.dtype}",
                expected=("N", *expected),
                actual=tuple(images.shape),
            )
        # permuting NHWC gives a channels_last tensor without a copy
        return (images.permute(0, 3, 1, 2).float() / 255.0 - self.mean) / self.std
