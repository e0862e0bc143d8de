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
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader

from cascade.config import TrainConfig
from cascade.errors import ConfigError, TrainingError
from cascade.files import write_csv
from cascade.models.depthwise import exact_depthwise
from cascade.models.network import Network
from cascade.models.shared_statistics import share_batch_statistics
from cascade.progress import progress
from cascade.training import processes
from cascade.training.learner import Learner
from cascade.training.memory import kept_memory
from cascade.training.optimization import (
    make_average,
    make_optimizer,
    make_plateau,
    make_schedule,
)
from cascade.training.order import Batches, EpochSampler
from cascade.training.resuming import catch_up, generators, restore, set_generators
from cascade.training.run import differences, note_changes
from cascade.training.state import load_checkpoint, save_checkpoint
from cascade.training.stopping import Stopped, StopSignals, leave_signals_to_main
from cascade.training.task import Progress, Row, Task
from cascade.training.tracking import Tracking

log = logging.getLogger(__name__)

LARGEST_LOSS = 1e6
"""A loss beyond this is that of weights which have blown up, though float32 still holds them."""


class Trainer:
    """Trains one network on one task and keeps its files."""

    def __init__(self, network: Network, task: Task, config: TrainConfig, folder: Path) -> None:
        self.network = network
        self.task = task
        self.config = config
        self.folder = folder
        self.progress = Progress(accumulate=config.accumulate)
        least = config.accumulate * max(processes.count(), 1 if config.accumulate == 1 else 2)
        if config.batch_size < least:
            raise ConfigError(
                f"--batch_size {config.batch_size} is too small for {processes.count()} processes "
                f"and --accumulate {config.accumulate}; it must be at least {least}"
            )
        self.sampler = EpochSampler(len(task.data), seed=config.seed, weights=task.weights)
        self.loader: DataLoader[Any] = DataLoader(
            task.data,
            batch_sampler=Batches(self.sampler, config.batch_size),
            num_workers=config.num_workers,
            worker_init_fn=quiet_worker,
            pin_memory=network.device.type == "cuda",
            timeout=120 if config.num_workers else 0,
        )
        if processes.count() > 1:
            share_batch_statistics(network)
        exact_depthwise(network)
        self.learner = Learner(network, task.loss, task.shares, config)
        self.optimizer = make_optimizer(network, config)
        self.steps = len(self.loader)  # of an epoch
        self.schedule = make_schedule(self.optimizer, config, steps=config.epochs * self.steps)
        self.plateau = make_plateau(self.optimizer, config)
        self.average = make_average(network, config)
        self.generators: dict[str, torch.Tensor] = {}
        self.signals = StopSignals(alone=processes.count() == 1)
        self.tracking = Tracking(config.tracker, folder)
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
        with self.signals, deterministic(self.config.deterministic), self.tracking:
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
        processes.wait()  # for the files
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
            self.tracking.start(self._settings, self.progress.history)
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
        self.network.train()
        state = self.progress
        self.sampler.epoch = self.task.data.epoch = epoch
        self.sampler.start = state.seen
        seed = self.config.seed * 100_003 + epoch + processes.rank() * 1_000_000_007
        with seeded(seed, self.network.device):
            batches = iter(self.loader)  # which draws a number, so the generators come after it
            set_generators(self.generators, self.network.device)
            for batch in progress(
                batches, description=f"epoch {epoch + 1}", total=len(self.loader), unit="batch"
            ):
                with self.signals.held():
                    loss = self._step(self._moved(batch))
                    state.seen += self._size
                    self.generators = generators(self.network.device)
                    due = 0 < self.config.checkpoint_minutes * 60 <= time.monotonic() - self.saved
                    answers = torch.tensor(
                        [loss, float(due), self.signals.pending], dtype=torch.double
                    )
                    told = torch.stack(processes.gather(answers))
                    state.losses.append(float(told[:, 0].sum()))
                    self._require_sane("the loss", state.losses[-1])
                    self.signals.agree(int(told[:, 2].max()))
                    if told[0, 1]:  # the clock of the main process
                        self._save()
        return float(np.mean(state.losses))

    @property
    def _size(self) -> int:
        """Images of the running batch in all processes."""
        return min(self.config.batch_size, self.sampler.count - self.progress.seen)

    def _require_sane(self, name: str, value: float) -> None:
        if not abs(value) <= LARGEST_LOSS:  # true for NaN
            raise self._diverged(f"{name} is {value:.4g}")

    def _require_finite_weights(self) -> None:
        for network in (self.network, self.current):
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
        loss = self.learner.gradient(batch, size=self._size)
        if self.config.gradient_clip:
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.config.gradient_clip)
        self.optimizer.step()
        if self.schedule is not None:
            self.schedule.step()
        if self.average is not None:
            self.average.update_parameters(self.network)
        return loss

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
            if self.learner.parts != self.config.accumulate:  # memory did not suffice for fewer
                self.current.provenance["accumulate"] = self.learner.parts
            if processes.is_main():
                self.current.save(self.folder / "best.safetensors")
        self.begun = time.monotonic()
        self._save()
        self._write_history()
        self.tracking.tell(state.history)
        log.info("%s", ", ".join(f"{key} {value:.4g}" for key, value in row.items()))

    def _write_history(self) -> None:
        rows = self.progress.history
        if rows and processes.is_main():
            write_csv(self.folder / "history.csv", list(rows[0]), rows)

    def _patience_is_over(self) -> bool:
        state = self.progress
        waited = state.epoch - state.best_epoch
        return bool(self.config.patience) and state.epoch > 0 and waited >= self.config.patience

    def _parts(self) -> dict[str, Any]:
        parts = {
            "network": self.network,
            "optimizer": self.optimizer,
            "schedule": self.schedule,
            "plateau": self.plateau,
            "average": self.average,
        }
        return {name: part for name, part in parts.items() if part is not None}

    def _save(self) -> None:
        self._require_finite_weights()
        self.progress.seconds = time.monotonic() - self.begun
        self.progress.accumulate = self.learner.parts
        state: Mapping[str, Any] = {
            "progress": vars(self.progress),
            "generators": {
                name: processes.gather(state) for name, state in self.generators.items()
            },
            "settings": self._settings,
            **{name: part.state_dict() for name, part in self._parts().items()},
        }
        if processes.is_main():
            save_checkpoint(self.folder, state)
        processes.wait()  # a process that ends may take the others with it
        self.saved = time.monotonic()

    @property
    def _settings(self) -> dict[str, Any]:
        settings: dict[str, Any] = self.network.provenance.get("settings", {})
        return settings

    def _restore(self) -> None:
        with processes.main_first():  # which may have to set a damaged one aside
            state = load_checkpoint(self.folder)
        if state is None:
            log.info("the run was stopped before its first checkpoint: starting again")
            return
        changed = differences(state.get("settings", self._settings), self._settings)
        self.progress = Progress(**state["progress"])
        self.generators = {
            name: states[processes.rank()]
            for name, states in state["generators"].items()
            if processes.rank() < len(states)
        }
        restore(self._parts(), state, changed=changed)
        self.learner.parts = self.progress.accumulate
        if changed:
            self.learner.parts = self.config.accumulate
            self._note_change(changed)
        self._write_history()
        done = self.progress
        if done.epoch == self.config.epochs or self._patience_is_over():
            log.info(
                "%s: is finished after %d epochs; nothing is left to do", self.folder, done.epoch
            )
        else:
            note_changes(self.folder, changed)
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
