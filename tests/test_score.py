"""``cascade score`` end to end on small folders and tables."""

from __future__ import annotations

import csv
import json
import re

import cv2
import numpy as np
import pytest

from cascade.commands.evaluation.score import main


def write_mask(path, mask):
    path.parent.mkdir(exist_ok=True)
    cv2.imwrite(str(path), mask.astype(np.uint8) * 255)


def square(size, side=10):
    mask = np.zeros((40, 50), bool)
    mask[4 : 4 + size, 4 : 4 + side] = True
    return mask


@pytest.fixture
def folders(tmp_path):
    """Three truths with predictions of IoU 1, 0.5 and 0."""
    truth, predicted = tmp_path / "truth", tmp_path / "predicted"
    for number, size in enumerate((20, 10, 0)):
        write_mask(truth / f"ISIC_{number}_segmentation.png", square(20))
        write_mask(predicted / f"ISIC_{number}.png", square(size))
    return truth, predicted


def write_table(path, columns, rows):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])
    return path


@pytest.fixture
def tables(tmp_path):
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 2, 40)
    scores = np.clip(generator.normal(0.3 + 0.4 * labels, 0.2), 0, 1)
    names = [f"image_{i}" for i in range(40)]
    words = np.where(labels, "malignant", "benign")
    rows = [(f"{names[i]}.jpg", words[i], f"L{i // 2}") for i in range(40)]
    truth = write_table(tmp_path / "truth.csv", ["name", "class", "lesion_id"], rows)
    scored = zip(names, scores, strict=True)
    return truth, write_table(tmp_path / "scores.csv", ["name", "probability"], scored)


def run(*arguments):
    return main([str(argument) for argument in arguments])


def test_masks_are_scored_and_written(folders, tmp_path, capsys):
    truth, predicted = folders
    output = tmp_path / "out"
    assert run("--truth", truth, "--predicted", predicted, "--output", output) == 0
    metrics = json.loads((output / "metrics.json").read_text())["segmentation"]
    assert metrics["mean_iou"] == pytest.approx(0.5)
    assert metrics["mean_thresholded_iou"] == pytest.approx(1 / 3)
    assert metrics["missed"] == 1
    rows = list(csv.DictReader((output / "images.csv").open()))
    assert [float(row["iou"]) for row in rows] == [1.0, 0.5, 0.0]
    assert rows[0]["name"] == "ISIC_0"
    assert (output / "iou_histogram.png").stat().st_size > 1000
    assert re.search(r"mean IoU +0\.5000", capsys.readouterr().out)
    write_mask(predicted / "ISIC_9.png", square(3))
    before = sorted(tmp_path.rglob("*"))
    assert run("--truth", truth, "--predicted", predicted) == 0
    assert "not scored: 1 (ISIC_9)" in capsys.readouterr().out
    assert sorted(tmp_path.rglob("*")) == before, "nothing is written without --output"


def test_missing_and_ambiguous_predictions_are_errors_that_name_them(folders, tables, capfd):
    truth, predicted = folders
    assert run("--truth", truth, "--predicted", tables[1]) == 2
    assert "both be folders" in capfd.readouterr().err
    assert run("--truth", truth, "--predicted", truth / "nowhere") == 2
    assert "nowhere" in capfd.readouterr().err
    write_mask(predicted / "ISIC_1_segmentation.png", square(3))
    assert run("--truth", truth, "--predicted", predicted) == 2
    assert "ISIC_1_segmentation.png" in capfd.readouterr().err
    (predicted / "ISIC_1_segmentation.png").unlink()
    (predicted / "ISIC_1.png").unlink()
    assert run("--truth", truth, "--predicted", predicted) == 2
    assert "ISIC_1" in capfd.readouterr().err


def test_mask_of_another_size_is_an_error_unless_resizing_is_asked_for(folders, tmp_path, capfd):
    truth, predicted = folders
    doubled = np.kron(square(20), np.ones((2, 2), bool)).astype(bool)
    write_mask(predicted / "ISIC_0.png", doubled)
    assert run("--truth", truth, "--predicted", predicted) == 2
    assert "100x80" in capfd.readouterr().err
    output = tmp_path / "out"
    arguments = ["--truth", truth, "--predicted", predicted, "--output", output]
    assert run(*arguments, "--resize-masks") == 0
    assert "1 predicted masks were resized" in capfd.readouterr().out
    document = json.loads((output / "metrics.json").read_text())
    assert document["resized_masks"] == 1
    assert document["segmentation"]["mean_iou"] == pytest.approx(0.5)


