"""Scores of several diagnoses against scikit-learn and plain counting."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics

from cascade.errors import DataError
from cascade.metrics.multiclass import multiclass_metrics

NAMES = ("nevus", "keratosis", "melanoma", "rare")


@st.composite
def cases(draw):
    """Truth without the last class, and coarse probabilities so that ties are common."""
    count = draw(st.integers(3, 40))
    truth = np.array(draw(st.lists(st.integers(0, 2), min_size=count, max_size=count)))
    truth[:3] = (0, 1, 2)
    called = np.array(draw(st.lists(st.integers(0, 3), min_size=count, max_size=count)))
    steps = np.random.default_rng(draw(st.integers(0, 99))).integers(0, 6, (count, 4))
    return truth, steps / 10, called


@settings(max_examples=30, deadline=None)
@given(cases())
def test_scores_match_scikit_learn(data):
    truth, probabilities, called = data
    found = multiclass_metrics(truth, probabilities, called, names=NAMES, resamples=1)
    balanced = sklearn_metrics.recall_score(
        truth, called, labels=[0, 1, 2], average="macro", zero_division=0
    )
    assert found["balanced_accuracy"] == pytest.approx(balanced)
    assert found["accuracy"] == pytest.approx(sklearn_metrics.accuracy_score(truth, called))
    macro = sklearn_metrics.f1_score(
        truth, called, labels=[0, 1, 2], average="macro", zero_division=0
    )
    assert found["macro_f1"] == pytest.approx(macro)
    matrix = sklearn_metrics.confusion_matrix(truth, called, labels=range(4))
    assert found["confusion_matrix"] == matrix.tolist()
    for place, one in enumerate(found["diagnoses"][:3]):
        own, other = truth == place, called == place
        assert one["sensitivity"] == pytest.approx(sklearn_metrics.recall_score(own, other))
        assert one["specificity"] == pytest.approx(sklearn_metrics.recall_score(~own, ~other))
        area = sklearn_metrics.roc_auc_score(own, probabilities[:, place])
        assert one["roc_auc"] == pytest.approx(area)


def test_an_absent_diagnosis_is_named_and_has_no_sensitivity_and_no_area():
    found = multiclass_metrics(
        [0, 1, 2, 0, 1, 2], np.full((6, 4), 0.25), [0, 1, 2, 3, 1, 0], names=NAMES, resamples=5
    )
    rare = found["diagnoses"][3]
    assert found["absent"] == ["rare"]
    assert found["undefined"]["rare"] == "none of the 6 images is rare"
    assert rare["n"] == 0
    assert rare["sensitivity"] is rare["roc_auc"] is rare["f1"] is None
    assert rare["intervals"] == dict.fromkeys(("sensitivity", "f1", "roc_auc")) | {
        "specificity": rare["intervals"]["specificity"]
    }
    assert rare["specificity"] == pytest.approx(5 / 6)
    assert found["balanced_accuracy"] == pytest.approx((0.5 + 1 + 0.5) / 3)


def test_intervals_hold_the_value_and_are_wider_over_fewer_groups():
    generator = np.random.default_rng(0)
    truth = generator.integers(0, 3, 90)
    probabilities = generator.dirichlet(np.ones(3), 90) / 2 + np.eye(3)[truth] * 0.3
    called = probabilities.argmax(axis=1)

    def width(groups):
        found = multiclass_metrics(
            truth, probabilities, called, names=NAMES[:3], groups=groups, resamples=200
        )
        low, high = found["intervals"]["balanced_accuracy"]
        assert low <= found["balanced_accuracy"] <= high
        return high - low

    alike = [f"{label}-{place % 4}" for place, label in enumerate(truth)]
    assert width(alike) != width(None) > 0


def test_a_diagnosis_of_one_group_leaves_no_interval_and_says_why():
    truth = np.array([0, 0, 1, 1, 2, 2])
    found = multiclass_metrics(
        truth, np.eye(3)[truth], truth, names=NAMES[:3], groups=["a", "b", "c", "d", "e", "e"]
    )
    assert set(found["intervals"].values()) == {None}
    assert "melanoma" in found["undefined"]["intervals"]
    assert found["diagnoses"][0]["intervals"]["sensitivity"] == [1.0, 1.0]
    assert found["diagnoses"][2]["intervals"]["sensitivity"] is None


@pytest.mark.parametrize(
    ("truth", "probabilities", "called", "message"),
    [
        ([], np.zeros((0, 4)), [], "at least"),
        ([0, 1], np.zeros((2, 3)), [0, 1], "for 4 diagnoses"),
        ([0, 4], np.zeros((2, 4)), [0, 1], "a true diagnosis"),
        ([0, 1], np.zeros((2, 4)), [0, -1], "a named diagnosis"),
        ([0, 1], np.full((2, 4), math.nan), [0, 1], "not a number"),
    ],
)
def test_what_cannot_be_scored_is_refused(truth, probabilities, called, message):
    with pytest.raises(DataError, match=message):
        multiclass_metrics(truth, probabilities, called, names=NAMES)
