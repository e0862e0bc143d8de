"""Two processes train one network on the CPU; see joint_training.py for what they do."""

import csv
import json
import os
import signal
import socket
import subprocess
import sys
import time
from itertools import chain
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from test_training_loop import Noise, assert_same, config, cross_entropy, train

from cascade.command_line import main as console
from cascade.data.synthetic import SyntheticConfig, write_synthetic_dataset
from cascade.errors import ConfigError, DeviceError, TrainingError
from cascade.models.artifact import read_document
from cascade.training import processes
from cascade.training.order import Batches, EpochSampler, own_batches
from cascade.training.state import load_state

REPOSITORY = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the program forks")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("joint") / "data"
    write_synthetic_dataset(
        folder, SyntheticConfig(count_train=24, count_test=4, sizes=((48, 56),))
    )
    return folder


@pytest.fixture(scope="module")
def done(data, tmp_path_factory):
    """The folder of all trainings, and their exit codes."""
    output = tmp_path_factory.mktemp("trainings")
    run = subprocess.run(
        [sys.executable, "tests/joint_training.py", str(data), str(output)],
        capture_output=True, text=True, check=False, cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert "find_unused_parameters" not in run.stderr
    return output, json.loads((output / "found.json").read_text()), run.stderr


def history(folder):
    with (folder / "history.csv").open(newline="") as file:
        return [{key: float(text) for key, text in row.items()} for row in csv.DictReader(file)]


def last(folder):
    return load_state(folder / "last.safetensors")


def assert_alike(output, one, other, tolerance):
    for rows in zip(history(output / one), history(output / other), strict=True):
        for key in rows[0].keys() - {"seconds"}:
            assert rows[0][key] == pytest.approx(rows[1][key], abs=tolerance), key


def test_two_processes_train_like_one_with_the_same_batches(done):
    """A segmenter with batch statistics, and batches that cannot be halved."""
    output, codes, _ = done
    assert (codes["one"], codes["two"]) == ([0], [0, 0])
    assert_alike(output, "one", "two", 1e-4)
    one, two = last(output / "one")["network"], last(output / "two")["network"]
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, atol=1e-3, rtol=1e-3, msg=name)


def test_the_gradient_is_that_of_one_process_and_so_are_the_batch_statistics(done):
    """Seven images: one process has four, the other three."""
    output, codes, _ = done
    assert (codes["gradient 1"], codes["gradient 2"]) == ([0], [0, 0])
    one, two = (load_state(output / f"gradient {count}.safetensors") for count in (1, 2))
    assert any(name.startswith("gradient") for name in one)
    largest = max(float(tensor.abs().max()) for name, tensor in one.items() if "gradient" in name)
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, atol=1e-6 * largest, rtol=1e-6, msg=name)


def test_weighted_classes_and_diagnoses_count_as_in_one_process(done):
    """Only the loss: adam makes a step of what is rounding in a weight without influence."""
    output, codes, _ = done
    assert (codes["classifier one"], codes["classifier two"]) == ([0], [0, 0])
    one, two = (history(output / f"classifier {name}")[0] for name in ("one", "two"))
    assert one["train_loss"] == pytest.approx(two["train_loss"], abs=1e-4)


def test_two_processes_end_with_the_same_bits_each_time(done):
    output, _, _ = done
    one, two = last(output / "two"), last(output / "two again")
    for name in ("network", "average"):
        assert_same(one[name], two[name])
    assert_alike(output, "two", "two again", 0.0)


def test_there_is_one_set_of_files_and_the_number_of_processes_is_on_record(done):
    output, _, _ = done
    names = {path.name for path in (output / "two").iterdir()}
    assert names == {path.name for path in (output / "one").iterdir()}
    for name, count in (("one", 1), ("two", 2)):
        document = read_document(output / name / "best.safetensors")
        assert document["provenance"]["segmenter"]["settings"]["processes"] == count
    one, two = (load_file(output / name / "best.safetensors") for name in ("one", "two"))
    assert one.keys() == two.keys()


