"""The process that measures one configuration once; its parent is :mod:`cascade.speed.measure`.

It is told what to do by one argument in JSON. On standard output it answers with one line as soon
as the first image is judged, and with another one that holds what was measured.
"""

from __future__ import annotations

import collections
import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

Predict = Callable[[Sequence[str]], Iterable[Any]]
"""Files to one answer for each."""


def work(task: Mapping[str, Any], answer: Callable[[Mapping[str, Any]], None]) -> None:
    """Do what a task says and answer; what the cascade refuses is an answer, too."""
    from cascade.errors import CascadeError, ConfigError, DeviceError

    try:
        if task["kind"] == "floor":
            from cascade.speed.floor import measure_floor

            answer(measure_floor(task))
            return
        try:
            predict = _predictor(task)
        except (ConfigError, DeviceError) as error:  # of this runtime with this precision
            answer({"refused": str(error)})
            return
        files = task["files"]
        _judge(predict, files[:1])
        answer({"first": True})
        measured = measure_round(predict, files, warm_up=max(2, task["batch_size"]))
        measured["peak_memory_mb"] = peak_memory_mb()
        if task["kind"] == "cascade" and task["runtime"] != "torch":
            from cascade.speed.steps import steps_ms

            options = {name: task[name] for name in ("runtime", "precision")}
            measured["steps_ms"] = steps_ms(task["model"], files, **options)
        answer(measured)
    except CascadeError as error:
        answer({"failed": str(error)})


def _predictor(task: Mapping[str, Any]) -> Predict:
    if task["kind"] == "naive":
        from cascade.speed.naive import NaivePair

        return NaivePair().predict
    from cascade import Cascade
    from cascade.pipeline.prediction import Failure

    options = {"runtime": task["runtime"], "precision": task["precision"]}
    cascade = Cascade.load(task["model"], device="cpu", **options)

    def predict(files: Sequence[str]) -> Iterator[Any]:
        for result in cascade.predict_iter(files, batch_size=task["batch_size"]):
            if isinstance(result, Failure):
                raise result.error
            yield result

    return predict


def _judge(predict: Predict, files: Sequence[str]) -> None:
    """Wait for all answers."""
    collections.deque(predict(files), maxlen=0)


def measure_round(predict: Predict, files: Sequence[str], *, warm_up: int) -> dict[str, Any]:
    """Judge all files one by one, then all together.

    Args:
        predict: what judges them.
        files: at least one.
        warm_up: files that are judged first, untimed: runtimes prepare for each size of batch.

    Returns:
        Milliseconds of each file by itself, and of all together the images per second and the
        milliseconds of processor time for each image.
    """
    _judge(predict, files[:warm_up])
    latencies = []
    for file in files:
        start = time.perf_counter()
        _judge(predict, [file])
        latencies.append((time.perf_counter() - start) * 1000)
    start, busy = time.perf_counter(), time.process_time()
    _judge(predict, files)
    seconds, busy = time.perf_counter() - start, time.process_time() - busy
    return {
        "latencies_ms": latencies,
        "images_per_second": len(files) / seconds,
        "processor_ms": busy / len(files) * 1000,
    }


def peak_memory_mb() -> float | None:
    """The largest resident set of this process so far; ``None`` where Linux's /proc is not.

    Not that of ``getrusage``, which a process inherits from the one that started it.
    """
    status = Path("/proc/self/status")
    lines = status.read_text(encoding="ascii").splitlines() if status.is_file() else []
    kilobytes = [int(line.split()[1]) for line in lines if line.startswith("VmHWM")]
    return kilobytes[0] * 1024 / 1e6 if kilobytes else None


def main() -> None:
    """Read the task and answer on standard output, which nothing else may use meanwhile."""
    output = sys.stdout

    def answer(words: Mapping[str, Any]) -> None:
        output.write(json.dumps(words) + "\n")
        output.flush()

    with contextlib.redirect_stdout(sys.stderr):
        work(json.loads(sys.argv[1]), answer)


if __name__ == "__main__":
    main()
