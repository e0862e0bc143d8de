"""``cascade explain``: a row and an image for each input, as ``cascade predict`` takes them."""

from __future__ import annotations

import shutil
import sys

import numpy as np
import pytest
from conftest import FakeClassifier, MappedClassifier

from cascade.command_line.main import main as console
from cascade.commands.prediction.explain import COLUMNS, main
from cascade.data.tables import read_csv
from cascade.explain import explain, overlay_heat
from cascade.imaging import read_image
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


def test_without_broken_inputs_the_exit_code_is_0(run, photos):
    assert run(photos / "a.png")[0] == 0


@pytest.mark.parametrize("tta", ["none", "flips"])
@pytest.mark.parametrize("target", ["malignant", "benign"])
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
    assert "no heat: no place in the crop" in row["warnings"]
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
        photos / "a.png", "--model", "m", "-d", "cpu", "--runtime", "onnx", "--cutoff", "0.9",
        "--max_megapixels", "0.005",
    )  # fmt: skip
    (asked,) = loads
    wanted = {"path": "m", "device": "cpu", "runtime": "onnx", "cutoff": 0.9}
    assert {name: asked[name] for name in wanted} == wanted
    assert asked["limits"].max_pixels == 5000


def test_images_over_the_limit_have_an_error_row(run, photos):
    code, rows = run(photos / "a.png", "--max_megapixels", "0.005")
    assert code == 3
    assert "too large" in rows[0]["error"]


def test_tables_folders_and_patterns_are_inputs(run, photos, dataset_folder):
    _, rows = run(dataset_folder / "test_data.csv", str(photos / "*.jpg"))
    assert len(rows) == 5
    assert names(rows)[-1] == "c.jpg"
    assert not [row["error"] for row in rows if row["error"]]


def test_results_are_no_inputs(run, photos, monkeypatch):
    monkeypatch.chdir(photos)
    args = [".", "--output", "."]
    assert main(args) == 3
    assert main([*args, "--resume"]) == 0
    assert names(read_csv("explanations.csv")[1]) == ["a.png", "b.png", "c.jpg"]


def test_a_photograph_is_never_changed(run, photos):
    before = {path.name: path.read_bytes() for path in photos.iterdir()}
    run(photos)
    assert {path.name: path.read_bytes() for path in photos.iterdir()} == before


def test_going_on_explains_only_what_has_no_row(run, photos, capsys):
    _, first = run(photos / "a.png")
    assert run(photos)[0] == 2, "not without a word"
    code, rows = run(photos, "--resume")
    assert code == 3
    assert rows[0] == first[0]
    assert names(rows) == ["a.png", "b.png", "c.jpg"]
    assert "2 rows, 1 failed, 1 kept from before" in capsys.readouterr().out


def test_a_run_goes_on_only_for_its_own_class(run, photos, capfd):
    _, first = run(photos / "a.png")
    code, rows = run(photos, "--resume", "--target", "benign")
    assert (code, rows) == (2, first)
    assert "a.png was explained for malignant, now it is benign" in capfd.readouterr().err
    code, rows = run(photos / "a.png", "--overwrite", "--target", "benign")
    assert code == 0
    assert [row["target"] for row in rows] == ["benign"]


def test_overwriting_replaces_rows_and_pictures(run, photos, tmp_path):
    run(photos)
    _, rows = run(photos / "a.png", "--overwrite")
    assert names(rows) == ["a.png"]
    out = tmp_path / "explanations"
    left = sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file())
    assert left == ["explanations.csv", "overlays/a.png"]


def test_what_cannot_be_explained_costs_no_earlier_result(
    run, photos, fake_segmenter, monkeypatch, capfd
):
    _, before = run(photos)
    monkeypatch.setattr(Cascade, "load", lambda *_, **__: Cascade(fake_segmenter, FakeClassifier()))
    code, after = run(photos, "--overwrite")
    assert (code, after) == (2, before)
    assert "not a FakeClassifier" in capfd.readouterr().err


def test_a_stage_that_was_exported_without_maps_is_refused_before_anything_is_removed(
    run, photos, classifier, capfd
):
    _, before = run(photos)
    classifier.has_activation_map = False
    code, after = run(photos, "--overwrite")
    assert (code, after) == (2, before)
    assert "with the torch runtime" in capfd.readouterr().err


def test_a_torch_network_without_the_library_ends_with_the_command_to_install_it(
    photos, tmp_path, fake_segmenter, monkeypatch, capfd
):
    from cascade.config import ClassifierConfig
    from cascade.models.classifier import Classifier

    network = Classifier.build(ClassifierConfig(architecture="timm/test_resnet", size=32))
    monkeypatch.setattr(Cascade, "load", lambda *_, **__: Cascade(fake_segmenter, network))
    monkeypatch.setitem(sys.modules, "pytorch_grad_cam", None)
    assert main([str(photos), "--output", str(tmp_path / "out")]) == 2
    error = capfd.readouterr().err
    assert "pip install 'cascade[explain]'" in error
    assert "Traceback" not in error
    assert not (tmp_path / "out").exists()


def test_the_console_command_reaches_it(loads, photos, tmp_path):
    assert console(["explain", str(photos / "a.png"), "--output", str(tmp_path / "out")]) == 0
    assert len(loads) == 1
