"""A lesion among those of its patient: rank and distance, against statistics by hand."""

from __future__ import annotations

import math
import statistics
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from cascade.data.synthetic import draw_lesion
from cascade.errors import ShapeError
from cascade.fields import row
from cascade.lesion.measurements import measure
from cascade.lesion.patient import FEATURES, feature_row, patient_contexts, ugly_duckling_scores
from cascade.pipeline import Prediction
from cascade.pipeline.patients import PatientRows, contexts_of

LEAST = list(FEATURES.values())
WIDTH = len(FEATURES)
VALUES = st.integers(-40, 40).map(lambda number: number / 8)
PATIENTS = st.integers(4, 9).flatmap(lambda n: arrays(np.float64, (n, WIDTH), elements=VALUES))
"""Eighths, so that shifts and sums are exact; ties are frequent."""


def by_hand(features):
    """The formula of docs/patients.md with the standard library, one lesion after the other."""
    scores = []
    for i, own in enumerate(features):
        squares = []
        for j, least in enumerate(LEAST):
            others = [row[j] for k, row in enumerate(features) if k != i]
            centre = statistics.median(others)
            spread = 1.4826 * statistics.median(abs(value - centre) for value in others)
            squares.append(((own[j] - centre) / max(spread, least)) ** 2)
        scores.append(math.sqrt(statistics.fmean(squares)))
    return scores


def contexts(features, chances=None, lesions=None):
    chances = np.full(len(features), 0.5) if chances is None else np.array(chances)
    return patient_contexts(np.asarray(features, np.float64), chances, lesions)


def scores(*args, **kwargs):
    return [item.ugly_duckling_score for item in contexts(*args, **kwargs)]


def alike(count=6, *, seed=0):
    """Lesions of one style."""
    middle = np.array([0.06, 1.03, 9.0, 50.0, 17.0, 20.0])
    noise = np.random.default_rng(seed).normal(size=(count, WIDTH))
    return middle + noise * np.array(LEAST) * 0.8


# --- the formula ----------------------------------------------------------------------------------


@given(PATIENTS)
def test_the_score_is_the_formula(features):
    assert ugly_duckling_scores(features) == pytest.approx(by_hand(features.tolist()))


def test_a_number_worked_out_on_paper():
    """Three others with lightness 50, 56 and 44: median 50, deviations 0, 6, 6; z = 24 / 8.8956."""
    features = np.zeros((4, WIDTH))
    features[:, 3] = (74, 50, 56, 44)
    assert ugly_duckling_scores(features)[0] == pytest.approx(24 / 8.8956 / math.sqrt(6))


@given(PATIENTS, st.randoms())
def test_the_order_of_the_lesions_does_not_matter(features, random):
    order = list(range(len(features)))
    random.shuffle(order)
    shuffled = ugly_duckling_scores(features[order])
    assert shuffled == pytest.approx(ugly_duckling_scores(features)[order])


@given(PATIENTS, VALUES)
def test_only_differences_count(features, shift):
    assert ugly_duckling_scores(features + shift) == pytest.approx(ugly_duckling_scores(features))


@given(PATIENTS, st.sampled_from([2.0, 4.0, 64.0]))
def test_a_wider_spread_of_all_never_makes_a_lesion_less_odd_nor_odder_than_the_factor(
    features, by
):
    """Where the spread is that of the lesions the score stays, where it is the least it grows."""
    before, after = ugly_duckling_scores(features), ugly_duckling_scores(features * by)
    assert (after >= before - 1e-9).all()
    assert (after <= by * before + 1e-9).all()


def test_far_beyond_the_least_spread_the_unit_does_not_matter():
    features = np.random.default_rng(1).normal(size=(9, WIDTH)) * 1e4
    assert ugly_duckling_scores(features * 7) == pytest.approx(ugly_duckling_scores(features))


def test_a_second_odd_lesion_hides_the_first_hardly():
    """Unlike a mean and a standard deviation, of which 2 of 12 may fall below 2.3."""
    features = alike(12)
    features[:2, 3] -= 40
    found = ugly_duckling_scores(features)
    assert min(found[:2]) > 2 * max(found[2:])


def test_equal_lesions_are_not_odd():
    assert scores(np.ones((5, WIDTH))) == [0.0] * 5


# --- who is compared ------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_below_four_lesions_there_is_no_score(count):
    found = contexts(alike(count).reshape(count, WIDTH))
    assert len(found) == count
    assert all(math.isnan(item.ugly_duckling_score) for item in found)


@given(st.integers(0, 8), st.integers(0, 8))
def test_lesions_that_were_not_measured_count_for_nothing(measured, missing):
    features = alike(measured + missing).reshape(-1, WIDTH)
    features[measured:] = math.nan
    found = scores(features)
    assert all(math.isnan(score) for score in found[measured:])
    if measured < 4:
        assert all(math.isnan(score) for score in found)
    else:
        assert found[:measured] == pytest.approx(by_hand(features[:measured].tolist()))


@given(PATIENTS, st.data())
def test_a_second_image_of_a_lesion_changes_nothing(features, data):
    """It does where it counts as another lesion: that is the witness."""
    copied = data.draw(st.integers(0, len(features) - 1))
    names = [f"lesion {number}" for number in range(len(features))]
    twice = np.vstack([features, features[copied]])
    chances = np.linspace(0.1, 0.9, len(features))
    once = contexts(features, chances, names)
    with_copy = contexts(twice, [*chances, chances[copied]], [*names, names[copied]])
    assert with_copy == [*once, once[copied]]


