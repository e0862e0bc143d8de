"""The gradient of a batch: in all processes, in parts, and in smaller parts where memory ends.

Torch's DistributedDataParallel averages the gradients of the processes. A loss is a mean over
images, so each part of a batch counts by its share in the whole one: the gradient is that of the
whole batch in one process, however it was divided.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from cascade.config import TrainConfig
from cascade.errors import TrainingError
from cascade.training import processes
from cascade.training.optimization import autocast

log = logging.getLogger(__name__)
Batch = list[torch.Tensor]


class Learner:
    """Computes gradients.

    Attributes:
        parts: in how many parts a process computes its share of a batch.
    """

    def __init__(
        self,
        trained: nn.Module,
        loss: Callable[[Any, Batch], torch.Tensor],
        shares: Callable[[Batch], torch.Tensor],
        config: TrainConfig,
    ) -> None:
        self.config = config
        self.parts = config.accumulate
        self.shares = shares
        self.alone = processes.count() == 1
        self._loss = _Loss(trained, loss)
        self._shared: DistributedDataParallel | None = None
        self._device = next(trained.parameters()).device

    def gradient(self, batch: Batch, *, size: int) -> float:
        """Give each weight the gradient of the loss over a batch.

        Args:
            batch: this process' share of it.
            size: images of the whole batch.

        Returns:
            What this share contributes to the loss; the sum over processes is the loss.

        Raises:
            TrainingError: the memory does not even hold the smallest parts.
        """
        if self._shared is None and not self.alone:
            self._shared = self._join(batch, size)
        whole = processes.total(self.shares(batch)).clamp(min=1e-12)
        while True:
            try:
                return self._gradient(self._divided(batch, size), whole)
            except torch.OutOfMemoryError as error:
                if not self.alone:  # the others wait for this one, which cannot tell them
                    raise TrainingError(
                        f"out of memory; go on with --accumulate {self.parts * 2} --resume "
                        "--resume_changed"
                    ) from error
            self._halve(size)

    def _gradient(self, parts: list[Batch], whole: torch.Tensor) -> float:
        self._loss.zero_grad(set_to_none=True)
        loss = 0.0
        for left, part in zip(range(len(parts) - 1, -1, -1), parts, strict=True):
            module: nn.Module = self._shared or self._loss
            with self._shared.no_sync() if self._shared and left else contextlib.nullcontext():
                with autocast(self.config, self._device):
                    means = module(*part)
                value = (means * (self.shares(part) / whole)).sum()
                (value * processes.count()).backward()
            loss += value.item()
        return loss

    def _divided(self, batch: Batch, size: int) -> list[Batch]:
        """As many parts in each process, so that they meet in every layer."""
        parts = max(1, min(self.parts, size // max(2, processes.count())))
        return [
            list(part) for part in zip(*(item.tensor_split(parts) for item in batch), strict=True)
        ]

    def _halve(self, size: int) -> None:
        if self.parts * 2 * max(2, processes.count()) > size:
            raise TrainingError(
                f"out of memory even with {size // self.parts} images at a time; train with a "
                "smaller --image_size or a smaller network"
            )
        self.parts *= 2
        log.warning(
            "warning: out of memory: each batch of %d images is computed in %d parts from now on, "
            "with the same effective size; --accumulate %d does so from the start",
            self.config.batch_size, self.parts, self.parts,
        )  # fmt: skip
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _join(self, batch: Batch, size: int) -> DistributedDataParallel:
        """Find in how many parts a batch fits, before processes wait for each other, and join them.

        Without batch statistics nothing is exchanged and nothing changes. Memory for what the
        optimiser and the exchange of gradients will need is kept free meanwhile.
        """
        while not all(processes.gather(torch.tensor(self._fits(self._divided(batch, size)[0])))):
            self._halve(size)
        # some encoders have layers that nothing uses, and looking for them takes time
        weights = [weight for weight in self._loss.parameters() if weight.requires_grad]
        unused = any(weight.grad is None for weight in weights)
        return DistributedDataParallel(self._loss, find_unused_parameters=unused)

    def _fits(self, part: Batch) -> bool:
        self._loss.zero_grad(set_to_none=True)
        self._loss.eval()
        try:
            kept = [
                torch.empty_like(weight) for weight in self._loss.parameters() for _ in range(3)
            ]
            with autocast(self.config, self._device):
                means = self._loss(*part)
            means.sum().backward()
            return bool(kept)
        except torch.OutOfMemoryError:
            return False
        finally:
            self._loss.train()


class _Loss(nn.Module):
    """The loss as a module, because DistributedDataParallel watches calls of modules."""

    def __init__(self, trained: nn.Module, loss: Callable[[Any, Batch], torch.Tensor]) -> None:
        super().__init__()
        self.trained = trained
        self.loss = loss

    def forward(self, *batch: torch.Tensor) -> torch.Tensor:
        """The mean losses of a part of a batch."""
        return self.loss(self.trained, list(batch))