def test_a_signal_to_one_process_stops_both_and_they_go_on_with_the_same_bits(done):
    output, codes, said = done
    assert codes["stopped"] == [143, 143]
    assert said.count("SIGTERM: stopped after 0 epochs and 15 images") == 1, "one log"
    assert codes["stopped, resumed"] == [0, 0]
    one, two = last(output / "two"), last(output / "stopped")
    for name in ("network", "average"):
        assert_same(one[name], two[name])
    assert_alike(output, "two", "stopped", 0.0)


def test_another_number_of_processes_is_refused_with_the_difference_named(done):
    _, codes, said = done
    assert codes["stopped, alone"] == [2]
    assert "processes was 2, is 1" in said


def test_both_fail_where_the_training_diverges(done):
    output, codes, _ = done
    assert codes["diverged"] == [2, 2]
    assert not (output / "diverged" / "best.safetensors").exists()


def test_parts_clipping_and_the_average_change_nothing_else(done):
    output, codes, _ = done
    assert codes["plain two in parts"] == codes["plain two"] == codes["plain bf16"] == [0, 0]
    assert_alike(output, "plain one", "plain two", 1e-6)
    assert_alike(output, "plain one", "plain two in parts", 1e-6)
    one, two = last(output / "plain one"), last(output / "plain two in parts")
    for name, weight in one["average"].items():
        torch.testing.assert_close(weight, two["average"][name], atol=1e-5, rtol=1e-4)
    loss, coarse = (history(output / name)[0]["train_loss"] for name in ("plain one", "plain bf16"))
    assert loss != coarse
    assert loss == pytest.approx(coarse, abs=0.02)


def test_a_validation_counts_each_image_once(done):
    output, _, _ = done
    numbers = [
        json.loads((output / f"validation {name}").read_text()) for name in ("0", "1", "alone")
    ]
    assert len(numbers[2]) == 7
    assert numbers[0] == numbers[1] == numbers[2]


def test_where_the_memory_of_one_ends_both_compute_smaller_parts(done):
    output, codes, said = done
    assert codes["memory"] == [0, 0]
    assert [(output / f"memory {rank}").read_text() for rank in range(2)] == ["4", "4"]
    assert said.count("warning: out of memory: each batch of 16 images is computed in 4 parts") == 1
    provenance = read_document(output / "memory" / "best.safetensors")["provenance"]["classifier"]
    assert provenance["accumulate"] == 4


# --- in this process


def pretend(monkeypatch, rank, count):
    monkeypatch.setattr(processes, "rank", lambda: rank)
    monkeypatch.setattr(processes, "count", lambda: count)


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize(("images", "size"), [(12, 4), (13, 4), (14, 4), (5, 8), (7, 3)])
def test_the_batches_are_those_of_one_process_whatever_their_number(
    monkeypatch, images, size, count
):
    pretend(monkeypatch, 0, 1)
    alone = list(Batches(EpochSampler(images, seed=1), size))
    shares = []
    for rank in range(count):
        pretend(monkeypatch, rank, count)
        batches = Batches(EpochSampler(images, seed=1), size)
        shares.append(list(batches))
        assert len(shares[-1]) == len(batches)
    joined = [list(chain(*parts)) for parts in zip(*shares, strict=True)]
    assert joined == alone[: len(joined)]
    assert len(list(chain(*alone[len(joined) :]))) < count, (
        "only a last batch with fewer images than processes is left out"
    )
    assert all(parts for share in shares for parts in share)


def test_validation_batches_are_divided_without_rest(monkeypatch):
    taken = []
    for rank in range(3):
        pretend(monkeypatch, rank, 3)
        taken += [place for batch in own_batches(23, 4) for place in batch]
    assert sorted(taken) == list(range(23))


def out_of_memory_above(images):
    def loss(network, batch):
        if len(batch[0]) > images:
            raise torch.OutOfMemoryError
        return cross_entropy(network, batch)

    return loss


