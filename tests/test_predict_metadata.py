"""``cascade predict`` where age, sex and site are known."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_metadata import FUSION

from cascade.command_line.metadata import check_cluster_metadata
from cascade.commands.prediction.predict import main
from cascade.data.synthetic import draw_lesion
from cascade.data.tables import read_csv
from cascade.errors import ConfigError
from cascade.models.named import model_path
from cascade.pipeline import Cascade
from cascade.pipeline.rows import COLUMNS
from cascade.reliability import Metadata, Safeguards

ROWS = [
    ("0.png", "70", "male", "back"),
    ("1.png", "", "", ""),
    ("2.png", "NA", "F", "acral"),
]

FUSED = str(model_path("fast"))


@pytest.fixture
def folder(tmp_path, monkeypatch, fake_segmenter, fake_classifier):
    """Three drawn images and ``table.csv``, and a command with a cascade of numpy stages."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images_all").mkdir()
    for number in range(len(ROWS)):
        drawn = draw_lesion(
            np.random.default_rng(number), malignant=number == 0, shape=(72, 80), tone=0.05
        )
        Image.fromarray(drawn.image).save(tmp_path / "images_all" / f"{number}.png")
    write_table(tmp_path / "table.csv", ROWS)

    def load(path, *, device, runtime, threads, precision, **use):
        safeguards = Safeguards(metadata=FUSION if path == FUSED else None)
        return Cascade(fake_segmenter, fake_classifier, safeguards=safeguards, **use)

    monkeypatch.setattr(Cascade, "load", load)
    return tmp_path


def write_table(path, rows):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("name", "age", "sex", "site"), *rows])


def predicted(*args):
    code = main([str(arg) for arg in args])
    return code, read_csv("predictions/predictions.csv")[1]


def used(rows):
    return [row["metadata_used"] for row in rows]


def test_columns_of_the_table_move_its_rows(folder):
    code, rows = predicted("table.csv", "--model", "fast")
    assert code == 0
    assert list(rows[0]) == list(COLUMNS)
    assert used(rows) == ["age 70; sex male; site posterior torso", "", "sex female"]
    for row, (_, *known) in zip(rows, ROWS, strict=True):
        expected = FUSION.probability(float(row["image_probability"]), Metadata(*known))
        assert float(row["probability_malignant"]) == pytest.approx(expected, rel=1e-6)
    assert rows[1]["probability_malignant"] == rows[1]["image_probability"]


def test_rows_without_metadata_are_those_of_a_cascade_without_fusion(folder):
    _, plain = predicted("table.csv")
    _, fused = predicted("images_all", "--model", "fast", "--overwrite")
    for one, other in zip(plain, fused, strict=True):
        assert {**one, "path": ""} == {**other, "path": ""}
    assert used(plain) == ["", "", ""], "columns of the table are nothing to it"


def test_flags_hold_for_all_images_and_cells_count_before_them(folder):
    flags = ("--model", "fast", "--age", "30", "--sex", "female", "--site", "Scalp")
    _, rows = predicted("table.csv", "images_all/1.png", *flags)
    of_all = "age 30; sex female; site head/neck"
    assert used(rows) == [
        "age 70; sex male; site posterior torso", of_all, "age 30; sex female", of_all
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--age", "-3"), "--age is '-3'; give years from 0 to 120"),
        (("--age", "abc"), "--age is 'abc'"),
        (("--site", "bakc"), "not known; did you mean back"),
        (("--sex", "x"), "--sex is 'x'; choose from female, male"),
    ],
)
def test_a_wrong_flag_is_named_before_anything_is_written(folder, capsys, flags, said):
    assert main(["images_all", "--model", "fast", *flags]) == 2
    assert said in capsys.readouterr().err
    assert not (folder / "predictions").exists()


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (("1.png", "-3", "", ""), "table.csv: row of 1.png: age is '-3'; give years"),
        (("1.png", "abc", "", ""), "row of 1.png: age is 'abc'"),
        (("1.png", "", "", "elbow pit"), "row of 1.png: site is 'elbow pit'; choose from head"),
        (("0.png", "71", "male", "back"), "0.png has another age, sex or site in another row"),
    ],
)  # fmt: skip
def test_a_wrong_cell_is_named_before_anything_is_written(folder, capsys, row, said):
    text = "\n".join(["path,age,sex,site", *(f"images_all/{','.join(r)}" for r in (*ROWS, row))])
    (folder / "table.csv").write_text(text)
    assert main(["table.csv", "--model", "fast"]) == 2
    assert said in capsys.readouterr().err
    assert not (folder / "predictions").exists()
    assert main(["table.csv"]) == 0, "a cascade without fusion does not look at these columns"


def test_flags_that_the_cascade_cannot_use_are_refused(folder, capsys):
    assert main(["images_all", "--age", "50"]) == 2
    assert "no metadata fusion, so it cannot use age" in capsys.readouterr().err


def test_going_on_with_other_metadata_is_refused(folder, capsys):
    flags = ("images_all", "--model", "fast", "--age", "50")
    predicted(*flags)
    assert main([*flags[:-1], "60", "--resume"]) == 2
    assert "0.png was predicted with age 50 known beside the image, now it is age 60" in (
        capsys.readouterr().err
    )
    assert main([*flags, "--resume"]) == 0
    assert main([*flags[:-1], "60", "--overwrite"]) == 0


@pytest.fixture
def planned(folder, monkeypatch):
    """Arguments of a run on a cluster, for a model of which only the description is read."""

    def arguments(fused, **flags):
        document = {"stages": {"safeguards": {"metadata": FUSION.to_dict()} if fused else {}}}
        monkeypatch.setattr("cascade.models.runtimes.model_document", lambda _: document)
        given = {"inputs": ["table.csv", "s3://bucket/a.csv"], "age": None, "sex": None}
        return {"site": None, **given, **flags}

    class Arguments(dict):
        inputs = property(lambda self: self["inputs"])

    return lambda fused, **flags: Arguments(arguments(fused, **flags))


def test_a_run_on_a_cluster_checks_its_flags_before_it_begins(planned):
    with pytest.raises(ConfigError, match="cannot use site"):
        check_cluster_metadata(planned(False, site="back"), Path("model"))
    with pytest.raises(ConfigError, match="--site is 'moon'"):
        check_cluster_metadata(planned(True, site="moon"), Path("model"))


def test_a_run_on_a_cluster_says_that_it_does_not_use_columns(planned, caplog):
    check_cluster_metadata(planned(False), Path("model"))
    assert not caplog.records, "nothing is lost with a model that cannot use them"
    check_cluster_metadata(planned(True, age="50"), Path("model"))
    assert "does not use the columns age, sex and site" in caplog.text
