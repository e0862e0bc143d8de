"""Experiment trackers are told settings, epochs and the end, and never harm a training."""

import hashlib
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
from test_training_loop import Stopped, config, history, stop_after, train

from cascade.command_line import main as console
from cascade.errors import MissingExtraError
from cascade.training import processes, trackers, tracking
from cascade.training.run import open_run
from cascade.training.tracking import Tracking


class Told:
    """A tracker that remembers what it was told, and fails where it is asked to."""

    def __init__(self):
        self.calls = []
        self.failing = None

    def _note(self, *call):
        if call[0] == self.failing:
            raise OSError("no space left")
        self.calls.append(call)

    def start(self, settings, run):
        self._note("start", run)
        return run or "run-1"

    def log(self, row, step):
        self._note("log", step, dict(row))

    def finish(self, summary):
        self._note("finish", dict(summary))

    def named(self, name):
        return [call[1] for call in self.calls if call[0] == name]


@pytest.fixture
def told(monkeypatch):
    fake = Told()
    monkeypatch.setattr(tracking, "make_tracker", lambda name, folder: fake)
    return fake


def tracked(**changes):
    return config(tracker="mlflow", **changes)


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_training_tells_its_settings_each_epoch_and_the_best_model(tmp_path, told):
    train(tmp_path, tracked(epochs=3))
    assert [call[0] for call in told.calls] == ["start", "log", "log", "log", "finish"]
    rows = history(tmp_path)
    for step, (_, number, row) in enumerate(told.calls[1:4], start=1):
        assert number == step
        assert list(row) == list(rows[0])
        assert float(rows[step - 1]["score"]) == pytest.approx(row["score"])
    (summary,) = told.named("finish")
    assert summary["best_sha256"] == digest(tmp_path / "best.safetensors")
    assert summary["best_score"] == max(call[2]["score"] for call in told.calls[1:4])
    assert summary["finished"]
    assert summary["epochs"] == 3


def test_a_resumed_training_goes_on_in_the_same_run(tmp_path, told):
    with pytest.raises(Stopped):
        train(tmp_path, tracked(), validate=stop_after(2))
    assert told.named("finish")[0]["finished"] is False
    train(tmp_path, tracked(), resume=True)
    assert told.named("start") == [None, "run-1"]
    assert told.named("log") == [1, 2, 3, 4]
    train(tmp_path, tracked(), resume=True)
    assert len(told.named("start")) == 2, "a finished training has nothing to tell"


def test_epochs_that_an_interruption_kept_from_the_tracker_are_told_later(tmp_path, told):
    with pytest.raises(Stopped):
        train(tmp_path, tracked(), validate=stop_after(3))
    path = tmp_path / tracking.TRACKER_FILE
    path.write_text(json.dumps({**json.loads(path.read_text()), "epochs": 1}))
    told.calls.clear()
    train(tmp_path, tracked(), resume=True)
    assert told.named("log") == [2, 3, 4]


def test_another_tracker_begins_a_run_and_is_told_all(tmp_path, told):
    with pytest.raises(Stopped):
        train(tmp_path, tracked(), validate=stop_after(2))
    told.calls.clear()
    train(tmp_path, config(tracker="wandb"), resume=True)
    assert told.named("start") == [None]
    assert told.named("log") == [1, 2, 3, 4]


@pytest.mark.parametrize("failing", ["start", "log", "finish"])
def test_a_failing_tracker_is_given_up_with_one_warning(tmp_path, told, caplog, failing):
    told.failing = failing
    with caplog.at_level(logging.WARNING, "cascade"):
        trainer = train(tmp_path, tracked(epochs=2))
    assert trainer.progress.epoch == 2
    assert (tmp_path / "best.safetensors").is_file()
    (warning,) = [record.getMessage() for record in caplog.records]
    assert "without --tracker mlflow" in warning
    assert "no space left" in warning


def test_what_a_failing_tracker_missed_is_told_after_a_resume(tmp_path, told):
    told.failing = "log"
    with pytest.raises(Stopped):
        train(tmp_path, tracked(), validate=stop_after(2))
    told.failing = None
    train(tmp_path, tracked(), resume=True)
    assert told.named("log") == [1, 2, 3, 4]


def test_a_new_training_in_the_place_of_another_begins_a_new_run(tmp_path, told):
    open_run(tmp_path, {}, resume=False)
    train(tmp_path, tracked(epochs=1))
    open_run(tmp_path, {}, resume=False, overwrite=True)
    train(tmp_path, tracked(epochs=1))
    assert told.named("start") == [None, None]


def test_only_the_first_of_several_processes_has_a_tracker(tmp_path, told, monkeypatch):
    for main, expected in ((False, []), (True, ["run-1"])):
        monkeypatch.setattr(processes, "is_main", lambda main=main: main)
        with Tracking("mlflow", tmp_path) as tracker:
            tracker.start({}, [])
        found = [json.loads(path.read_text())["run"] for path in tmp_path.glob("*.json")]
        assert found == expected


def test_without_a_tracker_nothing_is_written(tmp_path):
    with Tracking("none", tmp_path) as tracker:
        tracker.start({"a": 1}, [])
        tracker.tell([{"loss": 1.0}])
    assert list(tmp_path.iterdir()) == []


