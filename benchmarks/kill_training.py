"""Does a training that is killed at any moment end with the bits of one that was never stopped?

Small trainings of both stages are killed with SIGKILL at random moments, some of them while they
write a checkpoint, and resumed until they end. Their weights, averages, optimisers, best epochs and
histories must equal those of an uninterrupted training. It needs a system with ``fork``.

    python benchmarks/kill_training.py
    python benchmarks/kill_training.py --kills 8 --writes 4
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NoReturn

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

import sklearn.metrics  # noqa: E402, F401 - loaded once here, and not by each process
import torch  # noqa: E402

from cascade.config import (  # noqa: E402
    ClassificationTrainConfig,
    ClassifierConfig,
    SegmentationTrainConfig,
    SegmenterConfig,
)
from cascade.data.splits import make_splits  # noqa: E402
from cascade.data.synthetic import SyntheticConfig, write_synthetic_dataset  # noqa: E402
from cascade.data.tables import read_table  # noqa: E402
from cascade.models.artifact import read_artifact, tensors_digest  # noqa: E402
from cascade.training import state  # noqa: E402
from cascade.training.classification import train_classifier  # noqa: E402
from cascade.training.segmentation import train_segmenter  # noqa: E402

STAGES = ("segmenter", "classifier")
MOMENTS = ("before", "half written", "whole", "between the renames")
"""When, while a checkpoint is written, a training is killed."""


def train(stage: str, data: Path, folder: Path, *, epochs: int) -> None:
    """Begin or go on with a small training that writes a checkpoint after each step."""
    table = read_table(data / "train_data.csv")
    splits = make_splits(table, fraction=0.3, seed=0)
    how = {
        "epochs": epochs, "batch_size": 4, "optimizer": "adamw", "learning_rate": 0.002,
        "momentum": 0.9, "weight_decay": 0.01, "schedule": "onecycle", "average": 0.9,
        "precision": "fp32", "checkpoint_minutes": 1e-9, "cache_gigabytes": 0.0,
    }  # fmt: skip
    resume = (folder / "config.yaml").is_file()
    if stage == "segmenter":
        network = SegmenterConfig(
            encoder="tu-test_resnet", size=32, decoder_channels=(16, 16, 8, 8, 8)
        )
        train_segmenter(
            table, splits, config=network, training=SegmentationTrainConfig(**how),
            output=folder, device="cpu", resume=resume,
        )  # fmt: skip
    else:
        train_classifier(
            table, splits, config=ClassifierConfig(architecture="timm/test_resnet", size=32),
            training=ClassificationTrainConfig(**how), output=folder, device="cpu", resume=resume,
        )  # fmt: skip


def result(folder: Path) -> str:
    """A digest of all that a training leaves, without the time that it took."""
    last = state.load_state(folder / state.LAST)
    last["progress"].pop("seconds")
    for row in last["progress"]["history"]:
        row.pop("seconds")
    with (folder / "history.csv").open(newline="") as file:
        history = [{**row, "seconds": ""} for row in csv.DictReader(file)]
    tensors: dict[str, torch.Tensor] = {}
    document = state._flatten(last, tensors, "state")
    parts = (
        document, history, tensors_digest({name: item.numpy() for name, item in tensors.items()}),
        tensors_digest(read_artifact(folder / "best.safetensors").tensors),
    )  # fmt: skip
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def die_while_writing(generator: random.Random, steps: int) -> None:
    """Have this process kill itself in one of its writes of a checkpoint."""
    moment, remaining = generator.choice(MOMENTS), generator.randint(1, steps)
    save, replace = state.save_file, Path.replace

    def die() -> NoReturn:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError

    def save_and_die(tensors: object, path: Path, metadata: object) -> None:
        nonlocal remaining
        remaining -= 1
        if remaining == 0 and moment == "before":
            die()
        save(tensors, path, metadata=metadata)
        if remaining == 0 and moment == "half written":
            os.truncate(path, generator.randrange(path.stat().st_size))
        if remaining == 0 and moment != "between the renames":
            die()

    def replace_and_die(path: Path, target: Path) -> Path:
        moved = replace(path, target)
        if remaining <= 0 and target.name == state.PREVIOUS:
            die()
        return moved

    state.save_file = save_and_die
    Path.replace = replace_and_die  # type: ignore[method-assign,assignment]


def attempt(work: Callable[[], None], *, seconds: float | None) -> bool:
    """Do the work in a process of its own, killed after so many seconds; whether it ended before.

    Raises:
        RuntimeError: the work failed.
    """
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException:  # noqa: BLE001 - a forked process must never return from here
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    end = time.monotonic() + (3600.0 if seconds is None else seconds)
    done, status = 0, 0
    while not done and time.monotonic() < end:
        time.sleep(0.003)
        done, status = os.waitpid(child, os.WNOHANG)
    if not done:
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return False
    if os.waitstatus_to_exitcode(status):
        raise RuntimeError(f"a training ended with {os.waitstatus_to_exitcode(status)}")
    return True


def kill_until_it_ends(
    work: Callable[[], None], plan: list[bool], generator: random.Random, took: float
) -> float:
    """Kill and resume a training as planned, until it ends or nothing is left of the plan.

    ``plan`` tells of each kill whether it is to come in a checkpoint's write; kills are taken off
    its end. ``took`` is how long a training lasts.

    Returns:
        How long this one lasted if it was not killed at all, else ``took``.
    """

    def write_and_die() -> None:
        die_while_writing(random.Random(len(plan)), 4)
        work()

    killed, ended, begun = 0, False, time.monotonic()
    while not ended:
        writing = bool(plan) and plan[-1]
        seconds = generator.uniform(0, took) if plan and not writing else None
        ended = attempt(write_and_die if writing else work, seconds=seconds)
        if not ended:
            plan.pop()
            killed += 1
    return took if killed else time.monotonic() - begun


def main() -> int:
    """Kill, resume, compare; returns 1 if a training ended differently."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--writes", type=int, default=10, help="of them in a checkpoint's write")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--images", type=int, default=24)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    generator = random.Random(arguments.seed)
    plan = [place < arguments.writes for place in range(arguments.kills)]
    generator.shuffle(plan)
    with tempfile.TemporaryDirectory() as name:
        data = Path(name) / "data"
        write_synthetic_dataset(
            data, SyntheticConfig(count_train=arguments.images, count_test=4, sizes=((48, 56),))
        )
        expected: dict[str, str] = {}
        took: dict[str, float] = {}
        for stage in STAGES:
            folder = Path(name) / stage
            work = partial(train, stage, data, folder, epochs=arguments.epochs)
            took[stage] = kill_until_it_ends(work, [], generator, 0.0)
            expected[stage] = result(folder)
        finished = differing = 0
        while plan:
            stage, folder = STAGES[finished % 2], Path(name) / f"killed {finished}"
            work = partial(train, stage, data, folder, epochs=arguments.epochs)
            took[stage] = kill_until_it_ends(work, plan, generator, took[stage])
            finished += 1
            if result(folder) != expected[stage]:
                differing += 1
                print(f"{folder.name} ({stage}) ended differently")
    print(
        f"{arguments.kills} kills, {arguments.writes} of them while a checkpoint was written; "
        f"{finished} trainings of {took['segmenter']:.1f} and {took['classifier']:.1f} s, "
        f"{finished - differing} ended with the bits of the uninterrupted one"
    )
    return int(differing > 0)


if __name__ == "__main__":
    sys.exit(main())
