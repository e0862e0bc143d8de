"""How long does one file from the command line take in one environment, compared with another?

Give the interpreters of two environments, for instance of one with everything and of one that has
no torch. They take turns; both run the code of this clone.

    python3 -m venv lean && lean/bin/pip install -r requirements/serve.txt
    python benchmarks/one_file.py .venv/bin/python lean/bin/python
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from cascade.speed.images import drawn_files  # noqa: E402


def seconds(python: str, file: str, output: Path) -> tuple[float, float]:
    """Time on the clock, and processor time, of ``cascade predict`` on one file.

    Raises:
        SystemExit: the command failed.
    """
    command = [python, "-m", "cascade", "predict", file, "--output", str(output), "--overwrite"]
    before, start = os.times(), time.perf_counter()
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )  # fmt: skip
    clock, after = time.perf_counter() - start, os.times()
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}: {done.stderr}")
    busy = after.children_user + after.children_system
    return clock, busy - before.children_user - before.children_system


def main() -> None:
    """Let both environments take turns and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("pythons", nargs=2, help="interpreters of the two environments")
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    timed: list[list[tuple[float, float]]] = [[], []]
    with tempfile.TemporaryDirectory() as name:
        [file] = drawn_files((768, 1024), 1, Path(name))
        for _ in range(arguments.rounds + 1):
            for python, rows in zip(arguments.pythons, timed, strict=True):
                rows.append(seconds(python, file, Path(name) / "results"))
    print(f"{'clock s':>8}{'CPU s':>8}  environment")
    medians = [
        [statistics.median(row[place] for row in rows[1:]) for place in (0, 1)] for rows in timed
    ]
    for python, (clock, busy) in zip(arguments.pythons, medians, strict=True):
        print(f"{clock:>8.2f}{busy:>8.2f}  {python}")
    (clock, busy), (other_clock, other_busy) = medians
    print(f"ratio {clock / other_clock:.2f} on the clock, {busy / other_busy:.2f} of the processor")


if __name__ == "__main__":
    main()
