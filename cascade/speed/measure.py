"""Rounds in which configurations take turns, each time in a process of its own.

A round starts one process after the other, so a machine that is busy for a while slows all of them
alike, and none has the memory or the caches of another. What is reported are medians over rounds.
"""

from __future__ import annotations

import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cascade.errors import ConfigError, DataError
from cascade.progress import progress
from cascade.speed.configurations import NAIVE, Configuration, NotMeasured
from cascade.speed.floor import floor_seconds, merge_floors

_FLOOR = "the machine's floor"

Ask = Callable[[Mapping[str, Any], int], dict[str, Any]]
"""A task and a number of threads to what the process answers."""


@dataclass(frozen=True)
class Speed:
    """How fast one configuration judges one set of images.

    Attributes:
        images: name of the set.
        runtime: see :class:`~cascade.speed.configurations.Configuration`, as for the next two.
        precision: of the arithmetic.
        batch_size: images at a time.
        rounds: that were measured.
        images_per_second: all images in one stream; median over rounds.
        latency_p50_ms: an image by itself, from its file to the answer, of all rounds.
        latency_p99_ms: the same.
        processor_ms: processor time of an image in the stream, all threads; median.
        peak_memory_mb: the process's resident set at its largest; median, ``None`` if unknown.
        cold_start_s: from the start of the process to the first answer; median.
        floor_share: the machine's floor over the time per image; ``None`` if unknown.
        every_round: ``images_per_second`` of each round.
        steps_ms: processor time of each step of one image on one thread, median; empty for torch,
            whose threads cannot be changed, and for the naive pair.
    """

    images: str
    runtime: str
    precision: str
    batch_size: int
    rounds: int
    images_per_second: float
    latency_p50_ms: float
    latency_p99_ms: float
    processor_ms: float
    peak_memory_mb: float | None
    cold_start_s: float
    floor_share: float | None
    every_round: tuple[float, ...]
    steps_ms: Mapping[str, float] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The configuration in words."""
        return Configuration(self.runtime, self.precision, self.batch_size).name


@dataclass(frozen=True)
class Measured:
    """What came out; ``floor`` is ``None`` where it was not measured."""

    speeds: tuple[Speed, ...]
    not_measured: tuple[NotMeasured, ...]
    floor: Mapping[str, Any] | None


def ask_process(task: Mapping[str, Any], threads: int) -> dict[str, Any]:
    """Start a worker with so many threads; what it answers, with ``cold_start_s``.

    A process that ends without an answer gives ``{"ended": what it wrote last}``.
    """
    package = str(Path(__file__).resolve().parents[2])
    paths = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
    variables = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "OMP_NUM_THREADS": str(threads),
        "OPENCV_FOR_THREADS_NUM": str(threads),
    }
    answers: dict[str, Any] = {}
    with tempfile.TemporaryFile("w+") as errors:
        start = time.perf_counter()
        with subprocess.Popen(
            [sys.executable, "-m", "cascade.speed.worker", json.dumps(task)],
            stdout=subprocess.PIPE, stderr=errors, text=True, env=variables,
        ) as process:  # fmt: skip
            for line in process.stdout or ():
                answers.update(json.loads(line))
                if answers.pop("first", False):
                    answers["cold_start_s"] = time.perf_counter() - start
        errors.seek(0)
        lines = errors.read().split("\n")
    if process.returncode:
        last = next((line for line in reversed(lines) if line.strip()), "no message")
        return {"ended": f"its process ended with {process.returncode}: {last}"}
    return answers


def measure(
    configurations: Sequence[Configuration],
    sets: Mapping[str, Sequence[str]],
    *,
    threads: int,
    rounds: int,
    floor_of: Mapping[str, Any] | None = None,
    ask: Ask = ask_process,
) -> Measured:
    """Let the configurations take turns on each set of images.

    Args:
        configurations: what to compare.
        sets: by name the paths of image files.
        threads: of each process.
        rounds: how often each configuration has its turn.
        floor_of: ``file`` and ``folder`` of the cascade whose floor is measured.
        ask: how a process is asked.

    Raises:
        ConfigError: nothing could be measured.
        DataError: an image or the model is not usable.
    """
    turns = _Turns(ask, threads)
    order = list(itertools.product(sets, configurations))
    precisions = sorted({configuration.precision for configuration in configurations})
    floor_task = {**(floor_of or {}), "kind": "floor", "precisions": precisions, "sets": dict(sets)}
    floors = [] if floor_of is None else [(_FLOOR, None)]
    for name, configuration in progress(
        [*floors, *order] * rounds, description="measuring", unit="process"
    ):
        if configuration is None:
            turns.take(name, None, {**floor_task, "threads": threads})
        else:
            kind = NAIVE if configuration.runtime == NAIVE else "cascade"
            task = {"kind": kind, **asdict(configuration), "files": list(sets[name])}
            turns.take(name, configuration, task)
    found = turns.answers.pop((_FLOOR, None), [])
    floor = merge_floors(found) if found else None
    speeds = tuple(
        _speed(*key, turns.answers[key], floor, threads) for key in order if key in turns.answers
    )
    not_measured = tuple(NotMeasured(*item) for item in turns.left_out.items())
    if not speeds:
        reasons = "; ".join(f"{item.name}: {item.reason}" for item in not_measured)
        raise ConfigError(f"nothing could be measured ({reasons})")
    return Measured(speeds, not_measured, floor)


class _Turns:
    """What processes answered, and which are not asked again because of it.

    Attributes:
        answers: by set and configuration, one for each round.
        left_out: by name, the reason.
    """

    def __init__(self, ask: Ask, threads: int) -> None:
        self.answers: dict[tuple[str, Configuration | None], list[dict[str, Any]]] = {}
        self.left_out: dict[str, str] = {}
        self._ask = ask
        self._threads = threads

    def take(self, name: str, configuration: Configuration | None, task: dict[str, Any]) -> None:
        """Ask a process, unless one like it refused or broke down before.

        Raises:
            DataError: an image or the model is not usable.
        """
        kind = f"{configuration.runtime} {configuration.precision}" if configuration else name
        whole = f"{configuration.name}, {name}" if configuration else name
        if kind in self.left_out or whole in self.left_out:
            return
        answer = self._ask(task, self._threads)
        if "failed" in answer:
            raise DataError(answer["failed"])
        if "refused" in answer:
            self.left_out[kind] = answer["refused"]
        elif "ended" in answer:
            self.left_out[whole] = answer["ended"]
            self.answers.pop((name, configuration), None)
        else:
            self.answers.setdefault((name, configuration), []).append(answer)


def _speed(
    name: str,
    configuration: Configuration,
    answers: Sequence[Mapping[str, Any]],
    floor: Mapping[str, Any] | None,
    threads: int,
) -> Speed:
    rates = [answer["images_per_second"] for answer in answers]
    latencies = [value for answer in answers for value in answer["latencies_ms"]]
    memory = [answer["peak_memory_mb"] for answer in answers]
    middle, slow = np.percentile(latencies, (50, 99))
    rate = statistics.median(rates)
    least = None
    if floor is not None and configuration.runtime != NAIVE:  # whose networks are others
        least = floor_seconds(floor, name, configuration.precision, threads)
    return Speed(
        images=name,
        runtime=configuration.runtime,
        precision=configuration.precision,
        batch_size=configuration.batch_size,
        rounds=len(answers),
        images_per_second=rate,
        latency_p50_ms=float(middle),
        latency_p99_ms=float(slow),
        processor_ms=statistics.median(answer["processor_ms"] for answer in answers),
        peak_memory_mb=None if None in memory else statistics.median(memory),
        cold_start_s=statistics.median(answer["cold_start_s"] for answer in answers),
        floor_share=None if least is None else rate * least,
        every_round=tuple(rates),
        steps_ms=_medians([answer.get("steps_ms", {}) for answer in answers]),
    )


def _medians(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The median of each name over all rows, which have the same names."""
    return {name: statistics.median(row[name] for row in rows) for name in rows[0]}