def test_a_copy_that_counts_as_another_lesion_hides_the_odd_one():
    features = alike(4)
    features[0, 3] -= 60
    doubled = np.vstack([features, features[0]])
    assert scores(doubled)[0] < scores(features)[0]


def test_images_of_one_lesion_give_their_median_and_share_a_context():
    features = alike(6)
    one, two, three = contexts(features, [0.9, 0.1, 0.2, 0.3, 0.4, 0.5], [*"aaabcd"])[:3]
    middle = np.vstack([np.median(features[:3], axis=0), features[3:]])
    assert one == two == three
    assert one.ugly_duckling_score == pytest.approx(by_hand(middle.tolist())[0])
    assert (one.rank, one.lesions) == (4, 4)


def test_lesions_without_a_name_are_lesions_of_their_own():
    features = alike(5)
    assert scores(features, lesions=[None, "", None, "", "x"]) == scores(features)


# --- rank -----------------------------------------------------------------------------------------


@given(st.lists(st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0, math.nan]), min_size=1, max_size=9))
def test_the_rank_counts_the_lesions_above(chances):
    known = [chance for chance in chances if not math.isnan(chance)]
    for item, chance in zip(contexts(alike(len(chances)), chances), chances, strict=True):
        above = sum(other > chance for other in known)
        assert item.rank == (None if math.isnan(chance) else 1 + above)
        assert item.lesions == len(known)


def test_a_wrong_number_of_anything_is_an_error():
    with pytest.raises(ShapeError, match="one probability and one lesion for each image"):
        patient_contexts(alike(4), np.ones(3))
    with pytest.raises(ShapeError, match="4 probabilities and 3 lesions"):
        patient_contexts(alike(4), np.ones(4), ["a", "b", "c"])
    with pytest.raises(ShapeError):
        patient_contexts(alike(4)[:, :2], np.ones(4))


# --- predictions ----------------------------------------------------------------------------------


def test_the_features_are_the_measurements(fake_cascade, lesion):
    (found,) = fake_cascade(lesion.image)
    row = feature_row(found.measurements)
    assert row == [getattr(found.measurements, name) for name in FEATURES]
    assert all(math.isnan(value) for value in feature_row(None))


def test_a_patient_is_predicted_and_compared(fake_cascade, lesion):
    brighter = (0, 3, 6, 9, -40)
    images = [np.clip(lesion.image + float(step), 0, 255).astype(np.uint8) for step in brighter]
    results = fake_cascade.predict_patient(images)
    plain = fake_cascade(images)
    assert [item.label for item, _ in results] == [item.label for item in plain]
    chances = [item.probabilities["malignant"] for item in plain]
    found = [context for _, context in results]
    assert [item.rank for item in found] == [sorted(chances)[::-1].index(c) + 1 for c in chances]
    rows = [feature_row(item.measurements) for item in plain]
    assert [item.ugly_duckling_score for item in found] == pytest.approx(by_hand(rows))
    shared = fake_cascade.predict_patient(images, lesions=["a", "a", "b", "c", "d"])
    assert shared[0][1] == shared[1][1]
    assert shared[0][1].lesions == 4


def test_scaling_and_turning_the_images_keeps_the_scores():
    drawn = [draw_lesion(np.random.default_rng(n), malignant=False, shape=(96, 112), tone=0.1)
             for n in range(4)]  # fmt: skip
    drawn[3] = replace(drawn[3], image=drawn[3].image // 2)

    def found(change):
        pairs = [[np.ascontiguousarray(change(array)) for array in (item.image, item.mask)]
                 for item in drawn]  # fmt: skip
        return ugly_duckling_scores(np.array([feature_row(measure(*pair)) for pair in pairs]))

    first = found(np.asarray)
    assert first.max() > 1.5 * first.min()
    assert found(np.rot90) == pytest.approx(first, rel=0.02)
    assert found(lambda a: a.repeat(2, axis=0).repeat(2, axis=1)) == pytest.approx(first, rel=0.1)


def test_a_mask_that_is_not_trusted_and_a_failed_image_are_not_compared(fake_cascade, lesion):
    (found,) = fake_cascade(lesion.image)
    doubted = replace(found, mask_issues=("small",))
    *judged, last = contexts_of([found, found, found, found, doubted, None])
    assert [item.ugly_duckling_score for item in judged[:4]] == [0.0] * 4
    assert math.isnan(judged[4].ugly_duckling_score)
    assert judged[4].rank == 1, "its probability counts all the same"
    assert (last.rank, last.lesions) == (None, 5)
    assert all(
        math.isnan(item.ugly_duckling_score) for item in contexts_of([found] * 3 + [doubted])
    )
    assert contexts_of([]) == []


def test_an_image_out_of_distribution_is_not_compared(fake_cascade, lesion):
    (found,) = fake_cascade(lesion.image)
    strange = replace(found, out_of_distribution_score=1.5)
    *judged, last = contexts_of([found, found, found, found, strange])
    assert (last.rank, last.lesions) == (None, 4), "its probability means nothing"
    assert math.isnan(last.ugly_duckling_score)
    assert [item.ugly_duckling_score for item in judged] == [0.0] * 4
    rows = PatientRows()
    for item in (found, found, found, found, strange):
        rows.add(row(Prediction, item), patient="A", lesion="")
    assert [item.rank for item in rows.contexts()] == [1, 1, 1, 1, None]
