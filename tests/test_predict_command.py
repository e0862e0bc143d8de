"""``cascade predict``: one row for each input, whatever the inputs are, and nothing lost."""

from __future__ import annotations

import contextlib
import csv
import os
import shutil
from dataclasses import replace

import numpy as np
import pytest
from conftest import FakeClassifier
from PIL import Image

import cascade.commands.prediction.predict as predict_module
from cascade.command_line.inputs import find_inputs
from cascade.command_line.main import main as console
from cascade.commands.prediction.predict import main
from cascade.data.tables import read_csv
from cascade.errors import ModelFileError
from cascade.fields import columns
from cascade.imaging import read_image, read_mask
from cascade.lesion.measurements import Measurements
from cascade.pipeline import Cascade
from cascade.pipeline.rows import COLUMNS
from cascade.reliability import ConformalScores, MaskQualityLimits, Safeguards


@pytest.fixture
def loads(commanded_cascade, fake_segmenter, fake_classifier):
    """What the command asked for; it gets a cascade of numpy stages."""
    return commanded_cascade(fake_segmenter, fake_classifier)


@pytest.fixture
def predict(loads, tmp_path, monkeypatch):
    """Run the command in an empty folder; gives the exit code and the rows."""
    monkeypatch.chdir(tmp_path)

    def run(*args):
        code = main([str(arg) for arg in args])
        table = tmp_path / "predictions" / "predictions.csv"
        return code, read_csv(table)[1] if table.exists() else None

    return run


def names(rows):
    return [row["name"] for row in rows]


# --- rows -----------------------------------------------------------------------------------------


def test_each_input_has_one_row_and_a_broken_one_says_why(predict, photos, capsys):
    code, rows = predict(photos)
    assert code == 3
    assert names(rows) == ["a.png", "b.png", "c.jpg"]
    assert [bool(row["error"]) for row in rows] == [False, True, False]
    assert "b.png" in rows[1]["error"]
    assert rows[1]["label"] == rows[1]["probability_malignant"] == ""
    assert "3 rows, 1 failed" in capsys.readouterr().out


def test_without_broken_inputs_the_exit_code_is_0(predict, photos):
    (photos / "b.png").unlink()
    assert predict(photos)[0] == 0


def test_a_row_says_what_the_cascade_says(predict, photos, fake_cascade):
    _, rows = predict(photos / "a.png")
    (expected,) = fake_cascade(photos / "a.png")
    (row,) = rows
    assert list(row) == list(COLUMNS)
    assert row["path"] == str(photos / "a.png")
    assert row["label"] == expected.label
    for name, probability in expected.probabilities.items():
        assert float(row[f"probability_{name}"]) == pytest.approx(probability, abs=1e-8)
    box = tuple(int(row[f"box_{side}"]) for side in ("top", "left", "bottom", "right"))
    assert box == expected.box
    assert (int(row["height"]), int(row["width"])) == (96, 128)
    assert float(row["area_fraction"]) == pytest.approx(expected.area_fraction)
    assert row["warnings"] == "; ".join(expected.warnings)
    assert row["error"] == row["mask"] == row["overlay"] == ""


@pytest.mark.parametrize("batch_size", [1, 2, 50])
def test_the_batch_size_changes_no_row(predict, photos, batch_size, tmp_path):
    _, rows = predict(photos, photos / "a.png", tmp_path / "none.png", "--batch_size", batch_size)
    assert names(rows) == ["a.png", "b.png", "c.jpg", "a.png", "none.png"]
    assert rows[0] == rows[3]
    assert rows[0]["label"]
    assert "does not exist" in rows[4]["error"]


def test_no_lesion_is_a_row_with_a_warning_and_no_box(predict, tmp_path):
    image = np.full((64, 64, 3), 230, np.uint8)
    image[:, ::2] = 240
    Image.fromarray(image).save(tmp_path / "plain.png")
    code, (row,) = predict(tmp_path / "plain.png")
    assert code == 0
    assert row["box_top"] == row["box_right"] == ""
    assert "no lesion found" in row["warnings"]


