"""Each script as a user runs it: from another folder, for one epoch, on a tiny data set."""

import csv
import json
import logging
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from cascade.command_line import main as console
from cascade.command_line.evaluation_options import EVALUATION_FILES
from cascade.data.synthetic import SyntheticConfig, write_synthetic_dataset
from cascade.data.tables import read_csv, read_table
from cascade.evaluation.card_parts import read_evaluation
from cascade.imaging import read_image, read_mask
from cascade.models.artifact import read_document
from cascade.pipeline import Cascade

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"
SMALL = ["--image_size", "32", "--decoder_channels", "16", "16", "8", "8", "8"]
SEGMENTATION_KEYS = {
    "mean_iou", "mean_thresholded_iou", "pooled_iou", "two_class_iou", "dice", "sensitivity",
    "specificity", "accuracy",
}  # fmt: skip
CLASSIFICATION_KEYS = {
    "accuracy", "precision", "recall", "specificity", "f1", "macro_f1", "balanced_accuracy",
    "roc_auc", "average_precision", "brier", "ece",
}  # fmt: skip
SEGMENTER_FLAGS = {
    "--epochs": "1", "--device": "cpu", "--encoder": "mobilenet", "--optimizer": "adam",
    "--learning_rate": "0.001", "--momentum": "0.8", "--weight_decay": "0.5",
}  # fmt: skip
CLASSIFIER_FLAGS = {
    "-e": "1", "-d": "cpu", "-a": "mobilenet", "-opt": "sgd", "-lr": "0.01", "-mom": "0.7",
    "-wd": "0.02", "-cw": "3",
}  # fmt: skip


def listed(flags):
    return [word for pair in flags.items() for word in pair]


@pytest.fixture(scope="module", autouse=True)
def logger():
    """Commands send cascade's log to the terminal; give it back to pytest after these tests."""
    own = logging.getLogger("cascade")
    before = own.handlers[:], own.level, own.propagate
    yield
    own.handlers[:], own.propagate = before[0], before[2]
    own.setLevel(before[1])


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory):
    """A working folder that is not the repository."""
    return tmp_path_factory.mktemp("elsewhere")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A data set of these tests' own, because training writes its division beside the tables."""
    folder = tmp_path_factory.mktemp("scripts") / "data set"
    config = SyntheticConfig(count_train=14, count_test=8, sizes=((64, 80), (64, 64)), seed=1)
    write_synthetic_dataset(folder, config)
    return folder


def run_script(name, arguments, folder):
    """Run a script's file in this process; its exit code."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", [name, *map(str, arguments)])
        patch.setattr(sys, "path", list(sys.path))
        try:
            runpy.run_path(str(SCRIPTS / name), run_name="__main__")
        except SystemExit as stop:
            return stop.code
    raise AssertionError(f"{name} did not exit with a code")


@pytest.fixture
def run(elsewhere):
    return lambda name, *arguments: run_script(name, arguments, elsewhere)


@pytest.fixture(scope="module")
def models(data, elsewhere):
    """Both stages after one epoch, trained by the scripts with every documented flag."""
    arguments = [*listed(SEGMENTER_FLAGS), "--data_path", data, "--output", "models/segmenter"]
    shared = ["--validation_fraction", "0.4"]
    code = run_script("seg_train_pipeline.py", [*arguments, *SMALL, *shared], elsewhere)
    assert code == 0
    arguments = [*listed(CLASSIFIER_FLAGS), "--data_path", data, "--output", "models/classifier"]
    shared += ["--image_size", "32"]
    code = run_script("classification_train_pipeline.py", [*arguments, *shared], elsewhere)
    assert code == 0
    return elsewhere / "models"


@pytest.fixture(scope="module")
def evaluated(models, data, elsewhere):
    """The cascade's evaluation, which also writes its file, all masks and all overlays."""
    arguments = [
        "--segmenter", models / "segmenter" / "best.safetensors",
        "--classifier", models / "classifier" / "best.safetensors",
        "--save", "cascade.safetensors", "--data_path", data, "--output", "results",
        "--device", "cpu", "--save_masks", "--save_overlays",
    ]  # fmt: skip
    assert run_script("cascade_pipeline.py", arguments, elsewhere) == 0
    return elsewhere / "results"


def metrics_of(folder):
    return json.loads((folder / "metrics.json").read_text())


