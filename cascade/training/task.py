"""What a training is given, and how far it is."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

Row = dict[str, float]
"""Numbers of an epoch, by name."""


def images_of(batch: list[torch.Tensor]) -> torch.Tensor:
    """How many images a batch has, as a tensor where the batch is."""
    return torch.tensor(float(len(batch[0])), device=batch[0].device)


@dataclass(frozen=True)
class Task:
    """What differs between the stages.

    The random changes of the samples in ``data`` depend on its ``epoch``. ``validate`` gives
    metrics, of which ``monitor`` is maximised.

    ``loss`` is a mean over the images of a batch, or a tensor of several such means, which are
    summed. ``shares`` gives the weight of a batch in each mean where the batch is a part of a
    larger one, by default the number of its images. ``weights`` are those of the samples when they
    are drawn; ``None`` shows each once an epoch.
    """

    data: Any
    loss: Callable[[Any, list[torch.Tensor]], torch.Tensor]
    validate: Callable[[Any], Row]
    monitor: str
    shares: Callable[[list[torch.Tensor]], torch.Tensor] = images_of
    weights: np.ndarray | None = None


@dataclass
class Progress:
    """How far a training is.

    ``best`` is the highest monitored value so far, reached in ``best_epoch``; ``history`` has one
    row for each epoch. Of the epoch after those, ``seen`` images have been learnt from, in steps
    with these ``losses`` and in so many ``seconds``. ``accumulate`` is in how many parts a batch is
    computed. ``continued`` tells where the training went on
    with other settings or data, and which.
    """

    epoch: int = 0
    best: float = -math.inf
    best_epoch: int = 0
    history: list[Row] = field(default_factory=list)
    seen: int = 0
    losses: list[float] = field(default_factory=list)
    seconds: float = 0.0
    accumulate: int = 1
    continued: list[dict[str, Any]] = field(default_factory=list)
