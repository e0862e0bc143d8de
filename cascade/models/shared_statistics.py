"""Batch normalisation over the images of all processes that share a batch."""

from __future__ import annotations

from typing import Any

import torch
from torch import distributed, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm


def share_batch_statistics(network: nn.Module) -> None:
    """Have each batch normalisation take mean and variance over the images of all processes.

    On CUDA by torch's ``SyncBatchNorm``, elsewhere by :class:`SharedBatchNorm`. Weights, buffers
    and their names stay; the network is changed in place.
    """
    if any(weight.is_cuda for weight in network.parameters()):
        from timm.layers import convert_sync_batchnorm

        convert_sync_batchnorm(network)
        return
    for module in network.modules():
        if isinstance(module, _BatchNorm):
            module.__class__ = SharedBatchNorm


class SharedBatchNorm(_BatchNorm):
    """What ``SyncBatchNorm`` computes, with two sums over the processes, on any device.

    It may have been one of timm's layers, which end with ``drop`` and ``act``.
    """

    running_mean: torch.Tensor
    running_var: torch.Tensor
    num_batches_tracked: torch.Tensor

    def _check_input_dim(self, input: torch.Tensor) -> None:
        """Any number of dimensions will do."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Normalise ``(N, C, ...)``, in training by the statistics of all processes' images."""
        output = self._shared(input) if self.training else self._stored(input)
        for name in ("drop", "act"):
            output = getattr(self, name, nn.Identity())(output)
        return output

    def _stored(self, values: torch.Tensor) -> torch.Tensor:
        return functional.batch_norm(
            values, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
        )

    def _shared(self, values: torch.Tensor) -> torch.Tensor:
        exact = values if values.dtype == self.running_mean.dtype else values.float()
        others = [0, *range(2, values.ndim)]
        shape = [1, -1] + [1] * (values.ndim - 2)
        count = exact.new_tensor([values.numel() // values.shape[1]])
        sums = _Sum.apply(torch.cat([exact.sum(others), count]))
        total = sums[-1].detach()
        mean = sums[:-1] / total
        centred = exact - mean.view(shape)
        variance = _Sum.apply(centred.square().sum(others)) / total
        with torch.no_grad():
            self.num_batches_tracked += 1
            share = self.momentum or 1.0 / float(self.num_batches_tracked)
            self.running_mean.lerp_(mean, share)
            self.running_var.lerp_(variance * (total / (total - 1).clamp(min=1)), share)
        output = centred * (variance + self.eps).rsqrt().view(shape)
        if self.affine:
            output = output * self.weight.view(shape) + self.bias.view(shape)
        return output.to(values.dtype)


class _Sum(torch.autograd.Function):
    """The sum over the processes, also of the gradients."""

    @staticmethod
    def forward(_: Any, values: torch.Tensor) -> torch.Tensor:
        total = values.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(_: Any, *gradients: torch.Tensor) -> torch.Tensor:
        total = gradients[0].clone()
        distributed.all_reduce(total)
        return total
