"""Trainings that signals, power cuts, damaged files and full disks stop, and that go on."""

import errno
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from safetensors import SafetensorError
from test_training_loop import (
    Noise,
    Stopped,
    TinyNetwork,
    accuracy,
    assert_same,
    config,
    cross_entropy,
    history,
    new_network,
    task,
    train,
)
from torch.utils.data import DataLoader

from cascade.command_line import main as console
from cascade.config import to_dict
from cascade.data.synthetic import SyntheticConfig, write_synthetic_dataset
from cascade.errors import CascadeWarning, ConfigError, DataError, ModelFileError
from cascade.models.artifact import read_document
from cascade.models.classifier import Classifier
from cascade.training import classification, segmentation, stopping
from cascade.training import state as state_module
from cascade.training.loop import Trainer, quiet_worker
from cascade.training.run import open_run
from cascade.training.state import load_state

REPOSITORY = Path(__file__).resolve().parents[1]
EVERY_STEP = 1e-9
"""Minutes between checkpoints."""
STATUS = {"SIGINT": 130, "SIGTERM": 143, "SIGUSR1": 138}


def nth(function, number, act):
    """The function, which acts before its ``number``-th call."""
    calls = []

    def counted(*arguments, **options):
        calls.append(1)
        if len(calls) == number:
            act()
        return function(*arguments, **options)

    return counted


def send(name):
    return lambda: os.kill(os.getpid(), getattr(signal, name))


def cut():
    raise Stopped


def rows(folder):
    return [{**row, "seconds": ""} for row in history(folder)]


def assert_ended_alike(resumed, folder, whole, whole_folder):
    assert_same(resumed.network.state_dict(), whole.network.state_dict())
    assert_same(resumed.current.state_dict(), whole.current.state_dict())
    one, other = (
        TinyNetwork.load(place / "best.safetensors", device="cpu")
        for place in (folder, whole_folder)
    )
    assert_same(one.state_dict(), other.state_dict())
    assert rows(folder) == rows(whole_folder)


@pytest.mark.parametrize(
    ("schedule", "average", "workers"),
    [("onecycle", 0.0, 0), ("plateau", 0.7, 1), ("step", 0.7, 0)],
)
def test_cut_off_in_any_step_it_ends_with_the_same_bits(tmp_path, schedule, average, workers):
    """Seven images in batches of two and a batch of one that is dropped, and dropout."""
    settings = config(
        schedule=schedule, average=average, epochs=2, batch_size=2, patience=9,
        checkpoint_minutes=EVERY_STEP, optimizer="sgd" if schedule == "step" else "adamw",
    )  # fmt: skip
    whole = train(tmp_path / "whole", settings)
    for number in range(1, 7):
        folder = tmp_path / f"cut {number}"
        with pytest.raises(Stopped):
            train(folder, settings, loss=nth(cross_entropy, number, cut))
        torch.manual_seed(number)  # another process has other random numbers
        resumed = train(
            folder, replace(settings, num_workers=workers), resume=True, seed=min(1, number - 1),
            loss=nth(cross_entropy, 8 - number, cut),  # not one step more than remain
        )  # fmt: skip
        assert_ended_alike(resumed, folder, whole, tmp_path / "whole")


def test_without_checkpoints_by_time_the_epoch_is_done_again(tmp_path):
    settings = config(epochs=2, batch_size=2, checkpoint_minutes=0)
    whole = train(tmp_path / "whole", settings)
    with pytest.raises(Stopped):
        train(tmp_path / "cut", settings, loss=nth(cross_entropy, 6, cut))
    assert load_state(tmp_path / "cut" / "last.safetensors")["progress"]["seen"] == 0
    resumed = train(tmp_path / "cut", settings, resume=True)
    assert_ended_alike(resumed, tmp_path / "cut", whole, tmp_path / "whole")


