"""Heat maps in the report: which cases, which numbers, and what ``cascade evaluate`` does."""

from __future__ import annotations

import re
import sys
from dataclasses import replace

import numpy as np
import pytest
from conftest import MappedClassifier

from cascade.commands.evaluation import evaluate as command
from cascade.data.tables import read_csv, read_table
from cascade.evaluation.cases import Case
from cascade.evaluation.heat_maps import HeatImage, choose_cases, heat_section
from cascade.pipeline import Cascade


@pytest.fixture(scope="module")
def table(dataset_folder):
    return read_table(dataset_folder / "train_data.csv")


def cases_of(table, errors):
    """One case for each error: malignant ones first, then benign ones."""
    cases = []
    for number, (label, error) in enumerate(errors):
        record = replace(table[number], label=label)
        chance = 1 - error if label == "malignant" else error
        cases.append(Case(record, label="benign", probability=chance))
    return cases


def errors_of(chosen, kind):
    return [
        (case.record.label, round(abs((case.record.label == "malignant") - case.probability), 3))
        for case, of in chosen
        if of == kind
    ]


ERRORS = [("malignant", e) for e in (0.1, 0.3, 0.5, 0.95)] + [
    ("benign", e) for e in (0.01, 0.05, 0.2, 0.25, 0.9)
]


def test_half_are_the_largest_errors_and_half_are_typical_of_each_class(table):
    chosen = choose_cases(cases_of(table, ERRORS), 5)
    assert errors_of(chosen, "worst") == [("malignant", 0.95), ("benign", 0.9), ("malignant", 0.5)]
    assert errors_of(chosen, "typical") == [("malignant", 0.3), ("benign", 0.2)]


@pytest.mark.parametrize("count", [1, 2, 3, 8, 9, 50])
def test_as_many_are_chosen_as_asked_for_and_none_twice(table, count):
    chosen = choose_cases(cases_of(table, ERRORS), count)
    names = [case.record.name for case, _ in chosen]
    assert len(names) == len(set(names)) == min(count, len(ERRORS))
    assert sum(kind == "worst" for _, kind in chosen) == min((count + 1) // 2, len(ERRORS))


def test_one_class_alone_fills_the_typical_half(table):
    chosen = choose_cases(cases_of(table, [("benign", e) for e in (0.1, 0.2, 0.3, 0.9)]), 4)
    assert errors_of(chosen, "typical") == [("benign", 0.2), ("benign", 0.1)]


def test_without_classes_the_first_images_are_shown_and_abstentions_never(table):
    cases = [
        Case(replace(table[number], label=None), probability=chance)
        for number, chance in enumerate((0.5, None, 0.6, 0.7))
    ]
    chosen = choose_cases(cases, 2)
    assert [(case.record.name, kind) for case, kind in chosen] == [
        (table[0].name, "typical"),
        (table[2].name, "typical"),
    ]
    assert choose_cases([], 4) == []


def test_the_section_shows_each_map_with_its_numbers(table, tmp_path):
    drawn = []

    def draw(image):
        drawn.append(image.shape)
        empty = len(drawn) == 1
        values = (None, None, None) if empty else (0.625, 2.5, 0.9)
        return HeatImage(image, empty, *values, ("no heat: nothing",) if empty else ())

    (section,) = heat_section(tmp_path, cases_of(table, ERRORS), draw, count=4)
    assert len(drawn) == 4
    assert [path.name for path in tmp_path.iterdir()] == ["heat_maps.csv"]
    captions = [figure.caption for figure in section.figures]
    assert ["large error" in caption for caption in captions] == [True, True, False, False]
    assert ["no heat" in caption for caption in captions] == [True, False, False, False]
    _, rows = read_csv(tmp_path / "heat_maps.csv")
    assert [row["inside_fraction"] for row in rows] == ["", "0.625", "0.625", "0.625"]
    assert [row["chosen"] for row in rows] == ["worst", "worst", "typical", "typical"]
    assert rows[0]["warnings"] == "no heat: nothing"
    assert section.tables[0].rows[1][4:7] == (0.625, 2.5, 0.9)


def test_without_cases_there_is_no_section(tmp_path):
    assert heat_section(tmp_path, [], lambda image: None, count=4) == []
    assert list(tmp_path.iterdir()) == []


# --- the command ----------------------------------------------------------------------------------


@pytest.fixture
def evaluate(monkeypatch, fake_segmenter, dataset_folder, tmp_path):
    def run(*flags, classifier=None):
        cascade = Cascade(fake_segmenter, classifier or MappedClassifier())
        monkeypatch.setattr(command, "load_cascade", lambda arguments: cascade)
        return command.main(
            ["--segmenter", "s", "--classifier", "c", "--data_path", str(dataset_folder),
             "--output", str(tmp_path / "out"), *flags]
        )  # fmt: skip

    return run


def test_evaluating_puts_heat_maps_on_the_page(evaluate, tmp_path):
    assert evaluate("--explain", "3") == 0
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Heat maps of the classifier" in page
    assert page.count("data:image/jpeg") >= 3
    _, rows = read_csv(tmp_path / "out" / "heat_maps.csv")
    assert len(rows) == 3
    shares = [float(row["inside_fraction"]) for row in rows if row["inside_fraction"]]
    assert shares
    assert all(0 <= share <= 1 for share in shares)
    assert all(re.search(rf"<th scope=\"row\">{row['name']}</th>", page) for row in rows)


def test_views_of_the_evaluation_are_those_of_the_heat(evaluate, tmp_path):
    corner = np.full((2, 2), -1.0)
    corner[0, 0] = 5.0
    values = {}
    for tta in ("none", "dihedral"):
        classifier = MappedClassifier(fixed=corner)
        assert evaluate("--explain", "1", "--tta", tta, "--overwrite", classifier=classifier) == 0
        (row,) = read_csv(tmp_path / "out" / "heat_maps.csv")[1]
        values[tta] = row["mean_ratio"]
    assert values["none"] != values["dihedral"]


def test_without_the_flag_nothing_is_explained(evaluate, tmp_path):
    assert evaluate() == 0
    assert "Heat maps of the classifier" not in (tmp_path / "out" / "report.html").read_text()
    assert not list((tmp_path / "out").glob("heat_maps*"))


def test_what_is_missing_is_said_before_anything_is_evaluated(
    evaluate, tmp_path, monkeypatch, capfd
):
    import torch
    from contracts import noise

    from cascade.config import ClassifierConfig
    from cascade.models.classifier import Classifier

    torch.manual_seed(0)
    classifier = Classifier.build(ClassifierConfig(architecture="timm/test_resnet", size=32))
    assert classifier.predict_proba(noise(1, 32)).shape == (1, 2)
    monkeypatch.setitem(sys.modules, "pytorch_grad_cam", None)
    assert evaluate("--explain", "2", classifier=classifier) == 2
    assert "pip install 'cascade[explain]'" in capfd.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_negative_number_is_refused(evaluate, capfd):
    assert evaluate("--explain", "-1") == 2
    assert "--explain -1" in capfd.readouterr().err
