"""``cascade predict TABLE`` where the table knows patients."""

from __future__ import annotations

import csv
import math

import numpy as np
import pytest
from PIL import Image
from test_patients import by_hand

from cascade.commands.prediction.predict import main
from cascade.data.synthetic import draw_lesion
from cascade.data.tables import read_csv
from cascade.errors import ConfigError
from cascade.lesion.patient import FEATURES
from cascade.pipeline import Cascade
from cascade.pipeline.patients import PATIENT_COLUMNS
from cascade.pipeline.rows import COLUMNS

PATIENTS = ["A", "A", "B", "A", "B", "A", "", "A"]
"""Of the eight images; the sixth cannot be read."""


@pytest.fixture
def folder(tmp_path, monkeypatch, commanded_cascade, fake_segmenter, fake_classifier):
    """Eight drawn images and ``table.csv``, and a command with a cascade of numpy stages."""
    commanded_cascade(fake_segmenter, fake_classifier)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images_all").mkdir()
    for number in range(len(PATIENTS)):
        drawn = draw_lesion(
            np.random.default_rng(number), malignant=number == 3, shape=(72, 80), tone=0.05
        )
        Image.fromarray(drawn.image).save(tmp_path / "images_all" / f"{number}.png")
    (tmp_path / "images_all" / "5.png").write_bytes(b"no image")
    write_table(tmp_path / "table.csv")
    return tmp_path


def write_table(path, *, patients=PATIENTS, lesions=None):
    lesions = lesions or [""] * len(patients)
    lines = [f"{n}.png,{p},{name}\n" for n, (p, name) in enumerate(zip(patients, lesions))]  # noqa: B905
    path.write_text("name,patient_id,lesion_id\n" + "".join(lines))


def predicted(*args):
    code = main([str(arg) for arg in args])
    return code, read_csv("predictions/predictions.csv")[1]


def scores(rows, patient):
    return [row["ugly_duckling_score"] for row in rows if row["patient_id"] == patient]


def features(rows):
    return [[float(row[name]) for name in FEATURES] for row in rows]


def test_each_row_has_its_context(folder, capsys):
    code, rows = predicted("table.csv")
    assert code == 3, "one image is broken"
    assert list(rows[0]) == [*COLUMNS, *PATIENT_COLUMNS]
    assert [row["patient_id"] for row in rows] == PATIENTS
    of_a = [row for row in rows if row["patient_id"] == "A" and not row["error"]]
    expected = by_hand(features(of_a))
    assert [float(row["ugly_duckling_score"]) for row in of_a] == pytest.approx(expected, rel=1e-4)
    chances = [float(row["probability_malignant"]) for row in of_a]
    assert [int(row["patient_rank"]) for row in of_a] == [
        1 + sum(other > chance for other in chances) for chance in chances
    ]
    assert {row["patient_lesions"] for row in of_a} == {"4"}
    assert scores(rows, "B") == ["nan", "nan"]
    assert "1 failed" in (said := capsys.readouterr().out)
    assert "2 patients; 4 of 8 rows have an ugly-duckling score" in said


def test_failed_rows_and_rows_without_a_patient_have_no_context(folder):
    _, rows = predicted("table.csv")
    failed, alone = rows[5], rows[6]
    assert failed["error"]
    assert (failed["patient_rank"], failed["ugly_duckling_score"]) == ("", "nan")
    assert alone["label"]
    assert [alone[name] for name in PATIENT_COLUMNS] == [""] * len(PATIENT_COLUMNS)


def test_other_columns_are_those_of_a_run_without_patients(folder):
    _, rows = predicted("table.csv")
    _, plain = predicted(*(f"images_all/{n}.png" for n in range(len(PATIENTS))), "--overwrite")
    assert list(plain[0]) == list(COLUMNS), "no patient, no column"
    same = [{name: row[name] for name in COLUMNS if name != "path"} for row in rows]
    assert same == [{name: row[name] for name in COLUMNS if name != "path"} for row in plain]


@pytest.mark.parametrize("patients", [[""] * 8, ["NA"] * 8, ["nan", "unknown"] * 4])
def test_a_table_without_any_patient_is_a_plain_one(folder, patients):
    write_table(folder / "table.csv", patients=patients)
    assert list(predicted("table.csv")[1][0]) == list(COLUMNS)