def check_metrics(found, keys, count):
    """All documented numbers are there, in their range and inside their interval."""
    assert keys <= set(found)
    assert found["n"] == count
    assert keys <= set(found["intervals"])
    for name in keys:
        interval = found["intervals"][name]
        if found[name] is None:
            assert name in found["undefined"]
        else:
            assert 0 <= found[name] <= 1
            assert interval is not None, name
            assert len(interval) == 2
            assert interval[0] <= interval[1]


def check_page(folder):
    page = (folder / "report.html").read_text(encoding="utf-8")
    fetched = re.findall(r"""(?:src|href)\s*=\s*["']?(\S{0,12})|url\((\S{0,12})""", page)
    assert fetched
    assert all((one or other).startswith(("data:", "#")) for one, other in fetched)
    assert "<script" not in page


# --- training


def test_every_documented_flag_of_the_segmenter_is_used(models):
    stored = yaml.safe_load((models / "segmenter" / "config.yaml").read_text())
    expected = {
        "epochs": 1, "encoder": "mobilenet", "optimizer": "adam", "learning_rate": 0.001,
        "momentum": 0.8, "weight_decay": 0.5, "size": 32, "encoder_weights": "none",
    }  # fmt: skip
    assert {name: stored[name] for name in expected} == expected
    document = read_document(models / "segmenter" / "best.safetensors")
    assert document["stages"]["segmenter"]["config"]["encoder"] == "mobilenet_v2"


def test_every_documented_short_flag_of_the_classifier_is_used(models):
    stored = yaml.safe_load((models / "classifier" / "config.yaml").read_text())
    expected = {
        "epochs": 1, "architecture": "mobilenet", "optimizer": "sgd", "learning_rate": 0.01,
        "momentum": 0.7, "weight_decay": 0.02, "class_weight": 3.0, "size": 32,
    }  # fmt: skip
    assert {name: stored[name] for name in expected} == expected
    stage = read_document(models / "classifier" / "best.safetensors")["stages"]["classifier"]
    assert stage["config"]["architecture"] == "torchvision/mobilenet_v2"
    assert set(stage["operating_points"]) == {"0.80", "0.90", "0.95"}


@pytest.mark.parametrize("stage", ["segmenter", "classifier"])
def test_training_leaves_the_documented_files_in_the_folder_asked_for(models, stage):
    assert {path.name for path in (models / stage).iterdir()} == {
        "best.safetensors", "last.safetensors", "history.csv", "curves.png", "config.yaml",
    }  # fmt: skip


def test_both_stages_share_one_division_beside_the_tables(models, data):
    digests = {
        read_document(models / stage / "best.safetensors")["provenance"][stage]["splits"]["digest"]
        for stage in ("segmenter", "classifier")
    }
    assert len(digests) == 1
    assert (data / "splits.json").is_file()


def test_a_second_training_in_the_same_folder_is_refused_in_one_line(models, run, data, capsys):
    before = (models / "segmenter" / "best.safetensors").read_bytes()
    code = run("seg_train_pipeline.py", "--data_path", data, "--output", models / "segmenter",
               "-d", "cpu", "-opt", "adamw", *SMALL)  # fmt: skip
    lines = capsys.readouterr().err.strip().splitlines()
    assert code == 2
    assert [line for line in lines if line.startswith("error")] == [lines[-1]]
    assert "config.yaml: exists already" in lines[-1]
    assert (models / "segmenter" / "best.safetensors").read_bytes() == before


def test_resuming_with_another_setting_is_refused_and_named(models, run, data, capsys):
    flags = {**SEGMENTER_FLAGS, "--epochs": "2"}
    code = run("seg_train_pipeline.py", *listed(flags), "--data_path", data, "--output",
               models / "segmenter", "--resume", *SMALL)  # fmt: skip
    assert code == 2
    assert "epochs was 1, is 2" in capsys.readouterr().err


def test_resuming_a_finished_training_is_fine_and_changes_nothing(models, run, data):
    before = (models / "segmenter" / "best.safetensors").read_bytes()
    code = run("seg_train_pipeline.py", *listed(SEGMENTER_FLAGS), "--data_path", data, "--output",
               models / "segmenter", "--resume", *SMALL)  # fmt: skip
    assert code == 0
    assert (models / "segmenter" / "best.safetensors").read_bytes() == before


