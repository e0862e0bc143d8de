"""The diagnoses of an evaluation: which images are scored, and what the files and pages show."""

import json
from dataclasses import replace

import numpy as np
import pytest
from tiny_export import tiny_cascade

from cascade.data.spreadsheet import read_csv
from cascade.data.tables import read_table
from cascade.evaluation.cases import Case
from cascade.evaluation.diagnosis_scores import (
    diagnosis_note,
    diagnosis_rows,
    diagnosis_scores,
    diagnosis_tables,
)
from cascade.evaluation.report import write_evaluation
from cascade.evaluation.stages import evaluate_cascade
from cascade.reliability import Diagnoses

TOLD = Diagnoses(
    ("dermatofibroma", "melanocytic nevus"), ("melanoma", "squamous cell carcinoma"),
    (0.1, 0.6, 0.2, 0.1),
)  # fmt: skip
TRUE = ("Nevus", "melanoma", "nv", "Melanoma, NOS", "df", "dermatofibroma")


@pytest.fixture(scope="module")
def records(dataset_folder):
    return read_table(dataset_folder / "train_data.csv").records[:10]


def case(record, diagnosis, chances):
    known = replace(record, attributes={"diagnosis": diagnosis}, group=record.name)
    return Case(known, diagnoses=dict(zip(TOLD.names, chances, strict=True)) if chances else {})


def test_spellings_match_and_what_cannot_be_scored_is_counted(records):
    generator = np.random.default_rng(0)
    true = (*TRUE, "", "lentigo", "lentigo", "nevus")
    cases = [
        case(record, name, generator.dirichlet(np.ones(4)).tolist() if place < 9 else None)
        for place, (record, name) in enumerate(zip(records, true, strict=True))
    ]
    scores = diagnosis_scores(cases, TOLD)
    assert scores["n"] == 6
    assert [one["n"] for one in scores["diagnoses"]] == [2, 2, 2, 0]
    assert scores["absent"] == ["squamous cell carcinoma"]
    assert (scores["without_diagnosis"], scores["abstained"]) == (1, 1)
    assert scores["other_diagnoses"] == {"lentigo": 2}
    note = diagnosis_note(scores)
    assert "Not in this table: squamous cell carcinoma." in note
    assert "Left out: 2 lentigo, 1 without a diagnosis, 1 without an answer." in note
    assert diagnosis_rows(scores)[3][:3] == ("squamous cell carcinoma", "0", "–")
    json.dumps(scores, allow_nan=False)


def test_what_is_named_follows_the_rule_for_equal_frequencies(records):
    cases = [
        case(records[0], "melanoma", (0.0, 0.6, 0.4, 0.0)),  # 1.0 against 2.0
        case(records[1], "nevus", (0.05, 0.8, 0.15, 0.0)),  # 0.5, 1.33, 0.75
    ]
    scores = diagnosis_scores(cases, TOLD)
    assert scores["balanced_accuracy"] == 1.0
    assert scores["most_probable_accuracy"] == 0.5
    assert scores["confusion_matrix"][1][1] == scores["confusion_matrix"][2][2] == 1


def test_nothing_to_score_is_none(records):
    assert diagnosis_scores([case(records[0], "nevus", (1.0, 0, 0, 0))], None) is None
    assert diagnosis_scores([case(records[0], "", (1.0, 0, 0, 0))], TOLD) is None
    assert diagnosis_scores([case(records[0], "nevus", None)], TOLD) is None


def test_an_evaluation_writes_them_into_all_its_files(records, dataset_folder, tmp_path):
    cascade = tiny_cascade()
    cascade.classifier.set_diagnoses(TOLD)
    try:
        table = read_table(dataset_folder / "train_data.csv").subset(
            record.name for record in records[:6]
        )
        named = [
            replace(record, attributes={"diagnosis": name})
            for record, name in zip(table, TRUE, strict=True)
        ]
        evaluation = evaluate_cascade(cascade, replace(table, records=tuple(named)))
    finally:
        cascade.classifier.set_diagnoses(None)
    write_evaluation(tmp_path, evaluation, title="t", about={})
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["diagnoses"]["n"] == 6
    assert (tmp_path / "diagnoses.png").read_bytes().startswith(b"\x89PNG")
    page = (tmp_path / "report.html").read_text()
    assert "Each diagnosis against all others" in page
    assert "squamous cell carcinoma" in page
    columns, rows = read_csv(tmp_path / "predictions.csv")
    assert "diagnosis_squamous_cell_carcinoma" in columns
    assert 0 < float(rows[0]["diagnosis_melanoma"]) < 1
    assert len(diagnosis_tables(metrics["diagnoses"])[2].rows) == 4