@pytest.mark.parametrize("name", STATUS)
@pytest.mark.parametrize(("what", "number"), [("loss", 1), ("loss", 5), ("validate", 2)])
def test_a_signal_ends_it_with_a_checkpoint_of_the_running_step(tmp_path, name, what, number):
    settings = config(epochs=3)
    whole = train(tmp_path / "whole", settings)
    function = {"loss": cross_entropy, "validate": accuracy}[what]
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    error = KeyboardInterrupt if name == "SIGINT" else SystemExit
    with pytest.raises(error) as caught:
        train(tmp_path / "run", settings, **{what: nth(function, number, send(name))})
    if name != "SIGINT":
        assert caught.value.code == STATUS[name]
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
    progress = load_state(tmp_path / "run" / "last.safetensors")["progress"]
    where = {("loss", 1): (0, 3), ("loss", 5): (2, 3), ("validate", 2): (1, 6)}[what, number]
    assert (progress["epoch"], progress["seen"]) == where
    resumed = train(tmp_path / "run", settings, resume=True, seed=1)
    assert_ended_alike(resumed, tmp_path / "run", whole, tmp_path / "whole")


def test_a_second_signal_does_not_disturb_the_checkpoint(tmp_path, monkeypatch):
    from cascade.training import loop

    monkeypatch.setattr(loop, "save_checkpoint", nth(loop.save_checkpoint, 1, send("SIGTERM")))
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "run", config(), loss=nth(cross_entropy, 1, send("SIGINT")))
    assert load_state(tmp_path / "run" / "last.safetensors")["progress"]["seen"] == 3


def test_a_loader_process_leaves_the_answer_to_the_main_one_and_still_ends(monkeypatch):
    monkeypatch.setattr(stopping, "_GRACE_SECONDS", 1)
    loader = DataLoader(Noise(40), batch_size=2, num_workers=1, worker_init_fn=quiet_worker)
    batches = iter(loader)
    next(batches)  # it is set up before it reads its first sample
    (worker,) = batches._workers
    for name in STATUS:
        os.kill(worker.pid, getattr(signal, name))
    assert sum(1 for _ in batches) == 19
    worker.join(timeout=20)  # as the main process does at its end, when nobody told the worker
    assert not worker.is_alive()


def stopped_run(folder, **settings):
    """A training that was cut off in its second epoch, with two checkpoints."""
    settings = config(
        **{"epochs": 2, "batch_size": 2, "checkpoint_minutes": EVERY_STEP, **settings}
    )
    with pytest.raises(Stopped):
        train(folder, settings, loss=nth(cross_entropy, 6, cut))
    return settings


@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_after_a_damaged_checkpoint_it_goes_on_from_the_one_before(tmp_path, damage):
    folder = tmp_path / "run"
    settings = stopped_run(folder)
    whole = train(tmp_path / "whole", settings)
    last, previous = folder / "last.safetensors", folder / "previous.safetensors"
    good = previous.read_bytes()
    if damage == "cut":
        last.write_bytes(last.read_bytes()[:-9])
        with pytest.warns(CascadeWarning, match=r"last\.safetensors: is damaged.*the one before"):
            state_module.load_checkpoint(folder)
    else:  # as after a kill between two renames
        last.unlink()
        state_module.load_checkpoint(folder)
    assert last.read_bytes() == good
    assert not previous.exists(), "a damaged file is never the one to fall back on"
    resumed = train(folder, settings, resume=True)
    assert_ended_alike(resumed, folder, whole, tmp_path / "whole")


def test_two_damaged_checkpoints_are_an_error_that_names_both(tmp_path):
    settings = stopped_run(tmp_path / "run")
    for name in ("last", "previous"):
        (tmp_path / "run" / f"{name}.safetensors").write_bytes(b"junk")
    with pytest.raises(ModelFileError, match=r"last\.s.*previous\.s.*--overwrite"):
        train(tmp_path / "run", settings, resume=True)