def test_an_interrupted_run_goes_on_to_the_same_table(folder, monkeypatch):
    _, whole = predicted("table.csv")
    predict_iter = Cascade.predict_iter

    def interrupted(self, sources, **options):
        for result in predict_iter(self, sources, **options):
            if result.name == "4.png":
                raise KeyboardInterrupt
            yield result

    with monkeypatch.context() as patch:
        patch.setattr(Cascade, "predict_iter", interrupted)
        code, part = predicted("table.csv", "--overwrite")
    assert code == 130
    assert len(part) == 4
    assert {row["ugly_duckling_score"] for row in part} == {""}, "not compared yet"
    assert predicted("table.csv", "--resume") == (3, whole)
    assert predicted("table.csv", "--resume") == (3, whole), "comparing again changes nothing"


def test_images_of_one_lesion_count_once(folder):
    write_table(folder / "table.csv", patients=["A"] * 8, lesions=["x", "x", *"abcdef"])
    _, rows = predicted("table.csv")
    assert rows[0]["ugly_duckling_score"] == rows[1]["ugly_duckling_score"]
    assert rows[0]["patient_rank"] == rows[1]["patient_rank"]
    assert {row["patient_lesions"] for row in rows} == {"6"}
    known = [row for row in rows if not row["error"]]
    middle = np.median(features(known[:2]), axis=0).tolist()
    expected = by_hand([middle, *features(known[2:])])
    assert float(rows[0]["ugly_duckling_score"]) == pytest.approx(expected[0], rel=1e-4)


def test_an_image_that_is_named_twice_is_one_lesion(folder):
    _, once = predicted("table.csv")
    _, twice = predicted("table.csv", "table.csv", "--overwrite")
    assert twice == [*once, *once]


def test_a_folder_beside_the_table_is_predicted_without_patients(folder):
    (folder / "more").mkdir()
    Image.new("RGB", (70, 70), (200, 160, 140)).save(folder / "more" / "x.png")
    _, rows = predicted("table.csv", "more")
    assert [row["patient_id"] for row in rows] == [*PATIENTS, ""]


def test_one_image_of_two_patients_is_an_error(folder, capfd):
    write_table(folder / "other.csv", patients=["C", *PATIENTS[1:]])
    assert main(["table.csv", "other.csv"]) == 2
    message = capfd.readouterr().err
    assert "other.csv" in message
    assert "0.png has patient_id 'C', and in another row 'A'" in message
    assert not (folder / "predictions").exists()


def test_a_table_with_patients_does_not_go_on_with_one_without(folder, capfd):
    predicted("images_all/0.png")
    assert main(["table.csv", "--resume"]) == 2
    assert "lacks the columns patient_id, lesion_id" in capfd.readouterr().err


@pytest.mark.parametrize("patient", ["=1+1", 'q"q', "a,b", "l\nl", "r\rr", "-7", "ä"])
def test_ids_come_back_as_they_were(folder, patient):
    with (folder / "table.csv").open("w", newline="", encoding="utf-8") as file:
        rows = [(f"{number}.png", patient) for number in (0, 1, 2, 3)]
        csv.writer(file).writerows([("name", "patient_id"), *rows])
    _, rows = predicted("table.csv")
    assert {row["patient_id"] for row in rows} == {patient}
    assert all(math.isfinite(float(score)) for score in scores(rows, patient))


def test_a_run_on_a_cluster_says_that_it_does_not_compare(folder, monkeypatch, caplog):
    def stop():
        raise ConfigError("stopped before the cluster")

    monkeypatch.setattr("cascade.cluster.ray_engine.require_ray", lambda: None)
    monkeypatch.setattr("cascade.cluster.ray_engine.connected", stop)
    args = ["--engine", "ray", "--output", str(folder / "rows")]
    assert main(["table.csv", *args]) == 2
    assert "--engine ray does not compare the lesions of a patient" in caplog.text
    caplog.clear()
    assert main(["images_all", *args]) == 2
    assert "does not compare" not in caplog.text
    assert "stopped before the cluster" in caplog.text


def test_going_on_takes_the_ids_of_the_table_as_it_is_now(folder):
    predicted("table.csv")
    write_table(folder / "table.csv", patients=["A"] * 8)
    _, rows = predicted("table.csv", "--resume")
    assert {row["patient_id"] for row in rows} == {"A"}
    assert predicted("table.csv", "--overwrite") == (3, rows)