def test_harmful_weight_decay_is_pointed_out(run, data, tmp_path, capsys):
    run("seg_train_pipeline.py", *listed(SEGMENTER_FLAGS), "--data_path", data, "--encoder_weights",
        "absent.pth", "--output", tmp_path / "run", *SMALL)  # fmt: skip
    lines = capsys.readouterr().err.strip().splitlines()
    assert any(line.startswith("warning: ") and "shrink the weights" in line for line in lines)
    assert lines[-1].startswith("error: absent.pth")


# --- evaluation of one stage


def test_the_segmenter_is_scored_on_the_test_table(models, run, data, tmp_path, capsys):
    code = run("seg_inference_pipeline.py", "--path", models / "segmenter" / "best.safetensors",
               "--data_path", data, "--output", tmp_path, "--device", "cpu",
               "--save_masks", "--save_overlays")  # fmt: skip
    assert code == 0
    stored = metrics_of(tmp_path)
    check_metrics(stored["segmentation"], SEGMENTATION_KEYS, 8)
    check_page(tmp_path)
    assert "mean IoU" in capsys.readouterr().out
    test = read_table(data / "test_data.csv")
    _, rows = read_csv(tmp_path / "predictions.csv")
    assert [row["name"] for row in rows] == test.names()
    assert {path.stem for path in (tmp_path / "masks").iterdir()} == {item.stem for item in test}
    assert len(list((tmp_path / "overlays").iterdir())) == 8


def test_a_second_evaluation_replaces_the_first_only_when_asked(models, run, data, tmp_path):
    flags = ["--model", models / "segmenter" / "best.safetensors", "--data_path", data,
             "--output", tmp_path, "--device", "cpu"]  # fmt: skip
    assert run("seg_inference_pipeline.py", *flags) == 0
    (tmp_path / "roc.png").write_bytes(b"of an earlier evaluation, which had classes")
    (tmp_path / "notes.txt").write_text("mine")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert run("seg_inference_pipeline.py", *flags, "--threshold", "0.9") == 2
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert run("seg_inference_pipeline.py", *flags, "--threshold", "0.9", "--overwrite") == 0
    after = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert after["notes.txt"] == b"mine"
    assert set(after) == set(before) - {"roc.png"}
    assert after["metrics.json"] != before["metrics.json"]


def test_every_file_of_an_evaluation_is_known_to_be_one(evaluated):
    known = {path for name in EVALUATION_FILES for path in evaluated.glob(name)}
    assert {path for path in evaluated.iterdir() if path.is_file()} == known


