"""Benchmarks run, on the smallest cascade."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from tiny_export import tiny_export

REPOSITORY = Path(__file__).resolve().parents[1]


def test_runtimes_take_turns_and_a_table_is_printed():
    done = subprocess.run(
        [sys.executable, "benchmarks/runtimes.py", "--exported", str(tiny_export()),
         "--runtimes", "onnx", "--threads", "1", "--rounds", "2", "--count", "2"],
        capture_output=True, text=True, check=False, cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "1 thread\n" in done.stdout
    row = re.search(
        r"^onnx +([\d.]+) +1\.00 +([\d.]+) +([\d.]+) +(\d+)$", done.stdout, re.MULTILINE
    )
    assert row
    assert all(float(number) > 0 for number in row.groups())
