"""Do time and memory of an image grow with the number of images?

Streams of few images and one of many take turns in one process, all on the same drawn files. Time
is that of the clock; memory is the resident set after each stream.

    python benchmarks/growth.py
"""

from __future__ import annotations

import argparse
import itertools
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


def stream_ms(cascade: Cascade, files: list[str], count: int) -> float:
    """Milliseconds an image of a stream of ``count``."""
    start = time.perf_counter()
    names = itertools.islice(itertools.cycle(files), count)
    answers = sum(not isinstance(one, Failure) for one in cascade.predict_iter(names))
    if answers != count:
        raise SystemExit(f"{answers} of {count} images were judged")
    return 1000 * (time.perf_counter() - start) / count


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
        stream_ms(cascade, files, min(100, arguments.many))
        memory = [resident_megabytes()]
        for _ in range(arguments.rounds):
            short = [stream_ms(cascade, files, arguments.few) for _ in range(10)]
            times[arguments.few].append(statistics.median(short))
            times[arguments.many].append(stream_ms(cascade, files, arguments.many))
            memory.append(resident_megabytes())
    few, many = (statistics.median(values) for values in times.values())
    print(f"{arguments.few} images: {few:.1f} ms an image; {arguments.many}: {many:.1f} ms")
    print(f"ratio {many / few:.3f}; memory {', '.join(f'{value:.1f}' for value in memory)} MiB")


if __name__ == "__main__":
    main()
