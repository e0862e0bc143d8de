"""``cascade predict --engine ray`` on a cluster of two nodes, of which workers and one node die."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from cluster_runs import as_csv
from PIL import Image

from cascade.command_line.main import main as console
from cascade.data.synthetic import draw_lesion
from cascade.models.runtimes import model_identity

pytest.importorskip("ray.data", reason="Ray is not installed")

import ray
from ray.cluster_utils import Cluster

from cascade.cluster.plan import Run
from cascade.cluster.ray_engine import _last_error, _Worker, require_ray
from cascade.cluster.tables import read_rows
from cascade.errors import MissingExtraError

REPOSITORY = Path(__file__).resolve().parents[1]
MODEL = str(REPOSITORY / "models" / "default_onnx")
SHARD_ROWS = 4


class Nodes:
    """A cluster of two nodes with one CPU each."""

    def __init__(self):
        quick = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 300,
                 "health_check_timeout_ms": 1000, "health_check_failure_threshold": 2}  # fmt: skip
        small = {"num_cpus": 1, "object_store_memory": 80_000_000}
        head = {**small, "include_dashboard": False, "_system_config": quick}
        self.cluster = Cluster(initialize_head=True, head_node_args=head)
        self.second = self.cluster.add_node(**small)
        ray.init(address=self.cluster.address, log_to_driver=False)

    def lose_one(self):
        self.cluster.remove_node(self.second, allow_graceful=False)

    def close(self):
        ray.shutdown()
        self.cluster.shutdown()


@pytest.fixture(scope="module")
def nodes():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("PYTHONPATH", str(REPOSITORY))
        both = Nodes()
        yield both
        both.close()


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A folder with 40 images, of which some are broken; the work of a few seconds."""
    folder = tmp_path_factory.mktemp("cluster") / "images"
    folder.mkdir()
    shape = (300, 400)
    lesion = draw_lesion(np.random.default_rng(7), malignant=True, shape=shape, tone=0.1)
    for number in range(40):
        image = Image.fromarray(np.roll(lesion.image, 9 * number, axis=1))
        image.save(folder / f"{number:02d}.png", compress_level=1)
    for number in (3, 22, 39):
        (folder / f"{number:02d}.png").write_bytes(b"no picture")
    return folder


@pytest.fixture(scope="module")
def single(images):
    """What a single process writes of them."""
    output = images.parent / "single"
    words = [str(images), "--model", MODEL, "--device", "cpu"]
    assert console(["predict", *words, "--output", str(output)]) == 3
    return (output / "predictions.csv").read_bytes().decode()


@pytest.fixture
def predict(images):
    """Run the command on the cluster; gives its exit code."""

    def run(output, *words):
        return console(
            ["predict", str(images), "--model", MODEL, "--engine", "ray",
             "--shard_rows", str(SHARD_ROWS), "--output", str(output), *words]
        )  # fmt: skip

    return run


def workers():
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if "MapWorker" in " ".join(process.cmdline()):
                found.append(process)
    return found


@contextlib.contextmanager
def once_begun(output, act):
    """Do something as soon as shards are under way and some are finished."""
    seen = []
    over = threading.Event()

    def wait():
        while not over.is_set():  # a busy machine takes long to start the workers
            begun = list((output / "attempts").glob("*.json"))
            if begun and len(list((output / "predictions").glob("*.parquet"))) > 1:
                seen.append(act())
                return
            time.sleep(0.005)

    thread = threading.Thread(target=wait)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


def kill_workers():
    killed = workers()
    for process in killed:
        os.kill(process.pid, signal.SIGKILL)
    return len(killed)


# --- without a cluster


