"""Whether context within patients helps: the comparison, and what an evaluation says of it."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from cascade.commands.evaluation.evaluate import main as evaluate
from cascade.data.synthetic import SyntheticConfig, write_synthetic_dataset
from cascade.data.tables import read_csv
from cascade.evaluation.cases import CASE_COLUMNS
from cascade.fields import columns
from cascade.lesion.patient import PatientContext
from cascade.metrics.patients import context_metrics, found_first

EACH = 6


def simulated(*, patients=60, oddness=0.0, seed=0):
    """Patients of six lesions, the first malignant in every second one.

    Probabilities say a little; scores say how far a malignant lesion is from the others.
    """
    generator = np.random.default_rng(seed)
    names = np.repeat([f"P{number}" for number in range(patients)], EACH)
    labels = np.zeros(patients * EACH, int)
    labels[:: 2 * EACH] = 1
    chances = 1 / (1 + np.exp(-(generator.normal(size=labels.size) + labels - 1)))
    scores = np.exp(0.3 * generator.normal(size=labels.size) + oddness * labels)
    places = np.concatenate(
        [np.argsort(np.argsort(-own)) / (EACH - 1) for own in chances.reshape(-1, EACH)]
    )
    return labels, chances, places, scores, names.tolist()


# --- the comparison -------------------------------------------------------------------------------


def test_a_score_that_tells_is_shown_to_help():
    found = context_metrics(*simulated(oddness=1.5), resamples=200)
    assert found["combinations"]["ugly_duckling"]["interval"][0] > 0.05
    assert found["ugly_duckling_roc_auc"] > 0.95


def test_a_score_that_says_nothing_is_not_shown_to_help():
    """Three data sets: at 95 % intervals more than one gain among them is unlikely."""
    lows = [
        context_metrics(*simulated(seed=seed), resamples=100)["combinations"]["ugly_duckling"]
        for seed in range(3)
    ]
    assert sum(part["interval"][0] > 0 for part in lows) <= 1
    assert max(abs(part["difference"]) for part in lows) < 0.1


def test_the_numbers_are_those_of_scikit_learn():
    labels, chances, places, scores, names = simulated(oddness=0.5)
    found = context_metrics(labels, chances, places, scores, names, seed=3)
    features = np.stack([np.log(chances / (1 - chances)), places, np.log(1 + scores)], axis=1)
    expected = cross_val_predict(
        make_pipeline(StandardScaler(), LogisticRegression()),
        features,
        labels,
        groups=np.unique(names, return_inverse=True)[1],
        cv=StratifiedGroupKFold(5, shuffle=True, random_state=3),
        method="predict_proba",
    )[:, 1]
    both = found["combinations"]["rank_and_ugly_duckling"]
    assert both["roc_auc"] == pytest.approx(roc_auc_score(labels, expected), abs=1e-9)
    assert found["roc_auc"] == pytest.approx(roc_auc_score(labels, chances), abs=1e-9)
    assert both["difference"] == pytest.approx(both["roc_auc"] - found["roc_auc"])
    assert found["folds"] == 5
    assert (found["n"], found["patients"]) == (360, 60)
    assert (found["positives"], found["malignant_patients"]) == (30, 30)


def test_the_interval_resamples_patients_not_images():
    """Ten copies of each image are no more patients, so the interval stays about as wide."""
    data = simulated(oddness=0.5)
    once = context_metrics(*data, resamples=200)["combinations"]["rank"]["interval"]
    copied = [np.repeat(values, 10) for values in data[:4]]
    tenfold = context_metrics(*copied, np.repeat(data[4], 10).tolist(), resamples=200)
    low, high = tenfold["combinations"]["rank"]["interval"]
    assert high - low > 0.6 * (once[1] - once[0])


def test_the_same_seed_gives_the_same_numbers():
    data = simulated(patients=20)
    first, again = (context_metrics(*data, seed=1, resamples=50) for _ in range(2))
    assert first == again


@pytest.mark.parametrize("patients", [1, 2, 3])
def test_with_too_few_patients_there_is_a_reason_instead(patients):
    labels, *others, names = simulated(patients=patients)
    found = context_metrics(labels, *others, names)
    assert "takes 2 patients with a malignant lesion" in found["undefined"]
    assert found["patients"] == patients


def test_with_patients_of_one_class_there_is_a_reason_instead():
    labels, *others, names = simulated(patients=8)
    assert "undefined" in context_metrics(labels * 0, *others, names)


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 3), st.integers(0, 2)), min_size=1))
def test_the_first_of_each_patient_is_counted_by_hand(lesions):
    labels, values, patients = np.array(lesions).T
    found = found_first(labels, values, -values, patients)
    shares = []
    for patient in set(patients.tolist()):
        own = [(value, label) for label, value, name in lesions if name == patient]
        classes = [label for _, label in own]
        if 0 < sum(classes) < len(classes):
            top = [label for value, label in own if value == max(own)[0]]
            low = [label for value, label in own if value == min(own)[0]]
            shares.append((np.mean(top), np.mean(low), np.mean(classes)))
    assert found["patients"] == len(shares)
    if shares:
        expected = dict(zip(("probability", "ugly_duckling", "chance"), np.mean(shares, 0)))  # noqa: B905
        assert {name: found[name] for name in expected} == pytest.approx(expected)
    else:
        assert found["chance"] is None


# --- the command ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluated") / "dataset"
    config = SyntheticConfig(
        count_train=4, count_test=6 * 5, lesions_per_patient=5, malignant_fraction=0.5,
        sizes=((72, 84),),
    )  # fmt: skip
    write_synthetic_dataset(folder, config)
    return folder


@pytest.fixture
def run(dataset, tmp_path, commanded_cascade, fake_segmenter, fake_classifier, monkeypatch):
    commanded_cascade(fake_segmenter, fake_classifier)
    monkeypatch.setattr("cascade.models.runtimes.model_identity", lambda _: "0" * 64)

    def evaluated(table="test_data.csv"):
        out = tmp_path / "out"
        args = ["--model", "m", "--data_path", str(dataset), "--table", str(dataset / table)]
        assert evaluate([*args, "--output", str(out), "--overwrite", "-d", "cpu"]) == 0
        metrics = json.loads((out / "metrics.json").read_text())
        return metrics, *read_csv(out / "predictions.csv"), (out / "report.html").read_text()

    return evaluated


def test_an_evaluation_with_patients_says_whether_context_helps(run, capsys):
    metrics, header, rows, page = run()
    assert tuple(header) == (*CASE_COLUMNS, *columns(PatientContext))
    scored = [row for row in rows if row["ugly_duckling_score"] not in ("", "nan")]
    found = metrics["patients"]
    assert found["n"] == len(scored) > 15
    assert found["left_out"] == len(rows) - len(scored)
    said = capsys.readouterr().out
    for text in (said, page):
        assert "probability alone" in text
        assert "patients with one:" in text
        assert "includes 0 shows no difference" in text


def test_without_patients_nothing_changes(run, dataset, capsys):
    _, rows = read_csv(dataset / "test_data.csv")
    lines = [f"{row['name']},{row['class']}\n" for row in rows]
    (dataset / "plain.csv").write_text("name,class\n" + "".join(lines))
    metrics, header, _, page = run("plain.csv")
    assert "patients" not in metrics
    assert tuple(header) == CASE_COLUMNS
    assert "ugly" not in page + capsys.readouterr().out
    with_ids = run()[0]
    assert with_ids["classification"]["roc_auc"] == metrics["classification"]["roc_auc"]
