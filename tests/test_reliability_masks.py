"""Signs of a bad mask, and the limits fitted on them."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from cascade.errors import ConfigError, DataError, ShapeError
from cascade.fields import to_json
from cascade.lesion.masking import MaskPolicy, find_lesion
from cascade.reliability.mask_quality import MaskQuality, mask_quality
from cascade.reliability.mask_quality_limits import (
    MaskQualityLimits,
    fit_mask_quality_limits,
    fit_whole_image_limit,
)

SIDE = 64
POLICY = MaskPolicy()
GOOD = MaskQuality(0.2, 1, 1.0, 0.0, 0.95, 0.9, 0.05)


def disc(row, column, radius, height=1.0):
    rows, columns = np.indices((SIDE, SIDE))
    inside = (rows - row) ** 2 + (columns - column) ** 2 <= radius**2
    return np.where(inside, height, 0.0).astype(np.float32)


def quality(probability, *, shape=None, views=None):
    return mask_quality(probability, find_lesion(probability, POLICY, shape=shape), views=views)


def test_sure_disc_is_perfect():
    assert quality(disc(32, 32, 12)) == MaskQuality(
        area_fraction=pytest.approx(np.pi * 144 / SIDE**2, rel=0.03),
        component_count=1,
        largest_component_share=1.0,
        border_contact=0.0,
        confidence=1.0,
        expected_iou=1.0,
        flip_disagreement=None,
    )
    assert quality(disc(32, 32, 12)).score == 1.0


def test_second_region_lowers_its_share_and_the_expected_iou():
    two = quality(np.maximum(disc(20, 20, 10), disc(48, 48, 5)))
    assert two.component_count == 2
    large, small = np.count_nonzero(disc(20, 20, 10)), np.count_nonzero(disc(48, 48, 5))
    assert two.largest_component_share == pytest.approx(large / (large + small))
    assert two.expected_iou == pytest.approx(large / (large + small))
    assert two.confidence == 1.0


def test_probability_beside_the_mask_lowers_the_expected_iou_only():
    probability = np.maximum(disc(32, 32, 10), disc(32, 32, 20, height=0.4))
    measured = quality(probability)
    assert measured.confidence == 1.0
    inner, outer = np.count_nonzero(disc(32, 32, 10)), np.count_nonzero(disc(32, 32, 20))
    assert measured.expected_iou == pytest.approx(inner / (inner + 0.4 * (outer - inner)))


def test_border_contact_is_the_share_of_the_frame():
    everywhere = np.ones((SIDE, SIDE), np.float32)
    assert quality(everywhere).border_contact == 1.0
    half = everywhere.copy()
    half[:, : SIDE // 2] = 0
    assert quality(half).border_contact == pytest.approx((2 * 32 + 62) / (4 * SIDE - 4))
    assert quality(disc(32, 32, 5)).border_contact == 0.0


def test_expected_iou_is_near_the_mean_iou_of_masks_drawn_from_the_map():
    generator = np.random.default_rng(0)
    probability = cv2.GaussianBlur(disc(32, 32, 14), (0, 0), 5)
    lesion = find_lesion(probability, POLICY)
    ious = []
    for _ in range(300):
        drawn = generator.random(probability.shape) < probability
        ious.append(np.count_nonzero(drawn & lesion.mask) / np.count_nonzero(drawn | lesion.mask))
    assert mask_quality(probability, lesion).expected_iou == pytest.approx(np.mean(ious), abs=0.01)


def test_lesion_may_be_at_another_size_than_the_map():
    probability = cv2.GaussianBlur(disc(30, 34, 14), (0, 0), 2)
    same, larger = quality(probability), quality(probability, shape=(480, 640))
    for name in ("area_fraction", "confidence", "expected_iou", "largest_component_share"):
        assert getattr(larger, name) == pytest.approx(getattr(same, name), abs=0.03)


def test_tiny_lesion_in_a_large_image_is_still_measured():
    probability = np.zeros((SIDE, SIDE), np.float32)
    mask = np.zeros((1000, 1000), np.bool_)
    mask[:4, :4] = True
    lesion = replace(find_lesion(disc(32, 32, 5), POLICY), mask=mask)
    assert mask_quality(probability + 0.25, lesion).confidence == pytest.approx(0.25)


def test_views_that_agree_disagree_by_nothing():
    probability = disc(32, 32, 12)
    same = quality(probability, views=np.stack([probability] * 4))
    assert same.flip_disagreement == pytest.approx(0.0, abs=1e-6)
    empty = np.zeros((4, SIDE, SIDE), np.float32)
    assert quality(empty[0], views=empty).flip_disagreement == 0.0
    assert quality(probability, views=probability[None]).flip_disagreement is None


def test_disagreement_is_one_minus_the_mean_iou_of_pairs():
    generator = np.random.default_rng(1)
    views = generator.random((4, SIDE, SIDE)).astype(np.float32)
    pairs = []
    for i in range(4):
        for j in range(i):
            one, other = views[i] >= 0.5, views[j] >= 0.5
            pairs.append(np.count_nonzero(one & other) / np.count_nonzero(one | other))
    measured = quality(views.mean(axis=0), views=views)
    assert measured.flip_disagreement == pytest.approx(1 - np.mean(pairs), abs=1e-5)
    assert measured.score == pytest.approx(measured.expected_iou * np.mean(pairs), abs=1e-5)


@settings(max_examples=30, deadline=None)
@given(
    st_numpy.arrays(np.float32, (12, 15), elements=st.floats(0, 1, width=32)),
    st.sampled_from([None, (12, 15), (31, 20), (7, 5)]),
)
def test_all_signs_stay_within_their_range(probability, shape):
    measured = quality(probability, shape=shape, views=np.stack([probability, probability[::-1]]))
    numbers = to_json(measured)
    assert numbers.pop("component_count") >= 0
    assert all(0 <= value <= 1 for value in numbers.values())
    json.dumps(to_json(measured), allow_nan=False)


@pytest.mark.parametrize(
    "bad", [np.zeros((4, 4, 1), np.float32), np.zeros((4, 4), np.uint8), np.full((4, 4), 2.0)]
)
def test_what_is_no_probability_map_is_refused(bad):
    lesion = find_lesion(np.zeros((4, 4), np.float32), POLICY)
    with pytest.raises(ShapeError):
        mask_quality(bad, lesion)
    with pytest.raises(ShapeError):
        mask_quality(np.zeros((4, 4), np.float32), lesion, views=bad[..., 0])


def test_default_limits_turn_away_an_empty_mask_only():
    assert MaskQualityLimits().reasons(GOOD) == ()
    assert MaskQualityLimits().reasons(MaskQuality(1.0, 9, 0.1, 1.0, 0.5, 0.1, 1.0)) == ()
    empty = quality(np.full((SIDE, SIDE), 0.1, np.float32))
    assert empty == MaskQuality(0.0, 0, 0.0, 0.0, 0.0, 0.0)
    assert empty.score == 0.0
    assert MaskQualityLimits().reasons(empty) == ("no lesion was found",)


@pytest.mark.parametrize(
    ("limit", "words"),
    [
        ({"smallest_area": 0.3}, "share of the image is 0.2, below .* 0.3"),
        ({"largest_area": 0.1}, "share of the image is 0.2, above .* 0.1"),
        ({"lowest_confidence": 0.97}, "probability .* 0.95, below .* 0.97"),
        ({"lowest_expected_iou": 0.91}, "expected IoU is 0.9, below .* 0.91"),
        ({"largest_disagreement": 0.01}, "disagreement .* 0.05, above .* 0.01"),
    ],
)
def test_each_limit_gives_its_reason_with_both_numbers(limit, words):
    (reason,) = MaskQualityLimits(**limit).reasons(GOOD)
    assert re.search(words, reason)


def test_a_trusted_mask_is_never_replaced_and_one_of_low_quality_up_to_the_second_limit():
    assert not MaskQualityLimits().replaces(GOOD)
    limits = MaskQualityLimits(smallest_area=0.3)
    assert limits.replaces(GOOD), "unless told otherwise"
    assert replace(limits, whole_image_up_to=GOOD.expected_iou).replaces(GOOD)
    assert not replace(limits, whole_image_up_to=GOOD.expected_iou - 0.01).replaces(GOOD)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_no_other_limit_for_the_whole_image_explains_the_labels_better(count, seed):
    generator = np.random.default_rng(seed)
    ious, crops, wholes = generator.uniform(0.01, 0.99, (3, count))
    labels = generator.integers(0, 2, count)

    def loss(limit):
        chances = np.where(ious <= limit, wholes, crops)
        return -np.log(np.where(labels == 1, chances, 1 - chances)).mean()

    chosen = fit_whole_image_limit(ious, crops, wholes, labels)
    for step in range(21):
        assert loss(chosen) <= loss(step / 20) + 1e-12
    assert all(loss(step / 20) > loss(chosen) for step in range(round(chosen * 20)))


def test_whole_images_that_are_always_worse_replace_no_mask_and_always_better_all():
    ious, labels = np.array([0.2, 0.6, 0.97]), np.array([0, 1, 1])
    right, wrong = np.array([0.1, 0.8, 0.9]), np.array([0.6, 0.4, 0.5])
    assert fit_whole_image_limit(ious, right, wrong, labels) == 0.0
    assert fit_whole_image_limit(ious, wrong, right, labels) == 1.0
    certain = np.array([1.0, 0.8, 0.9])  # a probability of 0 for what came true
    assert np.isfinite(fit_whole_image_limit(ious, certain, wrong, labels))
    assert fit_whole_image_limit(*np.zeros((4, 0))) == 1.0
    with pytest.raises(DataError, match="2, 3 images"):
        fit_whole_image_limit(ious, right, wrong, labels[:2])


def test_several_reasons_are_all_given():
    poor = MaskQuality(0.2, 5, 0.4, 0.8, 0.95, 0.9)
    limits = MaskQualityLimits(
        most_components=2, smallest_component_share=0.5, largest_border_contact=0.5,
        largest_disagreement=0.01,
    )  # fmt: skip
    reasons = limits.reasons(poor)
    assert len(reasons) == 3, "without views their disagreement is not judged"
    assert len(limits.reasons(GOOD)) == 1


def test_limits_survive_json():
    limits = MaskQualityLimits(most_components=3, lowest_expected_iou=0.5)
    assert MaskQualityLimits.from_dict(json.loads(json.dumps(limits.to_dict()))) == limits
    assert (
        MaskQualityLimits.from_dict(json.loads(json.dumps(MaskQualityLimits().to_dict())))
        == MaskQualityLimits()
    )
    with pytest.raises(ConfigError, match="did you mean"):
        MaskQualityLimits.from_dict({"smalest_area": 0.1})
    with pytest.raises(ConfigError, match="within"):
        MaskQualityLimits(lowest_confidence=1.5)


def validation(count=200, bad_share=0.08, seed=0):
    """Good masks expect a high IoU, bad ones a low one, with some overlap."""
    generator = np.random.default_rng(seed)
    bad = np.arange(count) < bad_share * count
    expected = np.clip(generator.normal(np.where(bad, 0.55, 0.9), 0.05), 0, 1)
    ious = np.clip(generator.normal(np.where(bad, 0.4, 0.88), 0.04), 0, 1)
    qualities = [replace(GOOD, expected_iou=float(value)) for value in expected]
    return qualities, ious, bad


def test_fitted_limit_parts_bad_masks_from_good_ones():
    qualities, ious, bad = validation()
    limits = fit_mask_quality_limits(qualities, ious)
    assert 0.6 < limits.lowest_expected_iou < 0.8
    rejected = np.array([bool(limits.reasons(item)) for item in qualities])
    assert rejected[bad].mean() > 0.9
    assert rejected[~bad].mean() < 0.01


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 1000), st.floats(0.0, 0.9), st.floats(0.0, 0.5))
def test_no_more_are_turned_away_than_allowed(seed, bad_share, allowed):
    generator = np.random.default_rng(seed)
    qualities, ious, _ = validation(40, bad_share, seed)
    others = generator.uniform((0.01, 0.5), (1.0, 1.0), (40, 2)).tolist()
    qualities = [
        replace(item, area_fraction=area, confidence=confidence)
        for item, (area, confidence) in zip(qualities, others, strict=True)
    ]
    limits = fit_mask_quality_limits(qualities, ious, rejected_share_at_most=allowed)
    assert sum(bool(limits.reasons(item)) for item in qualities) <= allowed * 40 + 1e-9


def test_other_signs_are_limited_to_what_good_masks_showed():
    qualities, ious, _ = validation()
    qualities[0] = replace(qualities[0], border_contact=0.9, component_count=7)  # a bad one
    qualities[-1] = replace(qualities[-1], border_contact=0.2)  # a good one
    limits = fit_mask_quality_limits(qualities, ious)
    assert (limits.largest_border_contact, limits.most_components) == (0.2, 1)
    assert limits.reasons(replace(GOOD, border_contact=0.3))


def test_empty_masks_are_counted_and_single_good_mask_suffices():
    empty = MaskQuality(0.0, 0, 0.0, 0.0, 0.0, 0.0)
    limits = fit_mask_quality_limits([GOOD, empty], [0.9, 0.0])
    assert limits.reasons(GOOD) == ()
    assert limits.reasons(empty) == ("no lesion was found",)


def test_what_cannot_be_fitted_is_refused():
    with pytest.raises(DataError, match="none of 1 masks"):
        fit_mask_quality_limits([GOOD], [0.3])
    with pytest.raises(DataError, match="give one"):
        fit_mask_quality_limits([GOOD], [0.3, 0.4])
    with pytest.raises(DataError, match="rejected_share"):
        fit_mask_quality_limits([GOOD], [0.9], rejected_share_at_most=2)