def test_without_ray_one_line_says_what_to_install(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "ray.data", None)
    with pytest.raises(MissingExtraError, match=r"pip install '\.\[ray\]'"):
        require_ray()
    assert console(["predict", "a.jpg", "--engine", "ray", "--output", str(tmp_path / "run")]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "--engine ray needs Ray Data" in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--engine", "ray", "--save_overlays"], "--save_overlays is not for --engine ray"),
        (["--engine", "ray", "--shard_rows", "0"], "--shard_rows 0: give 1 or more"),
        (["--engine", "ray", "--output", "memory://run"], "memory://run: is in the memory of one"),
        (["memory://a.jpg", "--engine", "ray"], "memory://a.jpg: is in the memory of one"),
        (["--shard_rows", "9"], "--shard_rows is for --engine ray"),
        (["--mask_format", "rle"], "--mask_format is for --engine ray"),
    ],
)
def test_flags_that_do_not_fit_are_refused_before_anything_starts(
    tmp_path, monkeypatch, capsys, words, message
):
    monkeypatch.chdir(tmp_path)
    assert console(["predict", "b.jpg", *words]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_an_earlier_run_is_kept_and_the_ways_out_are_named(tmp_path, capsys):
    (tmp_path / "manifest.json").write_text("of an earlier run")
    assert console(["predict", "a.jpg", "--engine", "ray", "--output", str(tmp_path)]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "exists already; go on with it (--resume), replace it (--overwrite)" in line


def a_run(**changed):
    identity = {"model_sha256": model_identity(MODEL)}
    return Run(**{"output": "run", "settings": identity, "rows": 0, "shard_rows": 1, "folder": "",
                  "identity": ""} | changed)  # fmt: skip


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"settings": {"model_sha256": "0" * 64}}, "is another model on"),
        ({"folder": "absent/folder"}, "absent/folder: is not on every machine"),
        ({}, "run/inputs.parquet: does not exist"),
    ],
)
def test_a_worker_answers_with_what_went_wrong(tmp_path, monkeypatch, changed, words):
    monkeypatch.chdir(tmp_path)
    worker = _Worker(run=a_run(**changed), model=MODEL, load={"runtime": "onnx", "device": "cpu"})
    answer = worker({"shard": np.array([0])})
    assert answer["rows"].tolist() == answer["failed"].tolist() == [0]
    assert words in answer["error"][0]


def test_the_words_of_a_failure_are_found_in_rays_report():
    report = (
        "Traceback:\n  File x\nNameError: name 'y' is not defined\nTo change retry attempts, ..."
    )
    assert _last_error(report) == "NameError: name 'y' is not defined"
    assert _last_error("The node died.\n") == "The node died."


# --- the run of two nodes, one after the other


@pytest.mark.slow
def test_killed_workers_lose_and_double_nothing(nodes, images, single, predict, tmp_path, capsys):
    output = tmp_path / "run"
    with once_begun(output, kill_workers) as seen:
        assert predict(output, "--save_masks", "--mask_format", "rle") == 3
    assert seen == [2], "two workers were killed in the middle"
    assert as_csv(output) == single
    assert "2 workers with 1 CPUs" in (printed := capsys.readouterr().out)
    assert "40 rows, 3 failed" in printed
    assert len(list((output / "predictions").iterdir())) == 40 / SHARD_ROWS
    assert not list((output / "attempts").iterdir())
    assert sum(row["mask"] is not None for row in read_rows(str(output))) == 37

    lost = output / "predictions" / "part-000002.parquet"
    others = {path: path.stat().st_mtime_ns for path in lost.parent.iterdir() if path != lost}
    lost.unlink()
    assert predict(output, "--save_masks", "--mask_format", "rle", "--resume") == 3
    assert as_csv(output) == single
    assert {path: path.stat().st_mtime_ns for path in others} == others, "only one was predicted"
    assert "36 kept from before" in capsys.readouterr().out


@pytest.mark.slow
def test_rows_that_cannot_be_written_are_one_line(nodes, predict, tmp_path, capfd):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "predictions").write_text("no folder")
    assert predict(tmp_path / "run", "--shard_rows", "40") == 2
    errors = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error")]
    assert len(errors) == 1
    assert "predictions: cannot write here" in errors[0]


@pytest.mark.slow
def test_a_lost_node_loses_and_doubles_nothing(nodes, single, predict, tmp_path):
    output = tmp_path / "run"
    with once_begun(output, nodes.lose_one) as seen:
        assert predict(output) == 3
    assert seen == [None]
    assert as_csv(output) == single
