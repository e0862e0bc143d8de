"""``cascade explain``: a row and an image for each input, as ``cascade predict`` takes them."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from conftest import MappedClassifier

from cascade.commands.prediction.explain import COLUMNS, main
from cascade.data.tables import read_csv
from cascade.explain import explain, overlay_heat
from cascade.imaging import read_image
from cascade.models.named import model_path
from cascade.pipeline import Cascade


@pytest.fixture
def classifier():
    """A stage with maps of its own; a test may change it."""
    return MappedClassifier()


@pytest.fixture
def loads(commanded_cascade, fake_segmenter, classifier):
    """What the command asked for; it gets a cascade with maps."""
    return commanded_cascade(fake_segmenter, classifier)


@pytest.fixture
def run(loads, tmp_path, monkeypatch):
    """Run the command in an empty folder; gives the exit code and the rows."""
    monkeypatch.chdir(tmp_path)

    def command(*args):
        code = main([str(arg) for arg in args])
        table = tmp_path / "explanations" / "explanations.csv"
        return code, read_csv(table)[1] if table.exists() else None

    return command


def names(rows):
    return [row["name"] for row in rows]


def test_each_input_has_one_row_and_a_broken_one_says_why(run, photos, capsys):
    code, rows = run(photos, "none.png")
    assert code == 3
    assert names(rows) == ["a.png", "b.png", "c.jpg", "none.png"]
    assert [bool(row["error"]) for row in rows] == [False, True, False, True]
    assert [row["overlay"] for row in rows] == ["overlays/a.png", "", "overlays/c.png", ""]
    assert "does not exist" in rows[3]["error"]
    assert "4 rows, 2 failed" in capsys.readouterr().out


@pytest.mark.parametrize(("target", "tta"), [("malignant", "none"), ("benign", "flips")])
def test_a_row_and_its_picture_are_what_the_library_says(
    run, photos, tmp_path, fake_segmenter, classifier, target, tta
):
    _, (row,) = run(photos / "a.png", "--target", target, "--tta", tta)
    cascade = Cascade(fake_segmenter, classifier)
    image = read_image(photos / "a.png").pixels
    (prediction,) = cascade([image], tta=tta)
    expected = explain(cascade, image, prediction, target=target, tta=tta)
    assert list(row) == list(COLUMNS)
    assert row["path"] == str(photos / "a.png")
    assert (row["label"], row["target"]) == (prediction.label, target)
    chance = prediction.probabilities["malignant"]
    assert float(row["probability_malignant"]) == pytest.approx(chance, abs=1e-8)
    assert row["has_heat"] == "yes"
    for name in ("inside_fraction", "mean_ratio", "turn_agreement"):
        assert float(row[name]) == pytest.approx(getattr(expected, name), rel=1e-6), name
    assert row["warnings"] == "; ".join((*expected.warnings, *prediction.warnings))
    assert row["error"] == ""
    np.testing.assert_array_equal(
        read_image(tmp_path / "explanations" / row["overlay"]).pixels,
        overlay_heat(image, expected, prediction.mask),
    )


def test_no_heat_is_said_in_words(run, photos, classifier):
    classifier.fixed = np.full((3, 3), -1.0)
    code, (row,) = run(photos / "a.png")
    assert code == 0
    assert row["has_heat"] == "no"
    assert row["inside_fraction"] == row["mean_ratio"] == ""
    assert "no heat" in row["warnings"]
    assert row["overlay"] == "overlays/a.png"


def test_images_of_one_name_get_pictures_of_their_own(run, photos, tmp_path):
    (photos / "deep").mkdir()
    shutil.copy(photos / "c.jpg", photos / "deep" / "a.png")
    shutil.copy(photos / "c.jpg", photos / "a.jpg")
    (tmp_path / "explanations" / "overlays").mkdir(parents=True)
    mine = tmp_path / "explanations" / "overlays" / "c.png"
    mine.write_bytes(b"mine")
    _, rows = run(photos)
    pictures = [row["overlay"] for row in rows if row["overlay"]]
    assert sorted(pictures) == [
        "overlays/a.png", "overlays/a_2.png", "overlays/a_3.png", "overlays/c_2.png",
    ]  # fmt: skip
    assert mine.read_bytes() == b"mine"
    assert all(read_image(tmp_path / "explanations" / name).shape == (96, 128) for name in pictures)


def test_the_model_gets_what_the_flags_say(run, photos, loads):
    run(
        photos / "a.png", "--model", "fast", "-d", "cpu", "--runtime", "onnx", "--cutoff", "0.9",
        "--max_megapixels", "0.005",
    )  # fmt: skip
    (asked,) = loads
    wanted = {"path": str(model_path("fast")), "device": "cpu", "runtime": "onnx", "cutoff": 0.9}
    assert {name: asked[name] for name in wanted} == wanted
    assert asked["limits"].max_pixels == 5000


def test_going_on_explains_only_what_has_no_row(run, photos, capsys):
    _, first = run(photos / "a.png")
    assert run(photos)[0] == 2, "not without a word"
    code, rows = run(photos, "--resume")
    assert code == 3
    assert rows[0] == first[0]
    assert names(rows) == ["a.png", "b.png", "c.jpg"]
    assert "2 rows, 1 failed, 1 kept from before" in capsys.readouterr().out


def test_a_run_goes_on_only_for_its_own_class(run, photos, tmp_path, capfd):
    _, first = run(photos / "a.png")
    code, rows = run(photos, "--resume", "--target", "benign")
    assert (code, rows) == (2, first)
    assert "target was 'malignant', now it is 'benign'" in capfd.readouterr().err
    run(photos, "--overwrite")
    code, rows = run(photos / "a.png", "--overwrite", "--target", "benign")
    assert code == 0
    assert [row["target"] for row in rows] == ["benign"]
    assert [path.name for path in tmp_path.glob("explanations/overlays/*")] == ["a.png"]


def test_a_stage_that_was_exported_without_maps_is_refused_before_anything_is_removed(
    run, photos, classifier, capfd
):
    _, before = run(photos)
    classifier.has_activation_map = False
    code, after = run(photos, "--overwrite")
    assert (code, after) == (2, before)
    assert "with the torch runtime" in capfd.readouterr().err
