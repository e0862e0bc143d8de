"""Do time and memory of an image grow with the number of images?

Streams of few images and one of many take turns in one process, all on the same drawn files. Time
is that of the clock; memory is the resident set within the long stream, after a tenth of its images
and after all.

    python benchmarks/growth.py
"""

from __future__ import annotations

import argparse
import itertools
import math
import statistics
import sys
import tempfile
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from cascade import Cascade  # noqa: E402
from cascade.pipeline.prediction import Failure  # noqa: E402
from cascade.speed.images import drawn_files  # noqa: E402


def resident_megabytes() -> float:
    """Memory of this process now, from Linux's /proc."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024


def stream(cascade: Cascade, files: list[str], count: int) -> tuple[float, float]:
    """Milliseconds an image of a stream of ``count``, and megabytes by which memory grew."""
    start, memory = time.perf_counter(), 0.0
    names = itertools.islice(itertools.cycle(files), count)
    judged = 0
    for one in cascade.predict_iter(names):
        judged += not isinstance(one, Failure)
        if judged == math.ceil(count / 10):
            memory = resident_megabytes()
    if judged != count:
        raise SystemExit(f"{judged} of {count} images were judged")
    milliseconds = 1000 * (time.perf_counter() - start) / count
    return milliseconds, resident_megabytes() - memory


def main() -> None:
    """Let streams of both lengths take turns and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--runtime", default="onnx")
    parser.add_argument("--few", type=int, default=10)
    parser.add_argument("--many", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    cascade = Cascade.load(runtime=arguments.runtime, device="cpu")
    times: dict[int, list[float]] = {arguments.few: [], arguments.many: []}
    with tempfile.TemporaryDirectory() as folder:
        files = drawn_files((768, 1024), 16, Path(folder))
        stream(cascade, files, min(100, arguments.many))
        growths = []
        for _ in range(arguments.rounds):
            short = [stream(cascade, files, arguments.few)[0] for _ in range(10)]
            times[arguments.few].append(statistics.median(short))
            milliseconds, growth = stream(cascade, files, arguments.many)
            times[arguments.many].append(milliseconds)
            growths.append(growth)
    few, many = (statistics.median(values) for values in times.values())
    print(f"{arguments.few} images: {few:.1f} ms an image; {arguments.many}: {many:.1f} ms")
    print(f"ratio {many / few:.3f}; memory grew by {', '.join(f'{n:.1f}' for n in growths)} MiB")


if __name__ == "__main__":
    main()