@pytest.mark.parametrize("where", ["content", "flush"])
def test_a_full_disk_leaves_both_checkpoints_and_one_clear_line(tmp_path, monkeypatch, where):
    folder = tmp_path / "run"
    settings = stopped_run(folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    if where == "content":

        def full(tensors, path, metadata):
            Path(path).write_bytes(b"half")
            raise SafetensorError("I/O error: No space left on device (os error 28)")

        monkeypatch.setattr(state_module, "save_file", full)
    else:

        def full(descriptor):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(
        (DataError, ModelFileError), match=r"last\.safetensors: could not be written.*No space left"
    ):
        state_module.save_checkpoint(folder, {"any": torch.ones(2)})
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    monkeypatch.undo()
    whole = train(tmp_path / "whole", settings)
    assert_ended_alike(train(folder, settings, resume=True), folder, whole, tmp_path / "whole")


def test_what_a_killed_write_left_is_removed(tmp_path):
    open_run(tmp_path, {"epochs": 1}, resume=False)
    (tmp_path / ".last.safetensors.abcd.tmp").write_bytes(b"half")
    (tmp_path / "notes.tmp").touch()
    open_run(tmp_path, {"epochs": 1}, resume=True)
    assert {path.name for path in tmp_path.iterdir()} == {"config.yaml", "notes.tmp"}


# --- other settings


def with_settings(folder, settings, *, resume=False, **changes):
    """A training whose network knows its settings, as one that a command starts."""
    folder.mkdir(exist_ok=True)
    network = new_network()
    network.provenance["settings"] = to_dict(settings)
    trainer = Trainer(network, task(**changes), settings, folder)
    trainer.run(resume=resume)
    return trainer


def test_with_other_settings_the_weights_go_on_with_the_new_schedule_and_it_is_recorded(tmp_path):
    before = config(epochs=4, batch_size=2, checkpoint_minutes=EVERY_STEP, learning_rate=0.001)
    with pytest.raises(Stopped):
        with_settings(tmp_path / "run", before, loss=nth(cross_entropy, 6, cut))
    stopped = load_state(tmp_path / "run" / "last.safetensors")
    assert stopped["progress"]["seen"] == 4

    after = replace(before, epochs=6, batch_size=3, average=0.9)
    seen = []

    def loss(network, batch):
        seen.append(
            (
                network.network[0].weight.clone(),
                trainer.optimizer.param_groups[0]["lr"],
                len(batch[0]),
            )
        )
        return cross_entropy(network, batch)

    network = new_network(3)
    network.provenance["settings"] = to_dict(after)
    trainer = Trainer(network, task(loss=loss), after, tmp_path / "run")
    trainer.run(resume=True)
    weight, rate, images = seen[0]
    assert torch.equal(weight, stopped["network"]["network.0.weight"])
    assert images == 3, "the three images that the epoch still lacks, in the new batch size"
    fresh = Trainer(new_network(), task(), after, tmp_path)
    for _ in range(3):  # an epoch of two steps and one
        fresh.optimizer.step()
        fresh.schedule.step()
    assert rate == fresh.optimizer.param_groups[0]["lr"]
    assert len(seen) == 1 + 4 * 2
    changed = {"average": [0.0, 0.9], "batch_size": [2, 3], "epochs": [4, 6]}
    (noted,) = trainer.progress.continued
    assert noted == {"epoch": 1, "images": 4, "changed": changed}
    assert trainer.current.provenance["continued"] == [noted]
    again = with_settings(tmp_path / "run", after, resume=True)
    assert again.progress.continued == [noted], "it is noted once"


def test_a_reduced_rate_is_kept_where_it_did_not_change(tmp_path):
    settings = config(epochs=2, schedule="plateau", learning_rate=0.01)
    trainer = with_settings(tmp_path, settings)
    trainer.optimizer.param_groups[0]["lr"] = 0.001
    trainer._save()
    for changes, rate in (({"epochs": 3}, 0.001), ({"learning_rate": 0.02}, 0.02)):
        after = replace(settings, **changes)
        network = new_network()
        network.provenance["settings"] = to_dict(after)
        resumed = Trainer(network, task(), after, tmp_path)
        resumed._restore()
        assert resumed.optimizer.param_groups[0]["lr"] == rate


def test_an_optimiser_of_another_kind_starts_anew_and_other_layers_are_refused(tmp_path):
    settings = config(epochs=1)
    with_settings(tmp_path, settings)
    network = new_network()
    after = replace(settings, optimizer="sgd")
    network.provenance["settings"] = to_dict(after)
    trainer = Trainer(network, task(), after, tmp_path)
    trainer._restore()
    assert not trainer.optimizer.state
    network.network[0] = torch.nn.Conv2d(3, 5, 3)
    with pytest.raises(ConfigError, match=r"do not fit the changed settings \(optimizer\)"):
        Trainer(network, task(), after, tmp_path)._restore()


# --- commands


SMALL = ["--image_size", "32", "--device", "cpu", "--batch_size", "4", "--learning_rate", "0.002",
         "--precision", "fp32"]  # fmt: skip
SEGMENTER = ["seg-train", "--encoder", "tu-test_resnet", "--optimizer", "adamw", "--weight_decay",
             "0.01", "--momentum", "0.9", "--decoder_channels", "16", "16", "8", "8",
             "8"]  # fmt: skip
CLASSIFIER = ["cls-train", "--architecture", "timm/test_resnet"]
FOLDS = [*CLASSIFIER, "--folds", "2", "--validation_fraction", "0.4"]


@pytest.fixture
def data(tmp_path):
    write_synthetic_dataset(
        tmp_path / "data", SyntheticConfig(count_train=20, count_test=4, sizes=((48, 56),))
    )
    return tmp_path / "data"


@pytest.fixture
def command(data, tmp_path):
    """Run a training command for two epochs; its exit code."""

    def run(words, name, *more):
        output = ["--data_path", str(data), "--output", str(tmp_path / name), "--epochs", "2"]
        try:
            return console.main([*words, *SMALL, *output, *more])
        except SystemExit as left:
            return left.code

    return run


def models(folder):
    return {
        path.relative_to(folder): Classifier.load(path, device="cpu").state_dict()
        for path in sorted(folder.rglob("best.safetensors"))
    }


@pytest.mark.parametrize("name", STATUS)
def test_the_same_command_is_queued_until_it_is_finished(
    command, tmp_path, monkeypatch, capsys, name
):
    assert command(SEGMENTER, "whole", "--resume", "auto") == 0  # starts, because nothing is there
    steps = segmentation.segmentation_loss
    monkeypatch.setattr(segmentation, "segmentation_loss", nth(steps, 2, send(name)))
    assert command(SEGMENTER, "run", "--resume", "auto") == STATUS[name]
    assert f"{name}: stopped after 0 epochs and 8 images" in capsys.readouterr().err
    monkeypatch.undo()
    assert command(SEGMENTER, "run", "--resume", "auto") == 0
    assert "resuming after 0 epochs and 8 images" in capsys.readouterr().err
    one, other = (load_state(tmp_path / name / "last.safetensors") for name in ("run", "whole"))
    assert_same(one["network"], other["network"])
    kept = (tmp_path / "run" / "best.safetensors").read_bytes()
    assert command(SEGMENTER, "run", "--resume", "auto") == 0
    said = capsys.readouterr()
    assert "finished after 2 epochs" in said.err
    assert "best epoch" in said.out
    assert (tmp_path / "run" / "best.safetensors").read_bytes() == kept


def test_a_cross_validation_goes_on_in_the_middle_of_a_fold(command, tmp_path, monkeypatch, capsys):
    assert command(FOLDS, "whole") == 0
    steps = classification.classification_loss
    monkeypatch.setattr(classification, "classification_loss", nth(steps, 6, send("SIGTERM")))
    assert command(FOLDS, "run", "--resume", "auto") == 143
    monkeypatch.undo()
    capsys.readouterr()
    assert command(FOLDS, "run", "--resume", "auto") == 0
    assert "images of the next" in capsys.readouterr().err
    whole, run = models(tmp_path / "whole"), models(tmp_path / "run")
    assert len(whole) == 2
    assert whole.keys() == run.keys()
    for name in whole:
        assert_same(run[name], whole[name])
    table = "out_of_fold.csv"
    assert (tmp_path / "run" / table).read_bytes() == (tmp_path / "whole" / table).read_bytes()
    assert command(FOLDS, "run", "--resume", "auto") == 0
    assert "all 2 folds are finished" in capsys.readouterr().err


def test_other_settings_data_and_divisions_are_refused_with_the_difference_named(
    command, data, tmp_path, monkeypatch, capsys
):
    def said(*words):
        assert command(*words) == 2
        return capsys.readouterr().err

    steps = classification.classification_loss
    monkeypatch.setattr(classification, "classification_loss", nth(steps, 2, send("SIGTERM")))
    assert command(CLASSIFIER, "run") == 143
    monkeypatch.undo()
    no_result = ("--checkpoint_minutes", "3", "--num_workers", "1")
    changed = said(CLASSIFIER, "run", "--resume", "--average", "0.5", *no_result)
    assert "average was 0.0, is 0.5" in changed
    assert "--resume_changed" in changed
    assert "checkpoint_minutes" not in changed
    assert "num_workers" not in changed
    assert "give both" in said(CLASSIFIER, "run", "--resume_changed")
    mask = next((data / "masks_all").iterdir())
    mask.write_bytes(mask.read_bytes() + b"\n")  # of another size, and still the same mask
    assert "data_digest was" in said(CLASSIFIER, "run", "--resume")
    onward = ("--resume", "auto", "--resume_changed")
    assert command(CLASSIFIER, "run", *onward, "--average", "0.5") == 0
    assert "going on with other settings or data: average was" in capsys.readouterr().err
    document = read_document(tmp_path / "run" / "best.safetensors")
    (noted,) = document["provenance"]["classifier"]["continued"]
    assert noted["changed"].keys() == {"average", "data_digest"}
    assert command(CLASSIFIER, "run", "--resume", "--average", "0.5") == 0, "these are its own now"
    (data / "splits.json").unlink()
    capsys.readouterr()
    other = ("--validation_fraction", "0.5", "--average", "0.5")
    assert "--initial_model" in said(CLASSIFIER, "run", *onward, *other)


def test_settings_that_a_training_does_not_go_on_with_are_not_stored(
    command, tmp_path, monkeypatch, capsys
):
    steps = classification.classification_loss
    monkeypatch.setattr(classification, "classification_loss", nth(steps, 2, send("SIGTERM")))
    assert command(CLASSIFIER, "run") == 143
    monkeypatch.undo()
    stored = (tmp_path / "run" / "config.yaml").read_bytes()
    onward = ("--resume", "--resume_changed")
    assert command(CLASSIFIER, "run", *onward, "--image_size", "48", "--dropout", "0.5",
                   "--architecture", "timm/test_vit") == 2  # fmt: skip
    assert "do not fit the changed settings" in capsys.readouterr().err
    assert (tmp_path / "run" / "config.yaml").read_bytes() == stored
    assert command(CLASSIFIER, "run", *onward, "--dropout", "0.5") == 0
    stored = (tmp_path / "run" / "config.yaml").read_bytes()
    assert yaml.safe_load(stored)["dropout"] == 0.5
    assert command(CLASSIFIER, "run", *onward, "--dropout", "0.3") == 0
    assert "nothing is left to do" in capsys.readouterr().err
    assert (tmp_path / "run" / "config.yaml").read_bytes() == stored, "it has trained with these"


def test_auto_takes_nothing_that_it_cannot_go_on_with(command, tmp_path, capsys):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "best.safetensors").write_bytes(b"precious")
    assert command(CLASSIFIER, "run", "--resume", "auto") == 2
    assert "best.safetensors: exists already" in capsys.readouterr().err
    assert command(CLASSIFIER, "run", "--resume", "auto", "--overwrite") == 2
    assert command(CLASSIFIER, "absent", "--resume") == 2
    assert "no run to resume" in capsys.readouterr().err
    assert (tmp_path / "run" / "best.safetensors").read_bytes() == b"precious"


