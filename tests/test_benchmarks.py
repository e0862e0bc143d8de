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


def run(*words):
    done = subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, check=False, cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_cached_samples_are_compared_with_naive_ones(dataset_folder):
    printed = run("benchmarks/loader.py", "--data_path", str(dataset_folder), "--size", "64",
                  "--count", "3", "--rounds", "1")  # fmt: skip
    row = re.search(
        r"^data set +([\d.]+) +([\d.]+) +([\d.]+) +([\d.]+) +([\d.]+)$", printed, re.MULTILINE
    )
    assert row
    assert all(float(number) > 0 for number in row.groups())


def test_both_training_loops_take_turns(dataset_folder):
    printed = run("benchmarks/training.py", "--data_path", str(dataset_folder), "--size", "32",
                  "--count", "4", "--batch_size", "2", "--rounds", "1")  # fmt: skip
    rows = re.findall(r"^(naive|ours) +([\d.]+) +([\d.]+) +([\d.]+) +([\d.]+)$", printed, re.M)
    assert [row[0] for row in rows] == ["naive", "ours"]
    assert [float(number) for number in rows[0][3:]] == [1, 1]
