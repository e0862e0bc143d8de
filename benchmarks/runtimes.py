"""How fast and how large is a cascade in each runtime? Ratios within one run.

Every runtime has a process of its own, and they take turns, so that a busy machine slows all of
them alike. An image is judged from its file to the answer. Read the ratios; milliseconds of CPU
time count all threads, milliseconds on the clock include waiting for a busy processor.

    cascade export --output models/default_onnx
    python benchmarks/runtimes.py --images dataset/images_all
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

RUNTIMES: dict[str, dict[str, str]] = {
    "torch": {"runtime": "torch"},
    "onnx": {"runtime": "onnx"},
    "onnx int8": {"runtime": "onnx"},
    "openvino": {"runtime": "openvino"},
    "openvino bfloat16": {"runtime": "openvino", "precision": "bfloat16"},
    "openvino int8": {"runtime": "openvino"},
}


def main() -> None:
    """Measure each runtime with each number of threads and print a table."""
    arguments = _arguments()
    if arguments.worker:
        work(json.loads(arguments.worker))
        return
    from cascade.speed.machine import processor  # not in workers, which are timed

    models = {
        name: arguments.int8 if name.endswith("int8") else arguments.exported for name in RUNTIMES
    }
    models["torch"] = arguments.model
    chosen = [name for name in arguments.runtimes if models[name] is not None]
    print(f"{processor()}, {os.cpu_count()} cores, {arguments.count} images a round")
    with tempfile.TemporaryDirectory() as folder:
        images = _images(arguments.images, arguments.count, Path(folder))
        for threads in arguments.threads:
            tasks = {
                name: {"model": models[name], "options": RUNTIMES[name], "images": images}
                for name in chosen
            }
            show(threads, measure(tasks, threads=threads, rounds=arguments.rounds))


def measure(
    tasks: dict[str, dict[str, Any]], *, threads: int, rounds: int
) -> dict[str, dict[str, float]]:
    """Let the runtimes take turns.

    Returns:
        For each runtime the median CPU time and time on the clock of an image in milliseconds,
        the time to load in seconds, and the peak of its memory in megabytes.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "passive"}
    workers = {
        name: subprocess.Popen(
            [sys.executable, __file__, "--worker", json.dumps(task)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for name, task in tasks.items()
    }
    answers: dict[str, list[dict[str, float]]] = {name: [] for name in workers}
    for _ in range(rounds + 1):  # the first round warms up
        for name, worker in workers.items():
            answers[name].append(_ask(worker))
    results = {}
    for name, worker in workers.items():
        rest, _ = worker.communicate()
        timed = answers[name][1:]
        results[name] = {
            "cpu": statistics.median(answer["cpu"] for answer in timed),
            "clock": statistics.median(answer["clock"] for answer in timed),
            **json.loads(rest),
        }
    return results


def _ask(worker: subprocess.Popen[str]) -> dict[str, float]:
    if worker.stdin is None or worker.stdout is None:
        raise SystemExit("a worker has no pipes")
    worker.stdin.write("go\n")
    worker.stdin.flush()
    line = worker.stdout.readline()
    if not line:
        raise SystemExit(f"a worker failed: {' '.join(map(str, worker.args))[:300]}")
    answer: dict[str, float] = json.loads(line)
    return answer


def work(task: dict[str, Any]) -> None:
    """Judge the images once for each line on standard input, and say how long it took."""
    started = time.perf_counter()
    from cascade import Cascade

    cascade = Cascade.load(task["model"], device="cpu", **task["options"])
    loaded = time.perf_counter() - started
    for _ in sys.stdin:
        clock, cpu = time.perf_counter(), time.process_time()
        for image in task["images"]:
            cascade(image)
        count = len(task["images"]) / 1000
        answer = {
            "cpu": (time.process_time() - cpu) / count,
            "clock": (time.perf_counter() - clock) / count,
        }
        print(json.dumps(answer), flush=True)
    from cascade.speed.worker import peak_memory_mb

    print(json.dumps({"load": loaded, "peak": peak_memory_mb()}), flush=True)


def show(threads: int, results: dict[str, dict[str, float]]) -> None:
    """Print one table; ratios are to the first runtime."""
    first = next(iter(results.values()))
    print(f"\n{threads} thread{'s' * (threads > 1)}")
    print(f"{'runtime':<18}{'CPU ms':>8}{'ratio':>7}{'clock ms':>10}{'load s':>8}{'peak MB':>9}")
    for name, found in results.items():
        ratio = first["cpu"] / found["cpu"]
        print(
            f"{name:<18}{found['cpu']:>8.1f}{ratio:>7.2f}{found['clock']:>10.1f}"
            f"{found['load']:>8.1f}{found['peak']:>9.0f}"
        )


def _images(named: str | None, count: int, folder: Path) -> list[str]:
    """Evenly spaced images of a folder, or invented lesions of 450 by 600 pixels."""
    if named is not None:
        found = sorted(str(path) for path in Path(named).iterdir())
        return found[:: max(1, len(found) // count)][:count]
    from cascade.speed.images import drawn_files

    return drawn_files((450, 600), count, folder)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    models = REPOSITORY / "models"
    parser.add_argument("--model", default=str(models / "default.safetensors"))
    parser.add_argument("--exported", default=str(models / "default_onnx"))
    parser.add_argument("--int8", default=None, help="folder of an export with --int8")
    parser.add_argument("--images", default=None, help="folder; by default invented lesions")
    parser.add_argument("--count", type=int, default=8, help="images a round")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--runtimes", nargs="+", choices=RUNTIMES, default=list(RUNTIMES))
    parser.add_argument("--worker", default=None, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
