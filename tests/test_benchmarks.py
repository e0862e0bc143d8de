"""Benchmarks run, on the smallest cascade."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_export import tiny_cascade, tiny_export

from cascade.errors import ImageError
from cascade.pipeline import Failure

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


def test_growth_is_measured_over_streams_of_two_lengths():
    printed = run("benchmarks/growth.py", "--few", "1", "--many", "2", "--rounds", "1")
    assert re.search(r"^ratio \d+\.\d{3}; memory grew by -?\d+\.\d MiB$", printed, re.MULTILINE)


def test_one_file_is_timed_in_two_environments_in_turn():
    printed = run("benchmarks/one_file.py", sys.executable, sys.executable, "--rounds", "1")
    found = re.search(r"^ratio ([\d.]+) on the clock, ([\d.]+) of", printed, re.MULTILINE)
    assert all(0.1 < float(number) < 10 for number in found.groups())


@pytest.fixture
def gpu_check(monkeypatch):
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks"))
    module = importlib.import_module("gpu_check")
    monkeypatch.setattr(module, "peak_flops", lambda precision, threads, device: 1e12)
    return module


def test_without_a_gpu_the_page_says_not_measured_and_nothing_else(
    gpu_check, tmp_path, monkeypatch
):
    monkeypatch.setattr(gpu_check.torch.cuda, "is_available", lambda: False)
    page = tmp_path / "page.md"
    monkeypatch.setattr(sys, "argv", ["gpu_check.py", "--output", str(page)])
    gpu_check.main()
    assert page.read_text() == "# Performance on a GPU\n\nNot measured.\n"


def test_what_is_measured_on_a_gpu_is_measured_on_a_cpu_alike(gpu_check, tmp_path, monkeypatch):
    model = tmp_path / "tiny.safetensors"
    tiny_cascade().save(model)
    monkeypatch.setattr(gpu_check, "PRECISIONS", ("float32",))
    monkeypatch.setattr(gpu_check, "BATCHES", 1)
    predicted = gpu_check.prediction_rows(str(model), {(64, 96): 3}, device="cpu", batch_sizes=(2,))
    trained = gpu_check.training_rows(device="cpu", count=4, batch_size=2, size=32)
    [row] = predicted
    assert row[:3] == ("96x64", "float32", "2")
    assert [row[0] for row in trained] == ["float32"]
    written = gpu_check.page("a machine", "1 passed", predicted, trained)
    assert "a machine" in written
    assert "| 96x64 | float32 | 2 |" in written


def test_a_failed_image_is_no_speed(gpu_check):
    failure = Failure("x", ImageError("broken"))
    with pytest.raises(SystemExit, match="1 failed"):
        gpu_check.rate(lambda: [failure], 1)


def test_the_engines_take_turns_and_rates_leave_the_start_out(
    photos, tmp_path, monkeypatch, capsys
):
    pytest.importorskip("pyarrow")
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks"))
    module = importlib.import_module("ray_engine")
    monkeypatch.setattr(module, "_rows_are_same", lambda _: False)
    seconds = {"local": {"few": 2.0, "all": 4.0}, "ray": {"few": 9.0, "all": 13.0}}
    ran = []

    def run(engine, folder, name, _):
        ran.append(engine)
        rows = (folder / f"{name}.csv").read_text().splitlines()[1:]
        assert len(rows) == {"few": 1, "all": 3}[name]
        return seconds[engine][name]

    monkeypatch.setattr(module, "_run", run)
    words = ["ray_engine.py", "--images", str(photos), "--count", "3", "--few", "1"]
    monkeypatch.setattr(sys, "argv", [*words, "--rounds", "2"])
    module.main()
    printed = capsys.readouterr().out
    assert ran == ["local", "local", "ray", "ray"] * 2
    assert re.search(r"^local +1\.00 +1\.0 +4\.0$", printed, re.M)
    assert re.search(r"^ray +0\.50 +7\.0 +13\.0$", printed, re.M)
    assert "ray/local: 0.50\nrows: DIFFERENT" in printed


def test_the_service_and_bulk_prediction_take_turns():
    printed = run("benchmarks/serving.py", "--model", str(tiny_export()), "--runtime", "onnx",
                  "--threads", "2", "--count", "4", "--rounds", "2", "--clients", "3")  # fmt: skip
    bulk, service = re.findall(r"^(bulk|service) +([\d.]+) +([\d.]+) +([\d.]+)(.*)$", printed, re.M)
    assert (bulk[2], bulk[4]) == ("1.00", "")
    p50, p95, peak = map(float, service[4].split())
    assert all(float(number) > 0 for number in service[1:4])
    assert 0 < p50 <= p95
    assert peak > 50


@pytest.mark.slow
def test_two_processes_behind_one_port_are_compared_with_one():
    printed = run("benchmarks/load.py", "--seconds", "1", "--rounds", "1", "--share", "0.3")
    rows = re.findall(
        r"^(\d process\S*)(, twice|) +([\d.]+) +([\d.]+)% +(\d+) +(\d+)$", printed, re.M
    )
    assert [row[:2] for row in rows] == [("1 process", ""), ("2 processes", ", twice"),
                                         ("1 process", ", twice")]  # fmt: skip
    assert float(rows[1][2]) == pytest.approx(2 * float(rows[0][2]), abs=0.2)
    assert all(0 < int(row[4]) <= int(row[5]) for row in rows)
    assert re.search(r"over p95 of one: \d+\.\d\d$", printed, re.M)