def test_a_tracker_that_is_not_installed_is_named_before_anything_begins(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setitem(trackers._NEEDED, "wandb", "no_such_library.sdk")
    with pytest.raises(MissingExtraError, match=r"--tracker wandb.*pip install '\.\[wandb\]'"):
        trackers.require_tracker("wandb")
    before = logging.getLogger("cascade").handlers[:]
    words = ["seg-train", "--tracker", "wandb", "--output", str(tmp_path / "run")]
    try:
        assert console.main(words) == 2
    finally:
        logging.getLogger("cascade").handlers[:] = before
    assert "pip install '.[wandb]'" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


# --- the trackers themselves, with files only


SETTINGS = {"seed": 3, "encoder": "x", "policy": {"margin": 0.1}, "channels": [4, 2]}


def two_visits(folder, name):
    """A run that is stopped after two epochs, resumed, and ends after the third."""
    rows = [{"loss": 1.0}, {"loss": 0.5}, {"loss": 0.25}]
    tracker = trackers.make_tracker(name, folder)
    run = tracker.start(SETTINGS, None)
    tracker.log(rows[0], 1)
    tracker.log(rows[1], 2)
    tracker.finish({"finished": False, "epochs": 2})
    tracker = trackers.make_tracker(name, folder)
    assert tracker.start(SETTINGS, run) == run
    tracker.log(rows[2], 3)
    tracker.finish({"finished": True, "epochs": 3, "best_loss": 0.25, "best_sha256": "ab" * 32})
    return run


@pytest.fixture(autouse=True)
def no_server(monkeypatch):
    for name in list(os.environ):
        if name.startswith(("WANDB_", "MLFLOW_")):
            monkeypatch.delenv(name)
    yield
    for name in list(os.environ):
        if name.startswith(("WANDB_", "MLFLOW_")):
            del os.environ[name]


def test_tensorboard_reads_what_was_told(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = two_visits(tmp_path, "tensorboard")
    events = EventAccumulator(str(tmp_path / "tensorboard" / run))
    events.Reload()
    found = [(event.step, event.value) for event in events.Scalars("loss")]
    assert found == [(1, 1.0), (2, 0.5), (3, 0.25)]
    (settings,) = events.Tensors("settings/text_summary")
    assert b"| policy.margin | 0.1 |" in settings.tensor_proto.string_val[0]
    texts = [event.tensor_proto.string_val[0] for event in events.Tensors("summary/text_summary")]
    assert [b"| finished | true |" in text for text in texts] == [False, True]
    assert b"ab" * 32 in texts[1]


@pytest.mark.slow
def test_mlflow_reads_what_was_told(tmp_path):
    pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    from mlflow.tracking import MlflowClient

    run = two_visits(tmp_path, "mlflow")
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/mlflow.db")
    known = client.get_run(run)
    assert known.info.status == "FINISHED"
    assert known.info.run_name == tmp_path.name
    assert known.data.params == {
        "seed": "3", "encoder": "x", "policy.margin": "0.1", "channels": "[4, 2]"
    }  # fmt: skip
    assert known.data.metrics["best_loss"] == 0.25
    assert known.data.tags["best_sha256"] == "ab" * 32
    found = sorted((metric.step, metric.value) for metric in client.get_metric_history(run, "loss"))
    assert found == [(1, 1.0), (2, 0.5), (3, 0.25)]


def test_trackio_reads_what_was_told(tmp_path):
    """In a process of its own, as the library reads the place of its files only once."""
    pytest.importorskip("trackio")
    script = (
        "import sys; sys.path[:0] = ['tests']; from pathlib import Path;"
        "from test_tracking import two_visits; run = two_visits(Path(sys.argv[1]), 'trackio');"
        "import json; from trackio.sqlite_storage import SQLiteStorage as store;"
        "rows = store.get_logs('cascade', run); kept = store.get_run_config('cascade', run);"
        "print(json.dumps([kept, rows], default=str))"
    )
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], cwd=root, capture_output=True, text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(root), "TRACKIO_DIR": str(tmp_path / "trackio")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    settings, history = json.loads(done.stdout.splitlines()[-1])
    assert settings["encoder"] == "x"
    assert [row["loss"] for row in history if "loss" in row] == [1.0, 0.5, 0.25]
    assert [row["best_sha256"] for row in history if "best_sha256" in row] == ["ab" * 32]


@pytest.mark.slow
def test_wandb_writes_files_offline(tmp_path):
    """In a process of its own, as the library stays active until its process ends."""
    pytest.importorskip("wandb.sdk")
    script = (
        "import sys; sys.path[:0] = ['tests']; from pathlib import Path;"
        "from test_tracking import two_visits; print(two_visits(Path(sys.argv[1]), 'wandb'))"
    )
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], cwd=root, capture_output=True, text=True,
        check=False, env={**os.environ, "PYTHONPATH": str(root)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    run = done.stdout.strip()
    files = sorted(tmp_path.glob(f"wandb/offline-run-*-{run}*/run-{run}.wandb"))
    assert len(files) == 2, "one for each process, of the same run"
    content = b"".join(path.read_bytes() for path in files)
    for word in (b"loss", b"policy", b"ab" * 32):
        assert word in content