def test_the_classifier_in_a_cascades_file_is_scored_too(evaluated, run, data, tmp_path):
    code = run("classification_inference_pipeline.py", "--path=cascade.safetensors", "--data_path",
               data, "--output", tmp_path, "-d", "cpu", "--batch_size", "3")  # fmt: skip
    assert code == 0
    assert set(metrics_of(tmp_path)) == {"classification", "about"}
    found = metrics_of(tmp_path)["classification"]
    check_metrics(found, CLASSIFICATION_KEYS, 8)
    assert np.sum(found["confusion_matrix"]) == 8
    check_page(tmp_path)
    with (tmp_path / "predictions.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 8


# --- the cascade


def test_the_cascade_is_scored_end_to_end_and_by_stage(evaluated):
    stored = metrics_of(evaluated)
    check_metrics(stored["segmentation"], SEGMENTATION_KEYS, 8)
    check_metrics(stored["classification"], CLASSIFICATION_KEYS, 8)
    assert set(stored["stages"]) == {"truth_mask", "whole_image"}
    check_page(evaluated)
    _, rows = read_csv(evaluated / "predictions.csv")
    assert len(rows) == 8
    assert all(row["label"] in ("benign", "malignant") for row in rows)


def test_the_saved_cascade_gives_the_same_predictions(evaluated, data):
    cascade = Cascade.load(evaluated.parent / "cascade.safetensors", device="cpu")
    _, rows = read_csv(evaluated / "predictions.csv")
    for record, row in zip(read_table(data / "test_data.csv"), rows, strict=True):
        (prediction,) = cascade([record.image_path])
        probability = prediction.probabilities["malignant"]
        assert float(row["probability_malignant"]) == pytest.approx(probability, rel=1e-6)
        assert row["label"] == prediction.label
        mask = read_mask(
            evaluated / "masks" / f"{record.stem}.png", shape=read_image(record.image_path).shape
        )
        np.testing.assert_array_equal(mask, prediction.mask)


def test_the_cascades_file_is_scored_like_its_parts(evaluated, run, data, tmp_path):
    code = run("cascade_pipeline.py", "--path", "cascade.safetensors", "--data_path", data,
               "--output", tmp_path, "-d", "cpu")  # fmt: skip
    assert code == 0
    one, other = metrics_of(evaluated), metrics_of(tmp_path)
    for part in ("segmentation", "classification", "stages"):
        assert one[part] == other[part]


@pytest.mark.parametrize(
    "parts",
    [[], ["--segmenter", "s"], ["--path", "c", "--segmenter", "s", "--classifier", "c"]],
)
def test_the_cascade_needs_one_file_or_both_stages(run, data, capsys, parts):
    assert run("cascade_pipeline.py", *parts, "--data_path", data) == 2
    assert "--model CASCADE, or both --segmenter FILE and --classifier FILE" in (
        capsys.readouterr().err
    )


# --- images that were seen in training


@pytest.mark.parametrize(
    ("script", "path"),
    [
        ("seg_inference_pipeline.py", "models/segmenter/best.safetensors"),
        ("classification_inference_pipeline.py", "models/classifier/best.safetensors"),
        ("cascade_pipeline.py", "cascade.safetensors"),
    ],
)
def test_images_of_the_training_are_refused_unless_asked_for(
    evaluated, run, data, tmp_path, capsys, script, path
):
    arguments = ["--path", path, "--data_path", data, "--table", "train_data.csv",
                 "--output", tmp_path / "out", "-d", "cpu"]  # fmt: skip
    assert run(script, *arguments) == 2
    (line,) = [
        line for line in capsys.readouterr().err.splitlines() if not line.startswith("runtime:")
    ]
    assert "14 of 14 images were used to train" in line
    assert not (tmp_path / "out").exists()
    if script == "seg_inference_pipeline.py":
        assert run(script, *arguments, "--allow_seen") == 0
        metrics = metrics_of(tmp_path / "out")
        assert metrics["segmentation"]["n"] == 14
        assert metrics["about"]["data"].endswith(", 14 of 14 images seen in training")
        assert "14 of 14 images seen" in read_evaluation(tmp_path / "out").title, "cards say so"
        assert "14 of 14 images seen" in (tmp_path / "out" / "report.html").read_text()


# --- predicted masks for the second stage


def test_the_classifier_trains_on_a_folder_of_predicted_masks(models, run, data, tmp_path):
    arguments = ["--folds", "2", "--epochs", "1", "-d", "cpu", "-en", "tu-test_resnet",
                 "-opt", "adamw", "-wd", "0.01", "--validation_fraction", "0.4",
                 "--data_path", str(data),
                 "--output", str(tmp_path / "oof"), *SMALL]  # fmt: skip
    assert console.main(["oof-masks", *arguments]) == 0
    assert len(list((tmp_path / "oof" / "masks").iterdir())) == 14
    code = run("classification_train_pipeline.py", *listed(CLASSIFIER_FLAGS), "--data_path", data,
               "--masks", tmp_path / "oof" / "masks", "--output", tmp_path / "run",
               "--mask_mode", "hard_full", "--margin", "0.25", "--validation_fraction", "0.4",
               "--image_size", "32")  # fmt: skip
    assert code == 0
    document = read_document(tmp_path / "run" / "best.safetensors")
    policy = document["stages"]["classifier"]["policy"]
    assert (policy["frame"], policy["background"], policy["margin"]) == ("full", "hard", 0.25)


def test_a_folder_that_lacks_masks_is_refused_by_name(models, run, data, tmp_path, capsys):
    (tmp_path / "masks").mkdir()
    code = run("classification_train_pipeline.py", *listed(CLASSIFIER_FLAGS), "--data_path", data,
               "--masks", tmp_path / "masks", "--output", tmp_path / "run",
               "--validation_fraction", "0.4")  # fmt: skip
    assert code == 2
    assert "14 masks are missing" in capsys.readouterr().err


# --- wrong usage ends with code 2 and one line


@pytest.mark.parametrize(
    ("script", "path"),
    [
        ("seg_inference_pipeline.py", "models/segmenter/best.safetensors"),
        ("classification_inference_pipeline.py", "models/classifier/best.safetensors"),
        ("cascade_pipeline.py", "cascade.safetensors"),
        ("seg_train_pipeline.py", None),
        ("classification_train_pipeline.py", None),
    ],
)
def test_cuda_without_cuda_ends_with_code_2_and_one_line(
    evaluated, run, data, tmp_path, capsys, monkeypatch, script, path
):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    size = ["--image_size", "32"] if path is None else []
    given = ["--path", path] if path else ["--weight_decay", "0", "--validation_fraction", "0.4"]
    code = run(script, *given, *size, "--data_path", data, "--output", tmp_path / "out",
               "--device", "cuda")  # fmt: skip
    lines = capsys.readouterr().err.strip().splitlines()
    assert code == 2
    assert len(lines) == 1
    assert "torch sees 0 CUDA devices" in lines[0]
    assert not (tmp_path / "out").exists()


def test_a_process_of_its_own_says_the_same(data, elsewhere):
    arguments = ["--data_path", data, "--device", "cuda", "-wd", "0", "--image_size", "32",
                 "--validation_fraction", "0.4"]  # fmt: skip
    command = [sys.executable, SCRIPTS / "seg_train_pipeline.py", *arguments]
    hidden = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    ran = subprocess.run(command, cwd=elsewhere, capture_output=True, text=True, env=hidden)
    assert ran.returncode == 2
    assert ran.stdout == ""
    assert len(ran.stderr.strip().splitlines()) == 1
    assert "'cuda' was asked for" in ran.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--path", "absent.safetensors"], "there is no such model file"),
        (["--path", "models/classifier/best.safetensors"], "holds classifier, but no segmenter"),
        (["--path", "models/segmenter/best.safetensors", "--image_size", "64"],
         "trained at segmenter 32 pixels"),
        (["--path", "models/segmenter/best.safetensors", "--table", "absent.csv"], "absent.csv"),
    ],
)  # fmt: skip
def test_wrong_files_are_named_in_one_line(models, run, data, capsys, arguments, words):
    given = [*arguments, "--data_path", data, "-d", "cpu"]
    assert run("seg_inference_pipeline.py", *given) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert words in lines[0]


