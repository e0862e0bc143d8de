"""Scores by subgroup, against sklearn on the subset."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import recall_score, roc_auc_score

from cascade.data.tables import Record, read_table
from cascade.errors import DataError
from cascade.evaluation.cases import Case
from cascade.evaluation.report import write_evaluation
from cascade.evaluation.score_table import markdown_table
from cascade.evaluation.stages import Evaluation, evaluate_cascade
from cascade.evaluation.subgroups import evaluate_subgroups, with_subgroups, write_subgroups
from cascade.lesion.skin_tone import individual_typology_angle
from cascade.metrics.intervals import wilson_interval
from cascade.metrics.segmentation import PixelCounts, iou

COUNT = 120


def case(number, *, label, probability, angle=None, counts=None, group=None, **attributes):
    record = Record(f"{number}.jpg", label, group or f"g{number}", Path("x"), None, attributes)
    return Case(record, probability=probability, counts=counts, skin_angle=angle)


@pytest.fixture(scope="module")
def evaluation():
    """120 invented cases; some cells are blank, one case abstains, sources differ in quality."""
    generator = np.random.default_rng(0)
    cases = []
    for number in range(COUNT):
        malignant = bool(generator.random() < 0.35)
        quality = 0.35 if number % 3 else 0.1
        probability = float(np.clip(0.4 + quality * malignant + generator.normal(0, 0.2), 0, 1))
        cases.append(
            case(
                number,
                label="malignant" if malignant else "benign",
                probability=None if number == 7 else probability,
                angle=None if number % 10 == 0 else float(generator.uniform(-60, 80)),
                counts=PixelCounts(*generator.integers(1, 50, 4).tolist()) if number % 2 else None,
                group=f"g{number // 2}",
                source="a" if number % 3 else "b",
                diagnosis="melanoma" if malignant else ("nevus" if number % 4 else "Keratosis"),
                age=["", "29.9", "30", "69", "85.0", "soon", "NaN"][number % 7],
                sex=["male", "female", " "][number % 3],
                site="",
            )
        )
    return Evaluation(tuple(cases), {"about": "nothing"}, cutoff=0.5)


@pytest.fixture(scope="module")
def rows(evaluation):
    return evaluate_subgroups(evaluation, resamples=200)


def row_of(rows, column, group):
    return next(row for row in rows if (row["column"], row["group"]) == (column, group))


def groups_of(rows, column):
    return [row["group"] for row in rows if row["column"] == column]


@pytest.mark.parametrize(("column", "group"), [("source", "a"), ("source", "b"), ("sex", "male")])
def test_scores_of_a_group_are_those_of_sklearn_on_the_subset(evaluation, rows, column, group):
    subset = [c for c in evaluation.cases if c.record.attributes[column] == group]
    answered = [c for c in subset if c.probability is not None]
    labels = np.array([c.record.label == "malignant" for c in answered])
    scores = np.array([c.probability for c in answered])
    found = row_of(rows, column, group)
    assert found["n"] == len(subset)
    assert found["positives"] == sum(c.record.label == "malignant" for c in subset)
    assert found["abstained"] == len(subset) - len(answered)
    assert found["roc_auc"] == pytest.approx(roc_auc_score(labels, scores))
    assert found["recall"] == pytest.approx(recall_score(labels, scores >= 0.5))
    assert found["specificity"] == pytest.approx(recall_score(~labels, scores < 0.5))
    assert found["mean_probability"] == pytest.approx(scores.mean())
    assert found["prevalence"] == pytest.approx(labels.mean())
    values = [iou(c.counts) for c in subset if c.counts]
    assert (found["n_masks"], found["mean_iou"]) == (len(values), pytest.approx(np.mean(values)))
    for name, interval in found["intervals"].items():
        if interval is not None:
            assert interval[0] <= found[name] <= interval[1], name


def test_every_case_is_in_one_group_of_each_column(rows):
    for column in {row["column"] for row in rows}:
        assert sum(row["n"] for row in rows if row["column"] == column) == COUNT


def test_ages_are_binned_and_blank_or_strange_ones_stay_visible(evaluation, rows):
    assert groups_of(rows, "age") == [
        "under 30", "30 to 49", "50 to 69", "70 and over", "not readable", "not given",
    ]  # fmt: skip
    assert row_of(rows, "age", "not given")["n"] == sum(
        c.record.attributes["age"] in ("", "NaN") for c in evaluation.cases
    )


def test_a_column_without_any_value_is_left_out_and_blank_cells_are_a_group(rows):
    columns = {row["column"] for row in rows}
    assert columns == {"source", "diagnosis", "age", "sex", "skin_tone"}
    assert groups_of(rows, "sex") == ["female", "male", "not given"]


def test_skin_tones_run_from_light_to_dark(rows):
    assert groups_of(rows, "skin_tone") == [
        "very light", "light", "intermediate", "tan", "brown", "dark", "not measurable",
    ]  # fmt: skip


def test_a_group_of_one_class_has_a_reason_instead_of_an_area(rows):
    melanoma = row_of(rows, "diagnosis", "melanoma")
    assert melanoma["roc_auc"] is None
    assert "benign" in melanoma["undefined"]["roc_auc"]
    assert melanoma["specificity"] is None
    assert 0 < melanoma["recall"] < 1
    nevus = row_of(rows, "diagnosis", "nevus")
    assert nevus["recall"] is None
    assert nevus["specificity"] is not None
    assert not nevus["few_cases"], "no malignant nevus is missing from the nevi"


def test_small_groups_are_marked_and_kept():
    cases = [
        case(n, label="malignant" if n < few else "benign", probability=n / 100, site=site)
        for site, count, few in (("arm", 40, 5), ("leg", 40, 4), ("ear", 19, 9))
        for n in range(count)
    ]
    rows = evaluate_subgroups(Evaluation(tuple(cases)), resamples=20)
    assert {row["group"]: row["few_cases"] for row in rows} == {
        "arm": False, "leg": True, "ear": True,
    }  # fmt: skip


def test_a_single_lesion_of_a_class_has_no_interval_of_the_area():
    cases = [case(n, label="benign", probability=0.1, sex="male") for n in range(9)]
    cases.append(case(10, label="malignant", probability=0.9, sex="male"))
    (row,) = evaluate_subgroups(Evaluation(tuple(cases)), resamples=20)
    assert (row["roc_auc"], row["intervals"]["roc_auc"]) == (1.0, None)


def test_photographs_of_one_lesion_count_once_in_intervals():
    def row(group):
        cases = [
            case(n, label="malignant", probability=n % 2, sex="male", group=group(n))
            for n in range(40)
        ]
        return evaluate_subgroups(Evaluation(tuple(cases)), resamples=20)[0]

    apart, together = row(lambda n: f"g{n}"), row(lambda n: f"g{n // 10}")
    width = [r["intervals"]["recall"][1] - r["intervals"]["recall"][0] for r in (apart, together)]
    assert apart["recall"] == together["recall"] == 0.5
    assert width[1] > 2 * width[0]
    assert together["n_groups"] == 4


def test_unlabelled_cases_still_have_a_mean_iou():
    counts = PixelCounts(10, 5, 5, 100)
    cases = [case(n, label=None, probability=None, counts=counts, sex="male") for n in range(30)]
    (row,) = evaluate_subgroups(Evaluation(tuple(cases)), resamples=20)
    assert row["mean_iou"] == pytest.approx(0.5)
    assert row["roc_auc"] is None
    assert not row["few_cases"]


def test_without_cases_there_is_an_error():
    with pytest.raises(DataError, match="no cases"):
        evaluate_subgroups(Evaluation(()))


def test_wilson_interval_has_the_published_values():
    # Newcombe 1998, table I, method 3
    assert wilson_interval(81, 263) == pytest.approx([0.2553, 0.3662], abs=5e-5)
    assert wilson_interval(0, 20) == pytest.approx([0.0, 0.1611], abs=5e-5)
    assert wilson_interval(29, 29) == pytest.approx([0.8830, 1.0], abs=5e-5)


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_interval_holds_the_share(pair):
    low, high = wilson_interval(*pair)
    assert 0 <= low <= pair[0] / pair[1] + 1e-12
    assert pair[0] / pair[1] - 1e-12 <= high <= 1


# --- files ----------------------------------------------------------------------------------------


def test_files_hold_the_numbers(rows, tmp_path):
    write_subgroups(tmp_path, rows)
    with (tmp_path / "subgroups.csv").open(encoding="utf-8", newline="") as file:
        table = list(csv.DictReader(file))
    assert [line["group"] for line in table] == [row["group"] for row in rows]
    for line, row in zip(table, rows, strict=True):
        for name in ("roc_auc", "recall", "mean_iou", "prevalence"):
            expected = "" if row[name] is None else f"{row[name]:.9g}"
            assert line[name] == expected
        if row["intervals"]["recall"]:
            assert float(line["recall_low"]) == pytest.approx(row["intervals"]["recall"][0])
        assert line["few_cases"] == ("yes" if row["few_cases"] else "no")
        assert ("roc_auc" in line["undefined"]) == (row["roc_auc"] is None)
    text = (tmp_path / "subgroups.md").read_text(encoding="utf-8")
    male = row_of(rows, "sex", "male")
    assert f"| male | {male['n']} | {male['positives']} | {male['roc_auc']:.3f} (" in text
    assert (tmp_path / "subgroups.png").read_bytes().startswith(b"\x89PNG")


def test_text_of_a_table_cannot_break_the_markdown():
    table = markdown_table(("a",), [("x | y\n<b>[l](u) `c`",)])
    assert len(table.splitlines()) == 3
    assert "<b>" not in table
    assert table.count("|") - table.count("\\|") == 6


def test_evaluation_with_subgroups_is_written_and_nothing_else_changes(
    fake_cascade, dataset_folder, tmp_path
):
    table = read_table(dataset_folder / "train_data.csv")
    plain = evaluate_cascade(fake_cascade, table)
    rich = with_subgroups(plain, columns=("source", "skin_tone"))
    for case_, record in zip(plain.cases, table, strict=True):
        prediction = fake_cascade(record.image_path)[0]
        from cascade.imaging import read_image

        pixels = read_image(record.image_path).pixels
        assert case_.skin_angle == individual_typology_angle(pixels, prediction.mask)
    for name, evaluation in (("plain", plain), ("rich", rich)):
        write_evaluation(tmp_path / name, evaluation, title="t", about={})
    written = json.loads((tmp_path / "rich" / "metrics.json").read_text())
    assert sum(r["n"] for r in written.pop("subgroups") if r["column"] == "skin_tone") == len(table)
    assert written == json.loads((tmp_path / "plain" / "metrics.json").read_text())
    new = {p.name for p in (tmp_path / "rich").iterdir()} - {
        p.name for p in (tmp_path / "plain").iterdir()
    }
    assert new <= {"subgroups.csv", "subgroups.md", "subgroups.png"}
    assert {"subgroups.csv", "subgroups.md"} <= new
    predictions = [(tmp_path / n / "predictions.csv").read_bytes() for n in ("plain", "rich")]
    assert predictions[0] == predictions[1]
    assert "Subgroups" in (tmp_path / "rich" / "report.html").read_text(encoding="utf-8")