def test_out_of_memory_the_batch_is_halved_to_the_same_effective_one(tmp_path, caplog):
    caplog.set_level("INFO", logger="cascade")
    settings = config(batch_size=8, epochs=1)
    small = train(tmp_path / "small", settings, data=Noise(16), loss=out_of_memory_above(2))
    asked = train(tmp_path / "asked", config(batch_size=8, epochs=1, accumulate=4), data=Noise(16))
    assert small.learner.parts == 4
    assert_same(small.network.state_dict(), asked.network.state_dict())
    assert "each batch of 8 images is computed in 4 parts" in caplog.text
    assert read_document(tmp_path / "small" / "best.safetensors")["provenance"]["classifier"][
        "accumulate"
    ] == 4  # fmt: skip
    again = train(tmp_path / "small", settings, data=Noise(16), resume=True)
    assert again.learner.parts == 4, "a resumed training does not try again"
    with pytest.raises(TrainingError, match="out of memory even with 2 images at a time"):
        train(tmp_path / "none", settings, data=Noise(16), loss=out_of_memory_above(1))


def test_a_batch_too_small_for_its_parts_is_refused(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match=r"--batch_size 4 .* --accumulate 3; .* at least 6"):
        train(tmp_path, config(batch_size=4, accumulate=3))
    pretend(monkeypatch, 0, 8)
    with pytest.raises(ConfigError, match="too small for 8 processes"):
        train(tmp_path, config(batch_size=4), data=Noise(40))


def joined(monkeypatch, *, device="auto", **environment):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with processes.joined(device):
        raise AssertionError("it must not come so far")


def test_an_environment_or_device_that_cannot_be_shared_is_refused(monkeypatch):
    monkeypatch.setattr(processes, "_ERROR_SECONDS", 0.0)
    with pytest.raises(ConfigError, match="WORLD_SIZE is 2, but RANK is not set"):
        joined(monkeypatch, WORLD_SIZE="2")
    places = {"RANK": "0", "LOCAL_RANK": "1", "WORLD_SIZE": "2"}
    for device in ("cuda:1", "mps"):
        with pytest.raises(DeviceError, match="cannot be shared"):
            joined(monkeypatch, device=device, **places)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(DeviceError, match="more processes than the 1 GPUs"):
        joined(monkeypatch, **places)


@pytest.mark.parametrize("words", [["mask-modes"], ["default-model", "--data", "absent"]])
def test_a_command_whose_trainings_cannot_be_shared_says_so(monkeypatch, capsys, words):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert console.main(words) == 2
    assert "trains in one process" in capsys.readouterr().err


# --- commands


def start(words, rank, port):
    places = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2",
              "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
              "OMP_NUM_THREADS": "1"}  # fmt: skip
    return subprocess.Popen(
        [sys.executable, "scripts/classification_train_pipeline.py", *words],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=REPOSITORY,
        env={**os.environ, **places},
    )  # fmt: skip


def both(words, act=lambda *_: None):
    """Run a command in two processes; exit codes, results and logs."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = [start(words, rank, port) for rank in range(2)]
    act(*started)
    said = [process.communicate(timeout=300) for process in started]
    return [process.returncode for process in started], said


@pytest.mark.slow
def test_a_cross_validation_in_two_processes_is_queued_until_it_is_finished(data, tmp_path):
    run = tmp_path / "run"
    words = ["--folds", "2", "--validation_fraction", "0.4", "-a", "timm/test_resnet", "-e", "8",
             "--image_size", "32", "--batch_size", "4", "--device", "cpu", "--resume", "auto",
             "--data_path", str(data), "--output", str(run)]  # fmt: skip

    def interrupt(_, second):
        end = time.monotonic() + 90
        while not (run / "fold_0" / "last.safetensors").exists() and time.monotonic() < end:
            time.sleep(0.02)
        second.send_signal(signal.SIGUSR1)

    codes, said = both(words, interrupt)
    assert codes == [138, 138], said
    assert "SIGUSR1: stopped" in said[0][1]
    codes, said = both(words)
    assert codes == [0, 0], said
    assert "resuming after" in said[0][1]
    assert "out of fold" in said[0][0]
    assert said[1] == ("", ""), "the main process alone tells how it goes"
    names = {path.name for path in run.iterdir()}
    assert {"fold_0", "fold_1", "ensemble.safetensors", "out_of_fold.csv"} <= names
    codes, said = both([*words, "--average", "0.5"])
    assert codes == [2, 2]
    assert "average was 0.0, is 0.5" in said[0][1]
