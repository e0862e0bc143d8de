"""Labels that out-of-fold scores contradict: the formula, and ``cascade check --label_issues``."""

import csv
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cascade.commands.datasets.check import main
from cascade.data.tables import read_csv
from cascade.errors import DataError
from cascade.evaluation.label_issues import read_scores
from cascade.files import write_csv
from cascade.metrics.label_issues import label_issues
from cascade.training.images_seen import image_marks
from cascade.training.out_of_fold import OutOfFold, write_out_of_fold


def drawn():
    """200 scores of two overlapping classes, and labels of which 16 are flipped."""
    random = np.random.default_rng(3)
    truth = (random.random(200) < 0.25).astype(int)
    scores = np.where(truth == 1, random.beta(4, 2, 200), random.beta(1.5, 6, 200)).round(3)
    flipped = random.choice(200, 16, replace=False)
    labels = truth.copy()
    labels[flipped] = 1 - labels[flipped]
    return labels, scores, set(flipped.tolist())


def test_issues_and_their_order_are_those_of_cleanlab():
    labels, scores, _ = drawn()
    found = label_issues(labels, scores)
    # cleanlab 2.9.0: find_label_issues(filter_by="confident_learning"), in the order of
    # get_label_quality_scores(method="self_confidence", adjust_pred_probs=True)
    assert found.issues.tolist() == [60, 171, 42, 25, 154, 27, 185, 197, 109, 71]
    expected = [0.73992135, 0.83976579, 0.44527397, 0.66267718, 0.80111633]
    assert found.scores[:5] == pytest.approx(expected, abs=1e-8)


def test_flipped_labels_are_found_with_a_known_precision():
    labels, scores, flipped = drawn()
    found = set(label_issues(labels, scores).issues.tolist())
    assert len(found) == 10
    assert len(found & flipped) == 9, "precision 0.9, recall 9 of 16"


def test_thresholds_are_the_mean_probability_of_each_class():
    found = label_issues(np.array([0, 0, 0, 1, 1]), np.array([0.1, 0.2, 0.9, 0.8, 0.6]))
    assert found.thresholds == pytest.approx([0.6, 0.7])
    assert found.issues.tolist() == [2]
    # 0.1 of benign less 0.6, against 0.9 less 0.7, both plus 0.7
    assert found.scores[2] == pytest.approx(0.2 / (0.2 + 0.9))


@given(st.lists(st.tuples(st.integers(0, 1), st.floats(0, 1)), min_size=2, max_size=30))
def test_scores_are_between_0_and_1_and_flipping_all_labels_flips_none_found(rows):
    labels, scores = (np.array(column) for column in zip(*rows, strict=True))
    if len(set(labels.tolist())) < 2:
        with pytest.raises(DataError, match="both classes"):
            label_issues(labels, scores)
        return
    found = label_issues(labels, scores)
    mirrored = label_issues(1 - labels, 1 - scores)
    assert ((found.scores >= 0) & (found.scores <= 1)).all()
    assert found.scores == pytest.approx(mirrored.scores)
    assert (np.diff(found.scores[found.issues]) >= 0).all()


@pytest.fixture(scope="module")
def scored(dataset_folder, table, tmp_path_factory):
    """Out-of-fold scores of the drawn training images: right ones, but of two images."""
    labels = table.labels()
    wrong = [int(np.flatnonzero(labels == kind)[1]) for kind in (0, 1)]
    truth = labels.copy()
    truth[wrong] = 1 - truth[wrong]
    scores = np.where(truth == 1, 0.9, 0.1) + np.linspace(0, 0.05, len(labels))
    path = tmp_path_factory.mktemp("scores") / "out_of_fold.csv"
    folds, logits = np.zeros(len(labels), np.int64), np.log(scores / (1 - scores))
    names, groups = tuple(table.names()), tuple(table.groups())
    write_out_of_fold(path, OutOfFold(names, labels, groups, folds, logits, scores))
    return path, [table.names()[index] for index in wrong]


def findings(folder):
    document = json.loads((folder / "check.json").read_text())
    return {finding["code"]: finding for finding in document["findings"]}


