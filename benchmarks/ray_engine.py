"""What does the engine Ray cost on one machine? Its rate over that of a single process.

Each engine runs as a command of its own, first with few images and then with all; the difference
of both is what the remaining images took, without starting anything. The engines take turns, and
the rows of both are compared.

    pip install '.[ray]'
    python benchmarks/ray_engine.py --images dataset/images_all --count 500
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

ENGINES = ("local", "ray")


def main() -> None:
    """Measure and print a table."""
    arguments = _arguments()
    from cascade.imaging import expand_sources
    from cascade.speed.machine import processor

    found = [item.path.resolve() for item in expand_sources([arguments.images])]
    if not 0 < arguments.few < arguments.count <= len(found):
        raise SystemExit(f"{arguments.images}: holds {len(found)} images; give fewer as --count")
    print(f"{processor()}, {os.cpu_count()} cores, {arguments.count} images")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for name, count in (("few", arguments.few), ("all", arguments.count)):
            lines = "".join(f"{path}\n" for path in found[:count])
            (folder / f"{name}.csv").write_text("path\n" + lines, encoding="utf-8")
        seconds: dict[str, list[tuple[float, float]]] = {engine: [] for engine in ENGINES}
        for _ in range(arguments.rounds):
            for engine in ENGINES:
                few, whole = (_run(engine, folder, name, arguments) for name in ("few", "all"))
                seconds[engine].append((few, whole))
        _show(seconds, arguments.count, arguments.few)
        print("rows: " + ("the same" if _rows_are_same(folder / "all") else "DIFFERENT"))


def _run(engine: str, folder: Path, name: str, arguments: argparse.Namespace) -> float:
    output = folder / name / engine
    shutil.rmtree(output, ignore_errors=True)
    words = [
        sys.executable, "-m", "cascade", "predict", str(folder / f"{name}.csv"),
        "--engine", engine, "--output", str(output), "--device", "cpu",
        *(["--model", arguments.model] if arguments.model else []),
        *(["--shard_rows", str(arguments.shard_rows)] if engine == "ray" else []),
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_WAIT_POLICY": "passive"}
    begun = time.perf_counter()
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=environment)
    seconds = time.perf_counter() - begun
    if done.returncode not in (0, 3):
        raise SystemExit(f"{' '.join(words)}\n{done.stderr}")
    return seconds


def _show(seconds: dict[str, list[tuple[float, float]]], count: int, few: int) -> None:
    print(f"{'engine':<8}{'images/s':>10}{'start s':>10}{'whole run s':>13}")
    rates = {}
    for engine, rounds in seconds.items():
        rates[engine] = statistics.median(
            (count - few) / (whole - start) for start, whole in rounds
        )
        whole = statistics.median(whole for _, whole in rounds)
        print(
            f"{engine:<8}{rates[engine]:>10.2f}{whole - count / rates[engine]:>10.1f}{whole:>13.1f}"
        )
    print(f"ray/local: {rates['ray'] / rates['local']:.2f}")


def _rows_are_same(folder: Path) -> bool:
    from cascade.cluster.tables import read_rows
    from cascade.files import csv_line
    from cascade.pipeline.rows import COLUMNS

    rows = read_rows(str(folder / "ray"))
    lines = [csv_line(COLUMNS), *(csv_line(row[name] for name in COLUMNS) for row in rows)]
    table = folder / "local" / "predictions.csv"
    return "".join(lines).encode() == table.read_bytes()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", required=True, help="folder of images")
    parser.add_argument("--count", type=int, default=500, help="images of the long runs")
    parser.add_argument("--few", type=int, default=20, help="images of the short runs")
    parser.add_argument("--rounds", type=int, default=3, help="how often both engines run")
    parser.add_argument("--shard_rows", type=int, default=64, help="inputs for each shard")
    parser.add_argument("--model", help="cascade; by default the one that comes with the library")
    return parser.parse_args()


if __name__ == "__main__":
    main()
