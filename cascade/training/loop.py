"""One training loop for both stages: batch, forward, loss, backward, step, record.

After each epoch the network is validated, the better one so far is kept in
``best.safetensors``, and everything needed to go on is written to ``last.safetensors``. Epochs draw
their order, augmentation and dropout from the seed and their number, so a resumed training ends
with the same weights as one that was never stopped.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Sampler

from cascade.config import TrainConfig
from cascade.errors import TrainingError
from cascade.files import write_csv
from cascade.models.network import Network
from cascade.progress import progress
from cascade.training.memory import kept_memory
from cascade.training.optimization import (
    autocast,
    make_average,
    make_optimizer,
    make_plateau,
    make_schedule,
)
from cascade.training.state import load_state, save_state

log = logging.getLogger(__name__)
Row = dict[str, float]

LARGEST_LOSS = 1e6
"""A loss beyond this is that of weights which have blown up, though float32 still holds them."""


@dataclass(frozen=True)
class Task:
    """What differs between the stages.

    The random changes of the samples in ``data`` depend on its ``epoch``. ``validate`` gives
    metrics, of which ``monitor`` is maximised. ``weights`` are those of the samples when they are
    drawn; ``None`` shows each once an epoch. ``companion`` holds layers that the loss uses and that
    are trained along, but belong to no file.
    """

    data: Any
    loss: Callable[[Any, list[torch.Tensor]], torch.Tensor]
    validate: Callable[[Any], Row]
    monitor: str
    weights: np.ndarray | None = None
    companion: torch.nn.Module | None = None


@dataclass
class Progress:
    """How far a training is.

    ``best`` is the highest monitored value so far, reached in ``best_epoch``; ``history`` has one
    row for each epoch.
    """

    epoch: int = 0
    best: float = -math.inf
    best_epoch: int = 0
    history: list[Row] = field(default_factory=list)


class EpochSampler(Sampler[int]):
    """A shuffled order that depends on the seed and the epoch only."""

    def __init__(self, count: int, *, seed: int, weights: np.ndarray | None = None) -> None:
        self.count = count
        self.seed = seed
        self.epoch = 0
        self.chances = None if weights is None else weights / weights.sum()

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[int]:
        generator = np.random.default_rng([self.seed, self.epoch])
        if self.chances is None:
            yield from generator.permutation(self.count).tolist()
        else:
            yield from generator.choice(self.count, self.count, p=self.chances).tolist()


class Trainer:
    """Trains one network on one task and keeps its files."""

    def __init__(self, network: Network, task: Task, config: TrainConfig, folder: Path) -> None:
        self.network = network
        self.task = task
        self.config = config
        self.folder = folder
        self.progress = Progress()
        self.sampler = EpochSampler(len(task.data), seed=config.seed, weights=task.weights)
        # batch normalisation cannot learn from a single image
        alone = len(task.data) % config.batch_size == 1 and len(task.data) > 1
        self.loader: DataLoader[Any] = DataLoader(
            task.data,
            batch_size=config.batch_size,
            sampler=self.sampler,
            drop_last=alone,
            num_workers=config.num_workers,
            worker_init_fn=quiet_worker,
            pin_memory=network.device.type == "cuda",
            timeout=120 if config.num_workers else 0,
        )
        if len(self.loader) == 0:
            raise TrainingError(f"{len(task.data)} training images do not fill one batch")
        trained = [network] if task.companion is None else [network, task.companion]
        self.trained = torch.nn.ModuleList(trained)
        self.optimizer = make_optimizer(self.trained, config)
        steps = config.epochs * len(self.loader)
        self.schedule = make_schedule(self.optimizer, config, steps=steps)
        self.plateau = make_plateau(self.optimizer, config)
        self.average = make_average(network, config)

    def run(self, *, resume: bool = False) -> Progress:
        """Train until the last epoch, or until validation has not improved for ``patience``.

        Raises:
            TrainingError: the training diverged: a weight, a loss or a validation number is not
                finite, or a loss is above ``LARGEST_LOSS``. What was saved before stays.
        """
        if resume:
            self._restore()
        with deterministic(self.config.deterministic), kept_memory(self.network.device):
            self._run_epochs()
        return self.progress

    def _run_epochs(self) -> None:
        bar = progress(
            range(self.progress.epoch, self.config.epochs), description="epochs", unit="epoch"
        )
        for epoch in bar:
            if self._patience_is_over():
                log.info("no better validation for %d epochs: stopping", self.config.patience)
                break
            started = time.perf_counter()
            loss = self._train_epoch(epoch)
            self._require_finite_weights(epoch)
            metrics = self.task.validate(self.current)
            for name, value in metrics.items():
                self._require_sane(name, value, epoch)
            rate = self.optimizer.param_groups[0]["lr"]
            self._record(
                {
                    "epoch": epoch + 1,
                    "learning_rate": rate,
                    "train_loss": loss,
                    **metrics,
                    "seconds": round(time.perf_counter() - started, 1),
                }
            )
            bar.set_postfix({"loss": f"{loss:.4f}", self.task.monitor: f"{self.progress.best:.4f}"})

    @property
    def current(self) -> Network:
        """The network that is validated and saved: the averaged one if there is one."""
        return self.network if self.average is None else self.average.module  # type: ignore[return-value]

    def _train_epoch(self, epoch: int) -> float:
        self.trained.train()
        self.sampler.epoch = self.task.data.epoch = epoch
        losses: list[float] = []
        with seeded(self.config.seed * 100_003 + epoch, self.network.device):
            for batch in progress(self.loader, description=f"epoch {epoch + 1}", unit="batch"):
                losses.append(self._step(self._moved(batch)))
                self._require_sane("the loss", losses[-1], epoch)
        return float(np.mean(losses))

    def _require_sane(self, name: str, value: float, epoch: int) -> None:
        if not abs(value) <= LARGEST_LOSS:  # true for NaN
            raise self._diverged(f"{name} is {value:.4g}", epoch)

    def _require_finite_weights(self, epoch: int) -> None:
        for network in (self.trained, self.current):
            for name, tensor in network.state_dict().items():
                if not torch.isfinite(tensor).all():
                    raise self._diverged(f"{name} has values that are not finite", epoch)

    def _diverged(self, what: str, epoch: int) -> TrainingError:
        return TrainingError(
            f"the training diverged in epoch {epoch + 1}: {what}; lower --learning_rate (now "
            f"{self.config.learning_rate:g})"
        )

    def _moved(self, batch: list[torch.Tensor]) -> list[torch.Tensor]:
        """On the network's device; from pinned memory the copy does not wait for the last step."""
        return [item.to(self.network.device, non_blocking=True) for item in batch]

    def _step(self, batch: list[torch.Tensor]) -> float:
        with autocast(self.config, self.network.device):
            loss = self.task.loss(self.network, batch)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if self.config.gradient_clip:
            torch.nn.utils.clip_grad_norm_(self.trained.parameters(), self.config.gradient_clip)
        self.optimizer.step()
        if self.schedule is not None:
            self.schedule.step()
        if self.average is not None:
            self.average.update_parameters(self.network)
        return loss.item()

    def _record(self, row: Row) -> None:
        state = self.progress
        state.epoch += 1
        state.history.append(row)
        value = row[self.task.monitor]
        if self.plateau is not None:
            self.plateau.step(value)
        if value > state.best:
            state.best, state.best_epoch = value, state.epoch
            self.current.metrics = {"validation": row, "monitor": self.task.monitor}
            self.current.provenance = {**self.network.provenance, "epochs_trained": state.epoch}
            self.current.save(self.folder / "best.safetensors")
        self._save()
        write_csv(self.folder / "history.csv", list(row), state.history)
        log.info("%s", ", ".join(f"{key} {value:.4g}" for key, value in row.items()))

    def _patience_is_over(self) -> bool:
        state = self.progress
        waited = state.epoch - state.best_epoch
        return bool(self.config.patience) and state.epoch > 0 and waited >= self.config.patience

    def _parts(self) -> dict[str, Any]:
        parts = {
            "network": self.network,
            "companion": self.task.companion,
            "optimizer": self.optimizer,
            "schedule": self.schedule,
            "plateau": self.plateau,
            "average": self.average,
        }
        return {name: part for name, part in parts.items() if part is not None}

    def _save(self) -> None:
        state: Mapping[str, Any] = {
            "progress": vars(self.progress),
            **{name: part.state_dict() for name, part in self._parts().items()},
        }
        save_state(self.folder / "last.safetensors", state)

    def _restore(self) -> None:
        last = self.folder / "last.safetensors"
        if not last.exists():
            log.info("the run was stopped in its first epoch: starting with that")
            return
        state = load_state(last)
        for name, part in self._parts().items():
            part.load_state_dict(state[name])
        self.progress = Progress(**state["progress"])
        log.info("resuming after epoch %d", self.progress.epoch)


def quiet_worker(_: int) -> None:
    """One thread for each loader process; OpenCV's own threads would fight over the cores."""
    cv2.setNumThreads(0)


@contextlib.contextmanager
def seeded(seed: int, device: torch.device | None = None) -> Iterator[None]:
    """Draw torch's random numbers from a seed, and give the caller's generator back after."""
    devices = [device] if device is not None and device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


@contextlib.contextmanager
def deterministic(enabled: bool) -> Iterator[None]:
    """Refuse operations of torch that are not deterministic, and restore the setting after."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(enabled or before)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