def test_a_broken_test_image_ends_the_evaluation_and_is_named(models, run, data, tmp_path, capsys):
    folder = tmp_path / "data"
    (folder / "images_all").mkdir(parents=True)
    test = read_table(data / "test_data.csv")
    for record in test:
        (folder / "images_all" / record.image_path.name).symlink_to(record.image_path)
    broken = folder / "images_all" / test[5].image_path.name
    broken.unlink()
    broken.write_bytes(test[5].image_path.read_bytes()[:300])
    (folder / "masks_all").symlink_to(data / "masks_all")
    (folder / "test_data.csv").write_bytes((data / "test_data.csv").read_bytes())
    code = run("seg_inference_pipeline.py", "--path", models / "segmenter" / "best.safetensors",
               "--data_path", folder, "--output", tmp_path / "out", "-d", "cpu")  # fmt: skip
    assert code == 2
    assert broken.name in capsys.readouterr().err
    assert not (tmp_path / "out" / "metrics.json").exists()


def test_the_data_set_of_a_script_is_made_by_a_script(run, tmp_path):
    code = run("prepare_dataset.py", "--source", "synthetic", "--count", "5", "--output",
               tmp_path / "made")  # fmt: skip
    assert code == 0
    assert len(read_table(tmp_path / "made" / "train_data.csv")) == 4
    assert len(read_table(tmp_path / "made" / "test_data.csv")) == 1


def test_nothing_but_models_and_results_was_left_in_the_working_folder(evaluated, elsewhere):
    names = {path.name for path in elsewhere.iterdir()}
    assert names == {"models", "results", "cascade.safetensors"}


def test_masks_are_written_for_a_table_and_kept_on_resume(models, data, tmp_path, capsys):
    flags = ["segment", "--path", str(models / "segmenter" / "best.safetensors"), "-d", "cpu",
             "--data_path", str(data), "--output", str(tmp_path / "masks")]  # fmt: skip
    assert console.main(flags) == 2  # these images trained it
    assert "were used to train it" in capsys.readouterr().err
    flags.append("--allow_seen")
    assert console.main(flags) == 0
    masks = sorted((tmp_path / "masks").iterdir())
    assert len(masks) == 14
    masks[0].unlink()
    before = {path: path.stat().st_mtime_ns for path in masks[1:]}
    assert console.main(flags) == 2  # neither kept nor replaced without being asked
    assert "--resume" in capsys.readouterr().err
    assert console.main([*flags, "--resume"]) == 0
    assert "1 masks" in capsys.readouterr().out
    assert masks[0].is_file()
    assert {path: path.stat().st_mtime_ns for path in masks[1:]} == before
