"""Classification scores against the golden vector, scikit-learn and plain loops."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics

from cascade.errors import DataError
from cascade.metrics.classification import (
    average_precision,
    classification_metrics,
    confusion_matrix,
    cutoff_at_sensitivity,
    roc_auc,
)

LABELS = [1, 1, 1, 1, 1, 0, 0, 0, 0, 0]
SCORES = [0.9, 0.8, 0.7, 0.6, 0.2, 0.65, 0.5, 0.4, 0.3, 0.1]


@st.composite
def both_classes(draw):
    """Labels with both classes, and coarse scores so that ties are common."""
    count = draw(st.integers(2, 30))
    labels = draw(st.lists(st.integers(0, 1), min_size=count, max_size=count))
    labels[:2] = [0, 1]
    steps = draw(st.lists(st.integers(0, 20), min_size=count, max_size=count))
    return np.array(labels), np.array(steps) / 20


def test_golden_vector():
    metrics = classification_metrics(LABELS, SCORES)
    assert metrics["roc_auc"] == pytest.approx(0.80)
    assert metrics["partial_auc_above_sensitivity_80"] == pytest.approx(0.040)
    assert metrics["auc_at_sensitivity_80"] == pytest.approx(0.680)
    assert (metrics["n"], metrics["positives"]) == (10, 5)


@settings(max_examples=30, deadline=None)
@given(both_classes(), st.sampled_from([0.25, 0.5, 0.8]))
def test_scores_match_scikit_learn(data, cutoff):
    labels, scores = data
    metrics = classification_metrics(labels, scores, cutoff=cutoff, resamples=1)
    calls = (scores >= cutoff).astype(int)
    expected = {
        "accuracy": sklearn_metrics.accuracy_score(labels, calls),
        "recall": sklearn_metrics.recall_score(labels, calls),
        "specificity": sklearn_metrics.recall_score(labels, calls, pos_label=0),
        "f1": sklearn_metrics.f1_score(labels, calls),
        "macro_f1": sklearn_metrics.f1_score(labels, calls, average="macro"),
        "roc_auc": sklearn_metrics.roc_auc_score(labels, scores),
        "average_precision": sklearn_metrics.average_precision_score(labels, scores),
        "brier": sklearn_metrics.brier_score_loss(labels, scores),
        "log_loss": sklearn_metrics.log_loss(labels, scores),
    }
    if calls.any():
        expected["precision"] = sklearn_metrics.precision_score(labels, calls)
    for name, value in expected.items():
        assert metrics[name] == pytest.approx(value), name
    matrix = sklearn_metrics.confusion_matrix(labels, calls, labels=[0, 1])
    assert metrics["confusion_matrix"] == matrix.tolist()


@settings(max_examples=50, deadline=None)
@given(both_classes())
def test_partial_areas_match_a_sum_over_scikit_learns_curve(data):
    labels, scores = data
    across, up, _ = sklearn_metrics.roc_curve(labels, scores, drop_intermediate=False)
    start = next(i for i in range(len(up)) if up[i] >= 0.8)
    share = (0.8 - up[start - 1]) / (up[start] - up[start - 1])
    first = across[start - 1] + share * (across[start] - across[start - 1])
    kept = [(first, 0.8), *zip(across[start:], up[start:], strict=True)]
    area = sum((b[0] - a[0]) * (a[1] + b[1]) / 2 for a, b in pairwise(kept))
    metrics = classification_metrics(labels, scores, resamples=1)
    assert metrics["auc_at_sensitivity_80"] == pytest.approx(area)
    assert metrics["partial_auc_above_sensitivity_80"] == pytest.approx(
        area - 0.8 * (1 - first), abs=1e-12
    )


def test_calibration_error_matches_a_loop_over_bins():
    generator = np.random.default_rng(0)
    scores = np.r_[generator.random(300), 0.0, 1.0, 1 / 15, 0.5]
    labels = np.r_[(generator.random(300) < scores[:300] ** 2).astype(int), 0, 1, 1, 0]
    error = 0.0
    for number in range(15):
        low, high = number / 15, (number + 1) / 15
        inside = [i for i, s in enumerate(scores) if low <= s < high or (number == 14 and s == 1.0)]
        if inside:
            gap = abs(np.mean(scores[inside]) - np.mean(labels[inside]))
            error += len(inside) / len(scores) * gap
    assert classification_metrics(labels, scores, resamples=1)["ece"] == pytest.approx(error)


def test_balanced_accuracy_counts_ties_as_wrong_whatever_the_cutoff():
    labels, scores = [1, 1, 0, 0], [0.5, 0.9, 0.5, 0.1]
    for cutoff in (0.2, 0.5, 0.95):
        metrics = classification_metrics(labels, scores, cutoff=cutoff)
        assert metrics["balanced_accuracy"] == pytest.approx(0.5)


@pytest.mark.parametrize("label", [0, 1])
def test_one_class_gives_null_with_a_reason_and_never_nan(label):
    metrics = classification_metrics([label] * 6, np.linspace(0.1, 0.9, 6))
    for name in ("roc_auc", "average_precision", "balanced_accuracy", "f1", "precision"):
        assert metrics[name] is None
        assert metrics["intervals"][name] is None
        assert ("malignant" if label == 0 else "benign") in metrics["undefined"][name]
    absent, present = ("recall", "specificity") if label == 0 else ("specificity", "recall")
    assert metrics[absent] is None
    assert metrics[present] is not None
    assert metrics["accuracy"] is not None
    numbers = [value for value in metrics.values() if isinstance(value, float)]
    assert all(math.isfinite(value) for value in numbers)
    nulls = {name for name, value in metrics.items() if value is None}
    assert nulls == set(metrics["undefined"])
    assert classification_metrics([0, 0, 1, 1], [0.1] * 4)["precision"] is None, "no call"


@pytest.mark.parametrize("value", [math.nan, math.inf, -0.01, 1.01])
def test_impossible_probability_is_named(value):
    scores = [*SCORES[:3], value, *SCORES[4:]]
    with pytest.raises(DataError, match=r"row 3 \("):
        classification_metrics(LABELS, scores)
    names = [f"image_{i}" for i in range(10)]
    with pytest.raises(DataError, match=r"image_3 \("):
        classification_metrics(LABELS, scores, names=names)


def test_other_labels_and_lengths_are_refused():
    with pytest.raises(DataError, match="neither 0 nor 1"):
        classification_metrics([0, 2], [0.1, 0.2])
    with pytest.raises(DataError, match="one of each"):
        classification_metrics([0, 1], [0.1])
    with pytest.raises(DataError, match="at least one image"):
        classification_metrics([], [])
    with pytest.raises(DataError, match="3 names for 2"):
        classification_metrics([0, 1], [0.1, 0.2], names=["a", "b", "c"])
    with pytest.raises(DataError, match="1 groups for 2"):
        classification_metrics([0, 1], [0.1, 0.2], groups=["a"])


def test_numbers_are_plain():
    metrics = classification_metrics(np.array(LABELS, np.int32), np.array(SCORES, np.float32))
    for name, value in metrics.items():
        assert type(value) in (int, float, dict, list), name


def test_weights_mean_the_same_as_repeated_images():
    generator = np.random.default_rng(0)
    labels, scores = generator.integers(0, 2, 60), generator.integers(0, 30, 60) / 30
    weights = generator.integers(0, 4, (5, 60))
    for metric, witness in (
        (roc_auc, sklearn_metrics.roc_auc_score),
        (average_precision, sklearn_metrics.average_precision_score),
    ):
        values = metric(labels, scores, weights.astype(float))
        for row, value in zip(weights, values, strict=True):
            repeated = np.repeat(np.arange(60), row)
            assert value == pytest.approx(witness(labels[repeated], scores[repeated]))
            assert value == pytest.approx(witness(labels, scores, sample_weight=row))


@settings(max_examples=50, deadline=None)
@given(both_classes(), st.floats(0.01, 1.0))
def test_cutoff_is_the_largest_that_reaches_the_sensitivity(data, target):
    labels, scores = data
    cutoff = cutoff_at_sensitivity(labels, scores, target)
    found = scores[labels == 1]
    assert np.mean(found >= cutoff) >= target - 1e-9
    for higher in found[found > cutoff]:
        assert np.mean(found >= higher) < target


def test_an_image_at_the_cutoff_is_malignant_and_none_is_lost_to_rounding():
    assert confusion_matrix([0, 1], [0.3, 0.3], cutoff=0.3) == [[0, 1], [0, 1]]
    scores = np.arange(1, 21) / 100
    assert cutoff_at_sensitivity([1] * 20, scores, 0.95) == pytest.approx(0.02)


def test_cutoff_needs_a_malignant_image_and_a_possible_target():
    with pytest.raises(DataError, match="no malignant image"):
        cutoff_at_sensitivity([0, 0], [0.1, 0.2], 0.9)
    for target in (0.0, 1.1, math.nan):
        with pytest.raises(DataError, match="target sensitivity"):
            cutoff_at_sensitivity([0, 1], [0.1, 0.2], target)
