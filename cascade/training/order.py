"""In which order images are learnt from, and which process takes which."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

from cascade.errors import TrainingError
from cascade.training import processes


class EpochSampler(Sampler[int]):
    """A shuffled order that depends on the seed and the epoch only, from place ``start`` on."""

    def __init__(self, count: int, *, seed: int, weights: np.ndarray | None = None) -> None:
        self.count = count
        self.seed = seed
        self.epoch = self.start = 0
        self.chances = None if weights is None else weights / weights.sum()

    def __len__(self) -> int:
        return max(0, self.count - self.start)

    def __iter__(self) -> Iterator[int]:
        generator = np.random.default_rng([self.seed, self.epoch])
        if self.chances is None:
            order = generator.permutation(self.count)
        else:
            order = generator.choice(self.count, self.count, p=self.chances)
        yield from order[self.start :].tolist()


class Batches(Sampler[list[int]]):
    """Batches of an order, the same for any number of processes, of each this process' share.

    A last batch is left out where it has fewer images than processes, or a single one, from which
    batch normalisation cannot learn.
    """

    def __init__(self, order: EpochSampler, size: int) -> None:
        """Cut the order.

        Raises:
            TrainingError: there are no images, or fewer than processes.
        """
        self.order = order
        self.size = size
        self.least = min(size, max(processes.count(), 1 if order.count <= size else 2))
        if order.count < processes.count():
            raise TrainingError(f"{order.count} training images do not fill one batch")

    def __len__(self) -> int:
        return sum(1 for _ in self._sizes())

    def _sizes(self) -> Iterator[int]:
        for start in range(0, len(self.order), self.size):
            size = min(self.size, len(self.order) - start)
            if size >= self.least:
                yield size

    def __iter__(self) -> Iterator[list[int]]:
        images = list(self.order)
        for step, size in enumerate(self._sizes()):
            start = step * self.size
            yield processes.own_share(images[start : start + size])


def batches_of(count: int, size: int) -> list[list[int]]:
    """Batches of ``count`` images in their order."""
    return [list(range(start, min(start + size, count))) for start in range(0, count, size)]


def own_batches(count: int, size: int) -> list[list[int]]:
    """Those batches that this process takes of several, every n-th."""
    return batches_of(count, size)[processes.rank() :: processes.count()]