def test_masks_can_be_grouped_by_a_table(folders, tmp_path, capfd):
    truth, predicted = folders
    rows = [("ISIC_0.jpg", "p"), ("ISIC_1.jpg", "p"), ("ISIC_2.jpg", "q")]
    table = write_table(tmp_path / "groups.csv", ["name", "patient_id"], rows)
    assert run("--truth", truth, "--predicted", predicted, "--groups", table) == 0
    assert "of 2 groups" in capfd.readouterr().out
    write_table(table, ["name", "patient_id"], rows[:2])
    assert run("--truth", truth, "--predicted", predicted, "--groups", table) == 2
    assert "ISIC_2" in capfd.readouterr().err


def test_tables_are_scored_over_lesions(tables, tmp_path, capsys):
    truth, predicted = tables
    output = tmp_path / "out"
    arguments = ["--truth", truth, "--predicted", predicted, "--output", output]
    assert run(*arguments, "--cutoff", "0.4", "--resamples", "200") == 0
    metrics = json.loads((output / "metrics.json").read_text())["classification"]
    assert (metrics["n"], metrics["n_groups"], metrics["cutoff"]) == (40, 20, 0.4)
    assert 0.5 < metrics["roc_auc"] <= 1
    assert {path.name for path in output.iterdir()} == {
        "metrics.json",
        "images.csv",
        "confusion_matrix.png",
        "reliability.png",
        "roc.png",
        "precision_recall.png",
    }
    text = capsys.readouterr().out
    assert "ROC AUC" in text
    assert "200 bootstrap resamples of 20 groups" in text


def test_one_class_is_scored_with_reasons(tables, tmp_path, capsys):
    truth, predicted = tables
    write_table(truth, ["name", "class"], [(f"image_{i}", "benign") for i in range(40)])
    output = tmp_path / "out"
    assert run("--truth", truth, "--predicted", predicted, "--output", output) == 0
    metrics = json.loads((output / "metrics.json").read_text())["classification"]
    assert metrics["roc_auc"] is None
    assert "– (none of the 40 images is malignant)" in capsys.readouterr().out
    assert not (output / "roc.png").exists()


def test_other_words_for_the_classes_are_given_by_flag(tables, capfd):
    truth, predicted = tables
    text = truth.read_text().replace("malignant", "1").replace("benign", "0")
    truth.write_text(text)
    assert run("--truth", truth, "--predicted", predicted) == 2
    assert "--classes 0 1" in capfd.readouterr().err
    assert run("--truth", truth, "--predicted", predicted, "--classes", "0", "1") == 0


@pytest.mark.parametrize("cell", ["nan", "1.5", "high"])
def test_impossible_probability_names_the_image(tables, cell, capfd):
    truth, predicted = tables
    rows = [(f"image_{i}", cell if i == 7 else "0.5") for i in range(40)]
    write_table(predicted, ["name", "probability"], rows)
    assert run("--truth", truth, "--predicted", predicted) == 2
    assert "image_7" in capfd.readouterr().err


def test_missing_column_and_repeated_row_are_named(tables, capfd):
    truth, predicted = tables
    write_table(predicted, ["name", "probabilty"], [("image_0", 0.5)])
    assert run("--truth", truth, "--predicted", predicted) == 2
    assert "'probability' is missing" in capfd.readouterr().err
    write_table(predicted, ["name", "probability"], [("image_0", 0.5), ("image_0.jpg", 0.6)])
    assert run("--truth", truth, "--predicted", predicted) == 2
    assert "image_0" in capfd.readouterr().err


@pytest.mark.parametrize("flag", [("--cutoff", "1.5"), ("--resamples", "0"), ("--seed", "-1")])
def test_impossible_settings_are_refused(tables, flag, capfd):
    assert run("--truth", tables[0], "--predicted", tables[1], *flag) == 2
    assert flag[0] in capfd.readouterr().err