@pytest.mark.parametrize("words", [CLASSIFIER, FOLDS], ids=["one", "folds"])
def test_what_diverged_before_it_saved_anything_starts_with_a_lower_rate(
    words, command, tmp_path, capsys
):
    assert command(words, "run", "--resume", "auto", "--learning_rate", "1000000") == 2
    assert "lower --learning_rate" in capsys.readouterr().err
    assert command(words, "run", "--resume", "auto", "--learning_rate", "0.001") == 0
    settings = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert settings["learning_rate"] == 0.001
    assert command(words, "run", "--resume", "auto", "--learning_rate", "0.002") == 2
    assert "learning_rate was 0.001, is 0.002" in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"", b"[1]", b"1: 2", b"{[", b"\xff\xfe{["])
def test_damaged_settings_of_a_run_are_an_error_that_names_the_file(
    content, command, tmp_path, capsys
):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_bytes(content)
    assert command(CLASSIFIER, "run", "--resume") == 2
    assert "config.yaml: is damaged (" in capsys.readouterr().err
    assert (tmp_path / "run" / "config.yaml").read_bytes() == content


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="the script forks")
def test_killed_at_any_moment_it_ends_with_the_same_bits():
    done = subprocess.run(
        [sys.executable, "benchmarks/kill_training.py", "--kills", "5", "--writes", "3",
         "--epochs", "1", "--images", "20"],
        capture_output=True, text=True, check=False, cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "5 kills, 3 of them while a checkpoint was written" in done.stdout