def test_table_sheet_and_page_show_the_issues(dataset_folder, scored, tmp_path, capsys):
    path, wrong = scored
    words = [str(dataset_folder), "--label_issues", str(path), "--output", str(tmp_path)]
    assert main([*words, "--skip_duplicates"]) == 0
    columns, rows = read_csv(tmp_path / "label_issues.csv")
    assert columns == ["rank", "name", "class", "suggested_class", "score", "probability_malignant"]
    assert [row["rank"] for row in rows] == ["1", "2"]
    assert {row["name"] for row in rows} == set(wrong)
    assert all({row["class"], row["suggested_class"]} == {"benign", "malignant"} for row in rows)
    found = findings(tmp_path)
    assert found["label_issues"]["names"] == [row["name"] for row in rows]
    assert "of 12 scored: 2" in found["label_issues"]["message"]
    assert "labels without a score: 4 of 16" in found["label_unscored"]["message"]
    assert not {"scores_unknown", "scores_seen"} & found.keys()
    assert (tmp_path / "label_issues.jpg").read_bytes()[:2] == b"\xff\xd8"
    assert "contact sheet" in (tmp_path / "check.html").read_text()
    assert "label_issues.csv" in capsys.readouterr().out
    assert main([*words[:1], "--output", str(tmp_path), "--overwrite", "--skip_duplicates"]) == 0
    assert not (tmp_path / "label_issues.csv").exists(), "it would be of an earlier run"


def predictions(tmp_path, scored, **more):
    """The same scores as a table of predictions, with an image that failed."""
    rows = [
        {"name": row["name"], "probability_malignant": row["probability"], **more}
        for row in read_csv(scored[0])[1]
    ]
    path = tmp_path / "predictions.csv"
    write_csv(path, list(rows[0]), [*rows, {"name": "failed.jpg"}])
    return path


def test_scores_that_may_not_be_out_of_fold_are_a_warning(dataset_folder, scored, tmp_path):
    words = ["--label_issues", str(predictions(tmp_path, scored)), "--skip_duplicates"]
    assert main([str(dataset_folder), *words, "--output", str(tmp_path / "out")]) == 0
    assert "does not say whether" in findings(tmp_path / "out")["scores_unknown"]["message"]


@pytest.mark.parametrize("count", [0, 5])
def test_images_that_the_model_was_trained_on_are_counted(
    dataset_folder, table, scored, tmp_path, monkeypatch, count
):
    marks = image_marks(table.names()[:count])
    document = {"provenance": {"classifier": {"trained_on": marks}, "segmenter": {}}}
    monkeypatch.setattr("cascade.models.runtimes.model_document", lambda path: document)
    words = ["--label_issues", str(predictions(tmp_path, scored)), "--skip_duplicates"]
    words += ["--model", "m.safetensors", "--output", str(tmp_path / "out")]
    assert main([str(dataset_folder), *words]) == 0
    found = findings(tmp_path / "out")
    assert ("scores_seen" in found) == bool(count)
    if count:
        assert found["scores_seen"]["names"] == sorted(table.names()[:count])
        assert "for 5 of 16 images" in found["scores_seen"]["message"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,score\na,1\n", "needs the columns name and probability_malignant"),
        ("name,probability\na,1.2\n", "probability of a is '1.2', not a probability"),
        ("name,probability\na,nan\n", "not a probability"),
        ("name,probability\na,high\n", "not a probability"),
        ("name,probability\na.jpg,0.1\na.png,0.2\n", "more than one row for a.png"),
    ],
)
def test_scores_that_are_none_are_refused(tmp_path, text, message):
    (tmp_path / "scores.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        read_scores(tmp_path / "scores.csv")


def test_no_label_issue_is_told_too(dataset_folder, table, tmp_path, capsys):
    rows = [[record.name, float(record.label == "malignant")] for record in table]
    with (tmp_path / "scores.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["name", "probability"], *rows])
    words = ["--label_issues", str(tmp_path / "scores.csv"), "--skip_duplicates"]
    assert main([str(dataset_folder), *words]) == 0
    out = capsys.readouterr().out
    assert "note: labels that the scores contradict, of 12 scored: 0" in out


def test_scores_of_other_data_and_flags_without_use_are_refused(
    dataset_folder, scored, tmp_path, capsys
):
    with (tmp_path / "scores.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["name", "probability"], ["elsewhere.jpg", 0.5]])
    folder = str(dataset_folder)
    words = ["--label_issues", str(tmp_path / "scores.csv"), "--skip_duplicates"]
    assert main([folder, *words]) == 2
    assert "none of its 1 images is in the data set, e.g. elsewhere" in capsys.readouterr().err
    with (tmp_path / "scores.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["name", "probability"], ["failed.jpg", ""]])
    assert main([folder, *words]) == 2
    assert "no row has a probability; all images failed" in capsys.readouterr().err
    assert main([folder, "--model", "m"]) == 2
    assert "--model belongs to --label_issues" in capsys.readouterr().err
    words = ["--label_issues", str(scored[0]), "--model", "m", "--skip_duplicates"]
    assert main([folder, *words]) == 2
    assert "is of a cross-validation and needs none" in capsys.readouterr().err
