"""Segmentation scores against the golden vector, scikit-learn and plain loops."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import accuracy_score, f1_score, jaccard_score, recall_score

from cascade.errors import DataError, ShapeError
from cascade.metrics.segmentation import (
    PixelCounts,
    accuracy,
    count_pixels,
    dice,
    iou,
    segmentation_metrics,
    sensitivity,
    specificity,
    thresholded_iou,
)

GOLDEN = [
    PixelCounts(*counts, 0)
    for counts in [(100, 0, 0), (1, 1, 8), (65, 20, 15), (0, 0, 0), (0, 5, 0)]
]
mask_pairs = hnp.array_shapes(min_dims=2, max_dims=2, max_side=9).flatmap(
    lambda shape: st.tuples(hnp.arrays(bool, shape), hnp.arrays(bool, shape))
)
some_counts = st.lists(st.builds(PixelCounts, *[st.integers(0, 50)] * 4), min_size=1, max_size=12)


def test_golden_vector():
    assert [iou(item) for item in GOLDEN] == [1.0, 0.1, 0.65, 1.0, 0.0]
    assert [thresholded_iou(item) for item in GOLDEN] == [1.0, 0.0, 0.65, 1.0, 0.0]
    metrics = segmentation_metrics(GOLDEN)
    assert metrics["n"] == 5
    assert metrics["mean_iou"] == pytest.approx(0.55)
    assert metrics["mean_thresholded_iou"] == pytest.approx(0.53)
    assert metrics["pooled_iou"] == pytest.approx(0.772093, abs=1e-6)
    assert metrics["missed"] == 1, "and kept as zero"
    assert metrics["both_empty"] == 1


def test_conventions_for_empty_masks():
    nothing = PixelCounts(0, 0, 0, 9)
    assert iou(nothing) == dice(nothing) == sensitivity(nothing) == specificity(nothing) == 1.0
    assert specificity(PixelCounts(9, 0, 0, 0)) == 1.0
    invented = PixelCounts(0, 9, 0, 0)
    assert (iou(invented), sensitivity(invented), specificity(invented)) == (0.0, 1.0, 0.0)


def test_limit_of_thresholded_iou_counts_as_reached():
    just_below = PixelCounts(6499, 0, 3501, 0)
    assert thresholded_iou(just_below) == 0.0
    assert thresholded_iou(replace(just_below, true_positive=6500, false_negative=3500)) == 0.65


@given(mask_pairs)
def test_counts_match_a_loop_over_pixels(pair):
    truth, mask = pair
    tally = {(t, m): 0 for t in (True, False) for m in (True, False)}
    for t, m in zip(truth.ravel(), mask.ravel(), strict=True):
        tally[bool(t), bool(m)] += 1
    expected = (tally[True, True], tally[False, True], tally[True, False], tally[False, False])
    counts = count_pixels(truth, mask)
    assert tuple(vars(counts).values()) == expected
    assert all(type(value) is int for value in vars(counts).values())


@settings(max_examples=50, deadline=None)
@given(mask_pairs)
def test_scores_match_scikit_learn(pair):
    truth, mask = (array.ravel() for array in pair)
    counts = count_pixels(*pair)
    assert iou(counts) == pytest.approx(jaccard_score(truth, mask, zero_division=1.0))
    assert dice(counts) == pytest.approx(f1_score(truth, mask, zero_division=1.0))
    assert accuracy(counts) == pytest.approx(accuracy_score(truth, mask))
    assert sensitivity(counts) == pytest.approx(recall_score(truth, mask, zero_division=1.0))
    assert specificity(counts) == pytest.approx(recall_score(~truth, ~mask, zero_division=1.0))


@settings(max_examples=40)
@given(some_counts)
def test_pooled_scores_match_one_large_image(counts):
    pooled = PixelCounts(*[sum(vars(item)[name] for item in counts) for name in vars(counts[0])])
    flipped = PixelCounts(
        pooled.true_negative, pooled.false_negative, pooled.false_positive, pooled.true_positive
    )
    metrics = segmentation_metrics(counts, resamples=1)
    assert metrics["pooled_iou"] == pytest.approx(iou(pooled))
    assert metrics["two_class_iou"] == pytest.approx((iou(pooled) + iou(flipped)) / 2)


def test_numbers_are_plain():
    metrics = segmentation_metrics(GOLDEN)
    for name, value in metrics.items():
        assert type(value) in (int, float, dict), name
    for low, high in metrics["intervals"].values():
        assert type(low) is float
        assert low <= high


def test_intervals_hold_the_estimate_and_repeat_with_the_seed():
    generator = np.random.default_rng(0)
    counts = [PixelCounts(*row) for row in generator.integers(1, 200, (80, 4)).tolist()]
    metrics = segmentation_metrics(counts, seed=3)
    assert metrics == segmentation_metrics(counts, seed=3)
    assert metrics["intervals"] != segmentation_metrics(counts, seed=4)["intervals"]
    for name, (low, high) in metrics["intervals"].items():
        assert low < metrics[name] < high


def test_one_group_has_no_interval():
    metrics = segmentation_metrics(GOLDEN, groups=["patient"] * 5)
    assert metrics["n_groups"] == 1
    assert set(metrics["intervals"].values()) == {None}


def test_masks_of_another_size_or_type_and_none_are_refused():
    with pytest.raises(DataError, match="no images"):
        segmentation_metrics([])
    with pytest.raises(ShapeError, match="original size"):
        count_pixels(np.zeros((4, 4), bool), np.zeros((4, 5), bool))
    with pytest.raises(ShapeError, match="uint8"):
        count_pixels(np.zeros((4, 4), bool), np.zeros((4, 4), np.uint8))
    with pytest.raises(ShapeError):
        count_pixels(np.zeros((4, 4, 1), bool), np.zeros((4, 4, 1), bool))
