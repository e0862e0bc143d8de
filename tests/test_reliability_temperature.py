"""Temperature and bias against known truths and independent optimisers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cascade.errors import ConfigError, DataError, ShapeError
from cascade.reliability.temperature import (
    Calibration,
    calibrated_probabilities,
    fit_platt,
)


def simulated(count, *, temperature=1.0, bias=0.0, spread=2.0, seed=0):
    """Logits whose true probabilities are ``sigmoid(difference / temperature + bias)``."""
    generator = np.random.default_rng(seed)
    difference = generator.normal(0.0, spread * temperature, count)
    chances = 1 / (1 + np.exp(-(difference / temperature + bias)))
    labels = (generator.random(count) < chances).astype(np.int64)
    offset = generator.normal(0.0, 3.0, count)  # only the difference may matter
    return np.stack([offset, offset + difference], axis=1), labels


def loss(logits, targets, temperature, bias=0.0):
    chances = calibrated_probabilities(logits, temperature, bias)[:, 1].astype(np.float64)
    chances = np.clip(chances, 1e-7, 1 - 1e-7)
    return -np.mean(targets * np.log(chances) + (1 - targets) * np.log(1 - chances))


@pytest.mark.parametrize(("temperature", "bias"), [(1.0, 0.0), (2.5, -1.2), (0.5, 0.8)])
def test_known_temperature_and_bias_are_recovered(temperature, bias):
    logits, labels = simulated(20000, temperature=temperature, bias=bias, seed=1)
    fitted = fit_platt(logits, labels)
    assert fitted.temperature == pytest.approx(temperature, rel=0.06)
    assert fitted.bias == pytest.approx(bias, abs=0.08)


def test_platt_equals_a_logistic_regression_without_penalty():
    from sklearn.linear_model import LogisticRegression

    logits, labels = simulated(5000, temperature=1.6, bias=-0.7, seed=3)
    difference = (logits[:, 1] - logits[:, 0])[:, None]
    witness = LogisticRegression(C=1e9, tol=1e-10).fit(difference, labels)
    fitted = fit_platt(logits, labels)
    # Platt's targets are not quite 0 and 1, hence not exactly equal
    assert 1 / fitted.temperature == pytest.approx(witness.coef_[0, 0], rel=5e-3)
    assert fitted.bias == pytest.approx(witness.intercept_[0], abs=5e-3)


def test_platt_is_the_minimum_for_its_softened_targets():
    from scipy.optimize import minimize

    logits, labels = simulated(60, temperature=0.8, bias=1.0, seed=4)
    difference, positives = logits[:, 1] - logits[:, 0], labels.sum()
    targets = np.where(labels == 1, (positives + 1) / (positives + 2), 1 / (62 - positives))

    def cost(line):
        log_odds = line[0] * difference + line[1]
        return np.sum(np.logaddexp(0, log_odds) - targets * log_odds)

    witness = minimize(cost, [1.0, 0.0], tol=1e-12).x
    fitted = fit_platt(logits, labels)
    assert 1 / fitted.temperature == pytest.approx(witness[0], rel=1e-4)
    assert fitted.bias == pytest.approx(witness[1], abs=1e-4)


def test_balanced_training_is_undone_by_the_bias():
    logits, labels = simulated(20000, bias=-2.0, seed=5)  # as if 7 in 8 malignant were left out
    fitted = fit_platt(logits, labels)
    mean = fitted.probabilities(logits)[:, 1].mean()
    assert mean == pytest.approx(labels.mean(), abs=0.005)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.2, 4.0), st.floats(-2.0, 2.0))
def test_calibration_never_raises_the_loss_on_its_own_images(seed, temperature, bias):
    logits, labels = simulated(80, temperature=temperature, bias=bias, seed=seed)
    if len(set(labels.tolist())) < 2:
        return
    malignant = labels.sum()
    soft = np.where(labels == 1, (malignant + 1) / (malignant + 2), 1 / (82 - malignant))
    fitted = fit_platt(logits, labels)
    assert 0.05 <= fitted.temperature <= 20
    before = loss(logits, soft, 1.0)
    assert loss(logits, soft, fitted.temperature, fitted.bias) <= before + 1e-6


def test_separated_classes_give_a_finite_answer():
    logits = np.array([[0.0, -1.0], [0.0, -2.0], [0.0, 1.0], [0.0, 2.0]])
    labels = np.array([0, 0, 1, 1])
    fitted = fit_platt(logits, labels)
    assert fitted.temperature > 0.3, "the softened targets hold it back"
    assert abs(fitted.bias) < 1e-6


def test_scores_the_wrong_way_round_never_get_a_negative_temperature(caplog):
    logits, labels = simulated(500, seed=7)
    fitted = fit_platt(logits, 1 - labels)
    assert "limit" in caplog.text
    assert fitted.temperature == pytest.approx(20.0)
    assert fitted.probabilities(logits)[:, 1].mean() == pytest.approx((1 - labels).mean(), abs=0.01)


def test_equal_logits_leave_only_the_prior():
    logits, labels = np.zeros((10, 2)), np.array([1, 1, 0, 0, 0, 0, 0, 0, 0, 0])
    fitted = fit_platt(logits, labels)
    assert fitted.temperature == 1.0
    # two targets of 3/4 and eight of 1/10
    assert fitted.probabilities(logits)[0, 1] == pytest.approx((2 * 0.75 + 8 * 0.1) / 10)


def test_without_bias_this_is_the_softmax():
    logits = np.random.default_rng(0).normal(size=(20, 2))
    powers = np.exp(logits / 1.7)
    expected = powers / powers.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(calibrated_probabilities(logits, 1.7), expected, atol=1e-6)


def test_huge_logits_do_not_overflow():
    chances = calibrated_probabilities(np.array([[0.0, 1e6], [1e6, 0.0]]))
    np.testing.assert_array_equal(chances, [[0, 1], [1, 0]])
    assert chances.dtype == np.float32


def test_what_cannot_be_fitted_is_refused():
    logits = np.zeros((4, 2))
    with pytest.raises(DataError, match="no malignant image"):
        fit_platt(logits, np.zeros(4, int))
    with pytest.raises(DataError, match="no benign image"):
        fit_platt(logits, np.ones(4, int))
    with pytest.raises(DataError, match="labels must be"):
        fit_platt(logits, np.array([0, 1, 2, 1]))
    with pytest.raises(ShapeError, match="one label"):
        fit_platt(logits, np.array([0, 1]))
    with pytest.raises(ShapeError, match="benign first"):
        fit_platt(np.zeros(4), np.array([0, 1, 0, 1]))
    with pytest.raises(ShapeError, match="finite"):
        fit_platt(np.full((4, 2), np.nan), np.array([0, 1, 0, 1]))


def test_a_calibration_has_limits():
    with pytest.raises(ConfigError, match="temperature"):
        Calibration(temperature=0.0)
