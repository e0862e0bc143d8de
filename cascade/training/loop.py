"""One training loop for both stages: batch, forward, loss, backward, step, record.

After each epoch the network is validated, and the better one so far is kept in
``best.safetensors``. Everything needed to go on is written to ``last.safetensors`` then, every few
minutes, and when a signal asks for the end. Epochs draw their order and augmentation from the seed
and their number, and what layers draw is part of the checkpoint, so a resumed training ends with
the same weights as one that was never stopped.
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
from cascade.models.depthwise import exact_depthwise
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
from cascade.training.resuming import catch_up, generators, restore, set_generators
from cascade.training.run import differences
from cascade.training.state import load_checkpoint, save_checkpoint
from cascade.training.stopping import Stopped, StopSignals, leave_signals_to_main

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
    row for each epoch. Of the epoch after those, ``seen`` images have been learnt from, in steps
    with these ``losses`` and in so many ``seconds``. ``continued`` tells where the training went on
    with other settings or data, and which.
    """

    epoch: int = 0
    best: float = -math.inf
    best_epoch: int = 0
    history: list[Row] = field(default_factory=list)
    seen: int = 0
    losses: list[float] = field(default_factory=list)
    seconds: float = 0.0
    continued: list[dict[str, Any]] = field(default_factory=list)


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
        exact_depthwise(self.trained)
        self.optimizer = make_optimizer(self.trained, config)
        self.steps = len(self.loader)  # of an epoch
        self.schedule = make_schedule(self.optimizer, config, steps=config.epochs * self.steps)
        self.plateau = make_plateau(self.optimizer, config)
        self.average = make_average(network, config)
        self.generators: dict[str, torch.Tensor] = {}
        self.signals = StopSignals()
        self.begun = self.saved = time.monotonic()

    def run(self, *, resume: bool = False) -> Progress:
        """Train until the last epoch, or until validation has not improved for ``patience``.

        SIGTERM, SIGUSR1 and Ctrl-C write a checkpoint after the running step and end the training.

        Raises:
            TrainingError: the training diverged: a weight, a loss or a validation number is not
                finite, or a loss is above ``LARGEST_LOSS``. What was saved before stays.
            SystemExit: SIGTERM (143) or SIGUSR1 (138) ended it.
            KeyboardInterrupt: Ctrl-C ended it.
        """
        if resume:
            self._restore()
        with self.signals, deterministic(self.config.deterministic):
            try:
                with kept_memory(self.network.device):
                    self._run_epochs()
            except Stopped as stopped:
                self._save()
                state = self.progress
                log.warning(
                    "%s: stopped after %d epochs and %d images of the next; --resume goes on there",
                    stopped.name, state.epoch, state.seen,
                )  # fmt: skip
                stopped.leave()
        return self.progress

    def _run_epochs(self) -> None:
        bar = progress(
            range(self.progress.epoch, self.config.epochs), description="epochs", unit="epoch"
        )
        self.saved = time.monotonic()
        for epoch in bar:
            if self._patience_is_over():
                log.info("no better validation for %d epochs: stopping", self.config.patience)
                break
            self.begun = time.monotonic() - self.progress.seconds
            loss = self._train_epoch(epoch)
            self._require_finite_weights()
            metrics = self.task.validate(self.current)
            for name, value in metrics.items():
                self._require_sane(name, value)
            rate = self.optimizer.param_groups[0]["lr"]
            with self.signals.held():
                self._record(
                    {
                        "epoch": epoch + 1,
                        "learning_rate": rate,
                        "train_loss": loss,
                        **metrics,
                        "seconds": round(time.monotonic() - self.begun, 1),
                    }
                )
            bar.set_postfix({"loss": f"{loss:.4f}", self.task.monitor: f"{self.progress.best:.4f}"})

    @property
    def current(self) -> Network:
        """The network that is validated and saved: the averaged one if there is one."""
        return self.network if self.average is None else self.average.module  # type: ignore[return-value]

    def _train_epoch(self, epoch: int) -> float:
        self.trained.train()
        state = self.progress
        self.sampler.epoch = self.task.data.epoch = epoch
        self.sampler.start = state.seen
        with seeded(self.config.seed * 100_003 + epoch, self.network.device):
            batches = iter(self.loader)  # which draws a number, so the generators come after it
            set_generators(self.generators, self.network.device)
            for batch in progress(
                batches, description=f"epoch {epoch + 1}", total=len(self.loader), unit="batch"
            ):
                with self.signals.held():
                    state.losses.append(self._step(self._moved(batch)))
                    state.seen += len(batch[0])
                    self.generators = generators(self.network.device)
                    self._require_sane("the loss", state.losses[-1])
                    if 0 < self.config.checkpoint_minutes * 60 <= time.monotonic() - self.saved:
                        self._save()
        return float(np.mean(state.losses))

    def _require_sane(self, name: str, value: float) -> None:
        if not abs(value) <= LARGEST_LOSS:  # true for NaN
            raise self._diverged(f"{name} is {value:.4g}")

    def _require_finite_weights(self) -> None:
        for network in (self.trained, self.current):
            for name, tensor in network.state_dict().items():
                if not torch.isfinite(tensor).all():
                    raise self._diverged(f"{name} has values that are not finite")

    def _diverged(self, what: str) -> TrainingError:
        return TrainingError(
            f"the training diverged in epoch {self.progress.epoch + 1}: {what}; lower "
            f"--learning_rate (now {self.config.learning_rate:g})"
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
        state.seen, state.losses, state.seconds, self.generators = 0, [], 0.0, {}
        value = row[self.task.monitor]
        if self.plateau is not None:
            self.plateau.step(value)
        if value > state.best:
            state.best, state.best_epoch = value, state.epoch
            self.current.metrics = {"validation": row, "monitor": self.task.monitor}
            self.current.provenance = {**self.network.provenance, "epochs_trained": state.epoch}
            if state.continued:
                self.current.provenance["continued"] = state.continued
            self.current.save(self.folder / "best.safetensors")
        self.begun = time.monotonic()
        self._save()
        self._write_history()
        log.info("%s", ", ".join(f"{key} {value:.4g}" for key, value in row.items()))

    def _write_history(self) -> None:
        rows = self.progress.history
        if rows:
            write_csv(self.folder / "history.csv", list(rows[0]), rows)

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
        self._require_finite_weights()
        self.progress.seconds = time.monotonic() - self.begun
        state: Mapping[str, Any] = {
            "progress": vars(self.progress),
            "generators": self.generators,
            "settings": self._settings,
            **{name: part.state_dict() for name, part in self._parts().items()},
        }
        save_checkpoint(self.folder, state)
        self.saved = time.monotonic()

    @property
    def _settings(self) -> dict[str, Any]:
        settings: dict[str, Any] = self.network.provenance.get("settings", {})
        return settings

    def _restore(self) -> None:
        state = load_checkpoint(self.folder)
        if state is None:
            log.info("the run was stopped before its first checkpoint: starting again")
            return
        changed = differences(state.get("settings", self._settings), self._settings)
        self.progress = Progress(**state["progress"])
        self.generators = state.get("generators", {})
        restore(self._parts(), state, changed=changed)
        if changed:
            self._note_change(changed)
        self._write_history()
        done = self.progress
        if done.epoch == self.config.epochs or self._patience_is_over():
            log.info(
                "%s: is finished after %d epochs; nothing is left to do", self.folder, done.epoch
            )
        else:
            log.info("resuming after %d epochs and %d images of the next", done.epoch, done.seen)

    def _note_change(self, changed: Mapping[str, Any]) -> None:
        """Record other settings, and bring a new schedule to where the training is."""
        state = self.progress
        self.sampler.start = state.seen
        state.continued.append({"epoch": state.epoch, "images": state.seen, "changed": {**changed}})
        if self.schedule is not None:
            catch_up(self.schedule, (state.epoch + 1) * self.steps - len(self.loader))


def quiet_worker(_: int) -> None:
    """One thread for each loader process; OpenCV's own threads would fight over the cores."""
    cv2.setNumThreads(0)
    leave_signals_to_main()


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
