"""Conformal sets: the promised coverage, class by class."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cascade.errors import ConfigError, DataError, ShapeError
from cascade.reliability.conformal import ConformalScores, describe_sets

BOTH = ("benign", "malignant")
probability = st.floats(0.0, 1.0)


def simulated(count, generator):
    """Labels, one in four malignant, and overconfident probabilities of a weak classifier."""
    labels = (generator.random(count) < 0.25).astype(int)
    log_odds = generator.normal(4.0 * labels - 2.0, 3.0)
    return 1 / (1 + np.exp(-log_odds)), labels


@pytest.mark.parametrize("coverage", [0.8, 0.95])
def test_each_class_is_covered_as_promised(coverage):
    """Mean over many calibration sets; for one set the coverage itself is random."""
    generator = np.random.default_rng(1)
    covered = {0: [], 1: []}
    for _ in range(200):
        chances, labels = simulated(150, generator)
        scores = ConformalScores.from_probabilities(chances, labels)
        new, truth = simulated(200, generator)
        sets = scores.prediction_set(new, coverage)
        for label, kept in zip(truth, sets, strict=True):
            covered[label].append(BOTH[label] in kept)
    for flags in covered.values():
        tolerance = 3 * math.sqrt(coverage * (1 - coverage) / 200) / math.sqrt(30)
        assert np.mean(flags) >= coverage - tolerance - 0.005


def test_limit_is_the_textbook_quantile():
    """ceil((n + 1) * coverage) / n quantile of 1 - p, by brute force."""
    generator = np.random.default_rng(3)
    for count in (9, 10, 57, 109, 200):
        values = np.round(generator.random(count), 4)
        scores = ConformalScores(tuple(values), ())
        for coverage in (0.5, 0.8, 0.9):
            rank = next(k for k in range(count + 2) if k >= (count + 1) * coverage - 1e-9)
            expected = 1 - np.sort(1 - values)[rank - 1]
            assert scores.limits(coverage)["benign"] == pytest.approx(expected)


def test_ceiling_is_not_fooled_by_floating_point():
    values = tuple(k / 1000 for k in range(99))
    assert 100 * 0.55 > 55  # 55.00000000000001
    assert ConformalScores(values, ()).limits(0.55)["benign"] == values[99 - 55]


@pytest.mark.parametrize(("coverage", "smallest"), [(0.9, 9), (0.95, 19), (0.8, 4)])
def test_class_with_too_few_images_is_always_in_the_set(coverage, smallest):
    few = ConformalScores((0.9,) * 100, (0.9,) * (smallest - 1))
    assert few.limits(coverage) == {"benign": 0.9, "malignant": 0.0}
    assert few.prediction_set(0.0, coverage) == [BOTH]
    enough = ConformalScores((0.9,) * 100, (0.9,) * smallest)
    assert enough.prediction_set(0.0, coverage) == [("benign",)]


def test_empty_set_becomes_both():
    scores = ConformalScores((0.95,) * 50, (0.95,) * 50)
    assert scores.prediction_set([0.01, 0.5, 0.99]) == [("benign",), BOTH, ("malignant",)]
    assert scores.prediction_set([0.01, 0.5, 0.99], 1.0) == [BOTH] * 3
    assert ConformalScores((), ()).prediction_set(np.array([0.0, 0.5, 1.0])) == [BOTH] * 3


@given(
    st.lists(probability, max_size=40), st.lists(probability, max_size=40),
    probability, st.floats(0.01, 1.0), st.floats(0.01, 1.0),
)  # fmt: skip
def test_limits_fall_as_coverage_rises(benign, malignant, chance, one, other):
    scores = ConformalScores(tuple(benign), tuple(malignant))
    low, high = sorted((one, other))
    for name in BOTH:
        assert scores.limits(low)[name] >= scores.limits(high)[name]
    before, after = scores.prediction_set(chance, low)[0], scores.prediction_set(chance, high)[0]
    # An empty set of the lower coverage reads as both, and may shrink to one class
    empty = chance < scores.limits(low)["malignant"] and 1 - chance < scores.limits(low)["benign"]
    assert empty or set(before) <= set(after)


@given(st.lists(probability, max_size=30), st.lists(probability, max_size=30))
@settings(deadline=None)
def test_scores_survive_json_and_are_rounded_down(benign, malignant):
    scores = ConformalScores(tuple(benign), tuple(malignant))
    assert ConformalScores.from_dict(json.loads(json.dumps(scores.to_dict()))) == scores
    for stored, given_value in zip(scores.benign, sorted(benign), strict=True):
        assert given_value - 1e-4 <= stored <= given_value + 1e-9


def test_support_counts_calibration_images():
    scores = ConformalScores((0.2, 0.4, 0.6, 0.8), (0.5,))
    assert scores.support(0.5) == {"benign": 3 / 5, "malignant": 1.0}
    assert scores.support(1.0)["benign"] == 1 / 5


def test_sets_are_described_by_class():
    sets = [("benign",), ("benign",), BOTH, ("malignant",)]
    assert describe_sets(sets, np.array([0, 1, 1, 1])) == {
        "n": 4,
        "abstained": 0.25,
        "coverage": {"benign": 1.0, "malignant": pytest.approx(2 / 3)},
        "accuracy_if_answered": pytest.approx(2 / 3),
    }
    assert describe_sets([BOTH], np.array([0]))["accuracy_if_answered"] is None
    assert describe_sets([BOTH], np.array([0]))["coverage"]["malignant"] is None


def test_what_makes_no_sense_is_refused():
    scores = ConformalScores((0.5,), (0.5,))
    for coverage in (0.0, 1.1, math.nan):
        with pytest.raises(ConfigError, match="coverage"):
            scores.prediction_set(0.5, coverage)
    with pytest.raises(ShapeError, match="within"):
        scores.prediction_set(np.array([0.5, math.nan]))
    with pytest.raises(ConfigError, match="outside"):
        ConformalScores((1.5,), ())
    for values in ({}, {"benign": [0.5]}, {"benign": [], "malignant": 3}, {"benign": [], "x": []}):
        with pytest.raises(ConfigError, match="for each of benign, malignant"):
            ConformalScores.from_dict(values)
    with pytest.raises(DataError, match="labels"):
        ConformalScores.from_probabilities(np.array([0.5]), np.array([2]))
    with pytest.raises(ShapeError, match="give one each"):
        ConformalScores.from_probabilities(np.array([0.5]), np.array([0, 1]))
    with pytest.raises(ShapeError, match="one of each"):
        describe_sets([], np.array([]))