def test_the_model_gets_what_the_flags_say(predict, photos, loads):
    predict(
        photos,
        "--model",
        "m.safetensors",
        "-d",
        "cpu",
        "--cutoff",
        "0.9",
        "--max_megapixels",
        "0.005",
    )
    (asked,) = loads
    assert (asked["path"], asked["device"], asked["cutoff"]) == ("m.safetensors", "cpu", 0.9)
    assert asked["limits"].max_pixels == 5000
    assert not asked["limits"].allow_truncated


def test_images_over_the_limit_have_an_error_row(predict, photos):
    code, rows = predict(photos / "a.png", "--max_megapixels", "0.005")
    assert code == 3
    assert "too large" in rows[0]["error"]


def test_damaged_photographs_are_predicted_on_request_only(predict, photos):
    data = (photos / "c.jpg").read_bytes()
    (photos / "c.jpg").write_bytes(data[: len(data) * 2 // 3])
    assert predict(photos / "c.jpg")[0] == 3
    code, rows = predict(photos / "c.jpg", "--allow_truncated", "--overwrite")
    assert code == 0
    assert rows[0]["label"]
    assert rows[0]["warnings"]


# --- safeguards -----------------------------------------------------------------------------------


def test_a_row_says_how_far_to_trust_it(predict, photos, loads, monkeypatch, fake_segmenter):
    scores = ConformalScores(benign=(0.6,) * 20, malignant=(0.9,) * 20)

    def load(path, *, device, runtime="torch", threads=None, precision="float32", **use):
        safeguards = Safeguards(
            conformal=scores, mask_quality_limits=MaskQualityLimits(smallest_area=1.0)
        )
        return Cascade(fake_segmenter, FakeClassifier(), safeguards=safeguards, **use)

    monkeypatch.setattr(Cascade, "load", load)
    code, rows = predict(photos, "--coverage", "0.8")
    assert code == 3
    (expected,) = load(None, device="cpu", coverage=0.8)(photos / "a.png")
    row, broken, _ = rows
    assert row["prediction_set"] == " ".join(expected.prediction_set)
    assert float(row["mask_quality"]) == pytest.approx(expected.mask_quality.score)
    assert 0 < float(row["mask_quality"]) < 1
    assert row["out_of_distribution_score"] == ""
    assert "low mask quality, so the whole image was classified" in row["warnings"]
    assert (
        broken["prediction_set"]
        == broken["mask_quality"]
        == broken["out_of_distribution_score"]
        == ""
    )


@pytest.mark.parametrize(
    ("possible", "out_of_distribution_score", "cells"),
    [
        (("benign",), 0.41, ("benign", "0.41")),
        (("benign", "malignant"), 2.0004, ("benign malignant", "2.0004")),
        ((), None, ("", "")),
        (("malignant",), float("inf"), ("malignant", "inf")),
    ],
)
def test_sets_and_unfamiliarity_are_written_as_they_are(
    predict, photos, monkeypatch, possible, out_of_distribution_score, cells
):
    predicted = Cascade.predict_iter

    def judged(self, sources, **options):
        for result in predicted(self, sources, **options):
            yield replace(
                result, prediction_set=possible, out_of_distribution_score=out_of_distribution_score
            )

    monkeypatch.setattr(Cascade, "predict_iter", judged)
    _, (row,) = predict(photos / "a.png")
    assert (row["prediction_set"], row["out_of_distribution_score"]) == cells


def test_operating_point_and_coverage_reach_the_cascade(
    predict, photos, loads, fake_classifier, capfd
):
    fake_classifier.operating_points = {"0.90": 0.0}
    _, (row,) = predict(photos / "a.png", "--operating_point", "0.90", "--coverage", "0.75")
    assert row["label"] == "malignant", "everything is, from probability 0 on"
    assert (loads[0]["cutoff"], loads[0]["operating_point"], loads[0]["coverage"]) == (
        None, 0.9, 0.75,
    )  # fmt: skip
    for flags in (["0.8"], ["0.9", "--cutoff", "0.5"]):
        assert predict(photos, "--overwrite", "--operating_point", *flags)[0] == 2
    errors = capfd.readouterr().err
    assert "stored: 0.90" in errors
    assert "not both" in errors


def test_without_a_model_the_default_one_is_taken(predict, photos, loads):
    assert predict(photos / "a.png")[0] == 0
    assert loads[0]["path"] is None


def test_without_a_default_model_the_error_says_what_to_do(photos, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr("cascade.models.artifact.default_model", lambda: tmp_path / "none.file")
    assert main([str(photos), "--output", str(tmp_path / "out")]) == 2
    message = capfd.readouterr().err
    assert "there is no default model" in message
    assert "--model" in message
    assert not (tmp_path / "out").exists()


# --- what counts as an input ----------------------------------------------------------------------


def test_folders_patterns_and_files_may_be_mixed(predict, photos, tmp_path):
    (photos / "deep").mkdir()
    shutil.copy(photos / "a.png", photos / "deep" / "d.png")
    (photos / "notes.txt").write_text("no image")
    (photos / ".hidden.png").write_bytes(b"")
    _, rows = predict(photos, str(photos / "*.jpg"), photos / "notes.txt")
    assert names(rows) == ["a.png", "b.png", "c.jpg", "d.png", "c.jpg", "notes.txt"]
    _, rows = predict(photos, "--not_recursive", "--overwrite")
    assert names(rows) == ["a.png", "b.png", "c.jpg"]


def test_what_is_no_file_has_a_row_and_blocks_nothing(predict, photos, tmp_path):
    os.mkfifo(photos / "pipe.jpg")
    (photos / "dangling.jpg").symlink_to(tmp_path / "nowhere.jpg")
    (tmp_path / "vacant").mkdir()
    code, rows = predict(photos, tmp_path / "vacant", str(tmp_path / "*.gif"), "/dev/zero")
    assert code == 3
    errors = {row["name"]: row["error"] for row in rows}
    assert "named pipe" in errors["pipe.jpg"]
    assert "does not exist" in errors["dangling.jpg"]
    assert "folder without images" in errors["vacant"]
    assert "matches no image" in errors["*.gif"]
    assert "device" in errors["zero"]
    assert errors["a.png"] == ""
    assert len(rows) == 8


def test_a_table_of_names_is_looked_up_beside_it(predict, dataset_folder):
    _, rows = predict(dataset_folder / "test_data.csv")
    expected = [row["name"] for row in read_csv(dataset_folder / "test_data.csv")[1]]
    assert names(rows) == expected
    assert all(row["label"] for row in rows)
    assert rows[0]["path"] == str(dataset_folder / "images_all" / expected[0])


def test_a_table_of_paths_is_read_relative_to_itself(predict, photos):
    (photos / "list.csv").write_text("path,note\na.png,x\nnone.png,y\n", encoding="utf-8")
    code, rows = predict(photos / "list.csv")
    assert code == 3
    assert names(rows) == ["a.png", "none.png"]
    assert "does not exist" in rows[1]["error"] or "No such file" in rows[1]["error"]


def test_each_row_of_a_table_is_one_input_also_without_a_file(predict, photos):
    text = 'path,note\n"",x\n.,y\n*.png,z\na.png,w\n'
    (photos / "list.csv").write_text(text, encoding="utf-8")
    code, rows = predict(photos / "list.csv")
    assert code == 3
    assert [bool(row["error"]) for row in rows] == [True, True, True, False]
    assert "folder" in rows[0]["error"]


def test_missing_images_of_a_table_have_a_row(predict, dataset_folder, tmp_path):
    (tmp_path / "images_all").mkdir()
    shutil.copy(dataset_folder / "images_all" / "synthetic_00012.jpg", tmp_path / "images_all")
    (tmp_path / "t.csv").write_text("name\nsynthetic_00012.jpg\nsynthetic_00099.jpg\n")
    code, rows = predict(tmp_path / "t.csv")
    assert code == 3
    assert [bool(row["error"]) for row in rows] == [False, True]


@pytest.mark.parametrize(("text", "what"), [(None, "cannot be read"), ("age\n5\n", "name")])
def test_an_unusable_table_is_refused_before_anything_is_predicted(
    predict, photos, tmp_path, text, what, capfd
):
    if text:
        (tmp_path / "t.csv").write_text(text)
    code, rows = predict(photos, tmp_path / "t.csv")
    assert (code, rows) == (2, None)
    assert what in capfd.readouterr().err


def test_a_pattern_of_tables_is_refused_as_such(predict, photos, capfd):
    assert predict("lists/*.csv")[0] == 2
    assert "patterns are for images; name each table" in capfd.readouterr().err


def test_inputs_are_found_one_at_a_time(photos, tmp_path):
    found = find_inputs([str(photos)], recursive=True)
    next(found)
    (photos / "z.png").write_bytes(b"")
    assert [item.path.name for item in found] == ["b.png", "c.jpg"]


def test_results_are_no_inputs(predict, photos, tmp_path, monkeypatch):
    monkeypatch.chdir(photos)
    args = [".", "--output", ".", "--save_masks", "--save_overlays"]
    assert main(args) == 3
    assert main([*args, "--resume"]) == 3, "b.png failed before"
    assert names(read_csv("predictions.csv")[1]) == ["a.png", "b.png", "c.jpg"]
    assert main(["masks/a.png", "--output", "other"]) == 0, "one that is named is an input"


# --- names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["=1+1.png", "+a.png", "-a.png", "@a.png", "a,b.png", 'q"q.png', "l\nl.png", "r\rr.png"]
)
def test_a_name_is_never_a_formula_and_comes_back(predict, photos, name, tmp_path):
    shutil.move(photos / "a.png", photos / name)
    code, rows = predict(photos)
    assert code == 3
    assert sorted(names(rows)) == sorted([name, "b.png", "c.jpg"])
    with (tmp_path / "predictions" / "predictions.csv").open(newline="") as file:
        raw = [row[0] for row in csv.reader(file)]
    assert not [cell for cell in raw if cell.startswith(("=", "+", "-", "@"))]
    assert predict(photos, "--resume")[1] == rows, "found again when going on"


@pytest.mark.parametrize("raw", [b"mole\xff.png", b"\xe9\xe8.png"])
def test_a_name_with_broken_bytes_has_its_row(predict, photos, raw):
    (photos / "b.png").unlink()
    (photos / "a.png").rename(photos / os.fsdecode(raw))
    code, rows = predict(photos, "--save_masks", "--save_overlays")
    assert code == 0
    assert len(rows) == 2
    assert predict(photos, "--resume")[1] == rows


def test_flags_may_follow_a_name_that_begins_with_a_dash(predict, photos, monkeypatch):
    monkeypatch.chdir(photos)
    shutil.move("a.png", "-a.png")
    assert main(["./-a.png", "--output", "out"]) == 0


# --- images -------------------------------------------------------------------------------------


def test_masks_and_overlays_are_written_at_the_original_size(predict, photos, tmp_path):
    _, rows = predict(photos, "--save_masks", "--save_overlays")
    out = tmp_path / "predictions"
    assert [row["mask"] for row in rows] == ["masks/a.png", "", "masks/c.png"]
    assert [row["overlay"] for row in rows] == ["overlays/a.jpg", "", "overlays/c.jpg"]
    mask = read_mask(out / "masks" / "a.png", shape=(96, 128))
    assert mask.mean() == pytest.approx(float(rows[0]["area_fraction"]), abs=1e-6)
    assert read_image(out / "overlays" / "c.jpg").shape[0] >= 96
    assert sorted(item.name for item in out.iterdir()) == [
        "masks", "overlays", "predictions.csv", "predictions.settings.json"
    ]  # fmt: skip


def test_images_of_one_name_get_pictures_of_their_own(predict, photos, tmp_path):
    (photos / "deep").mkdir()
    shutil.copy(photos / "c.jpg", photos / "deep" / "a.png")
    shutil.copy(photos / "c.jpg", photos / "a.jpg")
    _, rows = predict(photos, "--save_masks")
    masks = [row["mask"] for row in rows if row["mask"]]
    assert len(set(masks)) == len(masks) == 4
    for row in rows:
        if row["mask"]:
            mask = read_mask(tmp_path / "predictions" / row["mask"])
            assert mask.mean() == pytest.approx(float(row["area_fraction"]), abs=1e-6)


def test_pictures_of_somebody_else_are_not_touched(predict, photos, tmp_path):
    masks = tmp_path / "predictions" / "masks"
    masks.mkdir(parents=True)
    (masks / "a.png").write_bytes(b"mine")
    _, rows = predict(photos, "--save_masks")
    assert rows[0]["mask"] == "masks/a_2.png"
    assert (masks / "a.png").read_bytes() == b"mine"
    predict(photos, "--overwrite", "--save_masks")
    assert (masks / "a.png").read_bytes() == b"mine"


def test_a_photograph_is_never_changed(predict, photos):
    before = {path.name: path.read_bytes() for path in photos.iterdir()}
    predict(photos, "--save_masks", "--save_overlays", "--tta", "dihedral")
    assert {path.name: path.read_bytes() for path in photos.iterdir()} == before


def test_a_photograph_that_vanishes_after_its_prediction_costs_its_own_row_only(
    predict, photos, monkeypatch
):
    predicted = Cascade.predict_iter

    def vanishing(self, sources, **options):
        for result in predicted(self, sources, **options):
            if result.name == "a.png":
                (photos / "a.png").unlink()
            yield result

    monkeypatch.setattr(Cascade, "predict_iter", vanishing)
    code, rows = predict(photos, "--save_overlays")
    assert code == 3
    assert [bool(row["error"]) for row in rows] == [True, True, False]


# --- going on and starting anew -------------------------------------------------------------------


def test_an_earlier_run_is_not_touched_unless_that_is_said(predict, photos, capfd):
    _, before = predict(photos)
    code, after = predict(photos / "a.png")
    assert (code, after) == (2, before)
    message = capfd.readouterr().err
    assert all(flag in message for flag in ("--resume", "--overwrite", "--output"))


def test_resuming_predicts_only_what_has_no_row(predict, photos, fake_segmenter, capsys):
    _, first = predict(photos / "a.png", photos / "b.png")
    fake_segmenter.batches.clear()
    code, rows = predict(photos, "--resume")
    assert code == 3
    assert rows[:2] == first
    assert names(rows) == ["a.png", "b.png", "c.jpg"]
    assert sum(fake_segmenter.batches) == 1
    assert "1 rows, 0 failed, 2 kept from before, 1 of them failed" in capsys.readouterr().out


@pytest.mark.parametrize("flag", ["--resume", "--overwrite"])
def test_two_runs_never_write_one_table(predict, photos, tmp_path, capfd, flag):
    fcntl = pytest.importorskip("fcntl")
    _, before = predict(photos / "a.png")
    with (tmp_path / "predictions" / "predictions.csv").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert predict(photos, flag) == (2, before)
    assert "another run is writing this file" in capfd.readouterr().err
    assert predict(photos, flag)[0] == 3


def test_a_run_refuses_a_table_that_another_one_began_meanwhile(
    predict, photos, fake_segmenter, monkeypatch, tmp_path
):
    fcntl = pytest.importorskip("fcntl")
    path = tmp_path / "predictions" / "predictions.csv"
    path.parent.mkdir()

    def load(*_, **__):
        file = stack.enter_context(path.open("a"))
        fcntl.flock(file, fcntl.LOCK_EX)
        return loaded(*_, **__)

    with contextlib.ExitStack() as stack:
        loaded = predict_module.load_cascade
        monkeypatch.setattr(predict_module, "load_cascade", load)
        assert main([str(photos)]) == 2
        assert path.read_bytes() == b""


def test_a_run_cut_anywhere_can_be_resumed_to_the_same_table(predict, photos, tmp_path):
    predict(photos)
    table = tmp_path / "predictions" / "predictions.csv"
    whole = table.read_bytes()
    for length in sorted({0, 3, *range(10, len(whole), 97), len(whole) - 1, len(whole)}):
        table.write_bytes(whole[:length])
        predict(photos, "--resume")
        assert table.read_bytes() == whole, f"cut after {length} bytes"


def test_overwriting_replaces_rows_and_pictures(predict, photos, tmp_path):
    predict(photos, "--save_masks", "--save_overlays")
    _, rows = predict(photos / "a.png", "--save_masks", "--overwrite")
    assert names(rows) == ["a.png"]
    assert rows[0]["mask"] == "masks/a.png"
    out = tmp_path / "predictions"
    left = sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file())
    assert left == ["masks/a.png", "predictions.csv", "predictions.settings.json"]


def test_overwriting_removes_nothing_outside_its_folder(predict, photos, tmp_path):
    predict(photos / "a.png", "--save_masks")
    table = tmp_path / "predictions" / "predictions.csv"
    mine = tmp_path / "mine.png"
    mine.write_bytes(b"mine")
    table.write_text(table.read_text().replace("masks/a.png", "../mine.png"))
    predict(photos / "a.png", "--overwrite")
    assert mine.read_bytes() == b"mine"


def test_a_model_that_cannot_be_read_costs_no_earlier_result(
    predict, photos, monkeypatch, tmp_path
):
    _, before = predict(photos, "--save_masks")

    def missing(path, **_):
        raise ModelFileError(f"{path}: there is no such file")

    monkeypatch.setattr(Cascade, "load", missing)
    code, after = predict(photos, "--overwrite")
    assert (code, after) == (2, before)
    assert (tmp_path / "predictions" / "masks" / "a.png").exists()


def test_a_table_of_another_kind_is_not_gone_on_with(predict, photos, tmp_path, capfd):
    (tmp_path / "predictions").mkdir()
    table = tmp_path / "predictions" / "predictions.csv"
    table.write_text("name,score\na.png,0.5\n")
    assert predict(photos, "--resume")[0] == 2
    assert table.read_text() == "name,score\na.png,0.5\n"
    assert "cannot be continued; it lacks the columns" in capfd.readouterr().err


def test_an_interrupted_run_keeps_its_rows_and_ends_with_130(predict, photos, monkeypatch):
    predicted = Cascade.predict_iter

    def interrupted(self, sources, **options):
        for result in predicted(self, sources, **options):
            if result.name == "c.jpg":
                raise KeyboardInterrupt
            yield result

    monkeypatch.setattr(Cascade, "predict_iter", interrupted)
    code, rows = predict(photos)
    assert code == 130
    assert names(rows) == ["a.png", "b.png"]
    monkeypatch.undo()


def test_an_output_that_cannot_be_written_is_one_error(predict, photos, tmp_path, capfd):
    (tmp_path / "taken").write_text("a file")
    assert predict(photos, "--output", tmp_path / "taken")[0] == 2
    assert "taken" in capfd.readouterr().err


@pytest.mark.parametrize(
    "args",
    [
        ["--cutoff", "1.5"],
        ["--coverage", "0"],
        ["--coverage", "1.1"],
        ["--max_megapixels", "0"],
        ["--max_megapixels", "-1"],
    ],
)
def test_values_that_make_no_sense_are_refused(predict, photos, args):
    code, rows = predict(photos, *args)
    assert (code, rows) == (2, None)


def test_the_console_command_reaches_it(loads, photos, tmp_path):
    assert console(["predict", str(photos / "a.png"), "--output", str(tmp_path / "out")]) == 0
    assert len(loads) == 1


MEASURED = columns(Measurements)


# --- measurements ---------------------------------------------------------------------------------


def test_a_row_holds_the_measurements_of_the_lesion(predict, photos, fake_cascade, tmp_path):
    image = np.full((64, 64, 3), 230, np.uint8)
    image[:, ::2] = 240
    Image.fromarray(image).save(tmp_path / "plain.png")
    scale = ("--pixels_per_millimetre", "12.5")
    code, (row, plain) = predict(photos / "a.png", tmp_path / "plain.png", *scale)
    assert code == 0
    (expected,) = fake_cascade(photos / "a.png", pixels_per_millimetre=12.5)
    for name in MEASURED:
        assert float(row[name]) == pytest.approx(getattr(expected.measurements, name)), name
        assert plain[name] == ""


def test_without_a_scale_only_the_millimetres_are_empty(predict, photos):
    _, (row,) = predict(photos / "a.png")
    assert [name for name in MEASURED if not row[name]] == ["diameter_millimetres"]


@pytest.mark.parametrize("scale", ["0", "-2"])
def test_a_scale_that_makes_no_sense_costs_nothing(predict, photos, loads, scale, capfd):
    code, rows = predict(photos, f"--pixels_per_millimetre={scale}")
    assert (code, rows, loads) == (2, None, [])
    assert "pixels_per_millimetre" in capfd.readouterr().err


@pytest.mark.parametrize(
    "other", [["--model", "fast"], ["--cutoff", "0.3"], ["--tta", "flips"],
              ["--max_megapixels", "3"]],
)  # fmt: skip
def test_a_run_goes_on_only_with_its_own_model_and_settings(predict, photos, other, capfd):
    _, first = predict(photos / "a.png")
    code, rows = predict(photos / "a.png", photos / "c.jpg", *other, "--resume")
    assert (code, rows) == (2, first)
    name = "model_sha256" if other[0] == "--model" else other[0][2:]
    assert f"made in another way: {name} was" in capfd.readouterr().err
    code, rows = predict(photos / "a.png", photos / "c.jpg", *other, "--overwrite")
    assert (code, len(rows)) == (0, 2)
    assert predict(photos, *other, "--resume")[0] == 3


def test_a_table_without_its_settings_goes_on_with_a_warning(predict, photos, tmp_path, caplog):
    predict(photos / "a.png")
    (tmp_path / "predictions" / "predictions.settings.json").unlink()
    code, rows = predict(photos / "a.png", photos / "c.jpg", "--resume")
    assert (code, len(rows)) == (0, 2)
    assert "nothing says whether" in caplog.text


@pytest.mark.parametrize(
    ("before", "after", "code"),
    [((), ("0.3",), 2), (("0.3",), (), 2), (("0.3",), ("0.31",), 2), (("0.3",), ("0.3",), 0)],
)
def test_a_run_goes_on_only_with_its_own_scale(predict, photos, before, after, code, capfd):
    def scale(values):
        return [f"--pixels_per_millimetre={value}" for value in values]

    _, first = predict(photos / "a.png", *scale(before))
    found, rows = predict(photos / "a.png", photos / "c.jpg", *scale(after), "--resume")
    assert found == code
    assert rows[:1] == first
    assert len(rows) == (1 if code else 2)
    assert ("pixels_per_millimetre was" in capfd.readouterr().err) is bool(code)
    assert predict(photos / "a.png", *scale(after), "--overwrite")[0] == 0


def test_a_table_of_somebody_else_is_replaced_only_where_that_is_asked_for(
    predict, photos, tmp_path, capfd
):
    table = tmp_path / "predictions" / "predictions.csv"
    table.parent.mkdir()
    table.write_text("name,name\nx,y\n", encoding="utf-8")
    code = main([str(photos / "a.png"), "--output", str(table.parent), "--resume"])
    assert code == 2
    assert "predictions.csv" in capfd.readouterr().err
    assert table.read_text(encoding="utf-8") == "name,name\nx,y\n"
    code, rows = predict(photos / "a.png", "--overwrite")
    assert code == 0
    assert names(rows) == ["a.png"]
