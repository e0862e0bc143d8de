"""The bootstrap: over groups, stratified, seeded, paired; and the curves."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import precision_recall_curve, roc_auc_score, roc_curve

from cascade.errors import DataError
from cascade.metrics import intervals
from cascade.metrics.classification import classification_metrics, roc_auc
from cascade.metrics.curves import (
    precision_recall_points,
    reliability_bins,
    roc_band,
    roc_curve_points,
)
from cascade.metrics.intervals import paired_difference, plan_resampling, weighted_mean


def drawn(plan):
    return np.concatenate(list(plan.weights()))


def sample(count=300, seed=0):
    generator = np.random.default_rng(seed)
    labels = (generator.random(count) < 0.3).astype(int)
    scores = 1 / (1 + np.exp(-generator.normal(1.5 * labels, 1)))
    return labels, scores


def test_images_of_one_group_are_drawn_together():
    groups = ["a", "a", "b", "b", "b", "c"]
    weights = drawn(plan_resampling(6, groups=groups, resamples=50))
    assert weights.shape == (50, 6)
    assert (weights[:, 0] == weights[:, 1]).all()
    assert (weights[:, 2] == weights[:, 3]).all()
    assert (weights[:, [0, 2, 5]].sum(axis=1) == 3).all()
    plan = plan_resampling(5, groups=["a", "", None, "", "a"])
    assert plan.group_count == 4, "an image without a group is its own"
    assert plan.groups[0] == plan.groups[4]


def test_resamples_do_not_depend_on_the_block_size(monkeypatch):
    plan = plan_resampling(12, strata=np.arange(12) % 2, resamples=100, seed=5)
    whole = drawn(plan)
    monkeypatch.setattr(intervals, "_BLOCK_CELLS", 36)
    assert np.array_equal(whole, drawn(plan))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 1)), min_size=1, max_size=30))
def test_draws_keep_the_number_of_groups_of_each_stratum(rows):
    groups, labels = [row[0] for row in rows], np.array([row[1] for row in rows])
    plan = plan_resampling(len(rows), groups=groups, strata=labels, resamples=5)
    stratum = {name: max(label for other, label in rows if other == name) for name in groups}
    for weights in drawn(plan):
        for wanted in (0, 1):
            members = [groups.index(name) for name in stratum if stratum[name] == wanted]
            assert weights[members].sum() == len(members)


def test_grouped_interval_is_wider_when_images_repeat():
    labels, scores = sample(150)
    labels, scores = np.repeat(labels, 4), np.repeat(scores, 4)
    groups = [str(index // 4) for index in range(600)]
    by_group = classification_metrics(labels, scores, groups=groups)["intervals"]["roc_auc"]
    by_image = classification_metrics(labels, scores)["intervals"]["roc_auc"]
    assert (by_group[1] - by_group[0]) > 1.6 * (by_image[1] - by_image[0])


def test_auc_interval_matches_a_plain_loop_with_scikit_learn():
    labels, scores = sample(300)
    generator = np.random.default_rng(9)
    positive, negative = np.flatnonzero(labels == 1), np.flatnonzero(labels == 0)
    values = []
    for _ in range(300):
        chosen = np.r_[
            generator.choice(positive, positive.size), generator.choice(negative, negative.size)
        ]
        values.append(roc_auc_score(labels[chosen], scores[chosen]))
    expected = np.percentile(values, [2.5, 97.5])
    interval = classification_metrics(labels, scores)["intervals"]["roc_auc"]
    assert interval == pytest.approx(expected, abs=0.015)


def test_intervals_repeat_with_the_seed_and_hold_the_estimate():
    labels, scores = sample()
    metrics = classification_metrics(labels, scores, seed=1)
    assert metrics == classification_metrics(labels, scores, seed=1)
    for name in ("roc_auc", "accuracy", "average_precision", "brier", "recall", "macro_f1"):
        low, high = metrics["intervals"][name]
        assert low < metrics[name] < high


def test_class_of_one_group_gives_no_interval_and_says_so():
    metrics = classification_metrics([0, 0, 0, 1], [0.1, 0.2, 0.3, 0.9])
    assert metrics["roc_auc"] == 1.0
    assert set(metrics["intervals"].values()) == {None}
    assert "one group" in metrics["undefined"]["intervals"]


def test_paired_difference_is_antisymmetric_and_narrower_than_unpaired():
    labels, scores = sample()
    other = np.clip(scores + np.random.default_rng(2).normal(0, 0.05, scores.size), 0, 1)
    difference, low, high = paired_difference(roc_auc, labels, scores, other)
    swapped = paired_difference(roc_auc, labels, other, scores)
    assert swapped == pytest.approx((-difference, -high, -low))
    assert low <= difference <= high
    assert paired_difference(roc_auc, labels, scores, scores) == (0.0, 0.0, 0.0)
    assert difference == pytest.approx(roc_auc_score(labels, scores) - roc_auc_score(labels, other))
    unpaired = classification_metrics(labels, scores)["intervals"]["roc_auc"]
    assert high - low < (unpaired[1] - unpaired[0]) / 2


def test_paired_difference_takes_per_image_values():
    generator = np.random.default_rng(0)
    first, second = generator.random(100), generator.random(100)
    groups = [str(i // 2) for i in range(100)]
    difference, low, high = paired_difference(
        weighted_mean, np.zeros(100, int), first, second, groups
    )
    assert difference == pytest.approx(first.mean() - second.mean())
    assert low < difference < high


def test_paired_difference_refuses_what_it_cannot_answer():
    with pytest.raises(DataError, match="differ in length"):
        paired_difference(roc_auc, np.array([0, 1]), np.array([0.1, 0.2]), np.array([0.1]))
    with pytest.raises(DataError):
        plan_resampling(0)
    with pytest.raises(DataError):
        plan_resampling(3, resamples=0)
    with pytest.raises(DataError, match="both classes"):
        paired_difference(roc_auc, np.zeros(4, int), np.arange(4) / 4, np.arange(4) / 4)


def test_roc_points_match_scikit_learn():
    labels, scores = sample()
    scores = np.round(scores, 1)
    curve = roc_curve_points(labels, scores)
    across, up, cutoffs = roc_curve(labels, scores, drop_intermediate=False)
    assert curve.false_positive_rate == pytest.approx(across)
    assert curve.true_positive_rate == pytest.approx(up)
    assert curve.cutoffs[1:] == pytest.approx(cutoffs[1:])


def test_precision_recall_points_match_scikit_learn():
    labels, scores = sample()
    scores = np.round(scores, 1)
    curve = precision_recall_points(labels, scores)
    precision, recall, cutoffs = precision_recall_curve(labels, scores)
    assert curve.precision == pytest.approx(precision[:-1][::-1])
    assert curve.recall == pytest.approx(recall[:-1][::-1])
    assert curve.cutoffs == pytest.approx(cutoffs[::-1])
    assert curve.prevalence == pytest.approx(labels.mean())


def test_band_holds_the_curve():
    labels, scores = sample()
    band = roc_band(labels, scores, resamples=300)
    curve = roc_curve_points(labels, scores)
    middle = np.interp(
        band.false_positive_rate, curve.false_positive_rate, curve.true_positive_rate
    )
    assert (band.low <= band.high).all()
    inside = (band.low - 1e-9 <= middle) & (middle <= band.high + 1e-9)
    assert inside.mean() > 0.95


def test_reliability_bins_count_every_image_once():
    bins = reliability_bins([0, 1, 1, 0], [0.0, 1.0, 0.999, 0.0667])
    assert bins.edges.size == 16
    assert bins.counts.tolist() == [1, 1, *[0] * 12, 2]
    assert bins.frequency[[0, 1, 14]].tolist() == [0.0, 0.0, 1.0]
    assert bins.mean_probability[14] == pytest.approx(0.9995)
    assert np.isnan(bins.frequency[5])
