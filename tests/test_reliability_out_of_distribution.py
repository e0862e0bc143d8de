"""Out-of-distribution features stand out; the distance is Mahalanobis'."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from cascade.errors import ConfigError, DataError, ShapeError
from cascade.reliability.out_of_distribution import (
    OutOfDistributionDetector,
    fit_out_of_distribution_detector,
    pooled_features,
)


def gaussian(count, width=40, *, seed=0, shift=0.0, rank=4):
    """Features with a few strong directions and unequal scales."""
    fixed = np.random.default_rng(99)
    loadings = fixed.normal(0, 2, (rank, width))
    scale = fixed.uniform(0.1, 3.0, width)
    generator = np.random.default_rng(seed)
    latent = generator.normal(size=(count, rank))
    features = latent @ loadings + generator.normal(size=(count, width)) + shift
    return (features * scale + 5).astype(np.float32)


@pytest.fixture(scope="module")
def model():
    return fit_out_of_distribution_detector(
        gaussian(800), held_out=gaussian(400, seed=1), components=4, false_alarm=0.05
    )


def test_false_alarms_are_as_rare_as_asked(model):
    assert model.is_in_distribution(gaussian(4000, seed=3)).mean() == pytest.approx(0.95, abs=0.025)


def test_shifted_images_are_out_of_distribution(model):
    assert not model.is_in_distribution(gaussian(200, seed=4, shift=3.0)).any()
    noise = np.random.default_rng(5).normal(5, 30, (200, 40)).astype(np.float32)
    assert not model.is_in_distribution(noise).any()


def test_distance_is_mahalanobis_under_the_stated_covariance(model):
    from scipy.spatial.distance import mahalanobis
    from scipy.stats import multivariate_normal

    directions = model.components.astype(np.float64)
    covariance = directions.T @ np.diag(model.variances - model.noise_variance) @ directions
    covariance += model.noise_variance * np.eye(model.width)
    features = gaussian(20, seed=6, shift=0.5)
    scaled = (features - model.mean) / model.scale
    inverse = np.linalg.inv(covariance)
    expected = [mahalanobis(row, np.zeros(40), inverse) / np.sqrt(40) for row in scaled]
    np.testing.assert_allclose(model.distance(features), expected, rtol=2e-3)  # float16 rows

    density = multivariate_normal(np.zeros(40), covariance)
    squares = -2 * (density.logpdf(scaled) - density.logpdf(np.zeros(40)))
    np.testing.assert_allclose(model.distance(features), np.sqrt(squares / 40), rtol=2e-3)


def test_fit_is_the_maximum_likelihood_of_tipping_and_bishop(model):
    """scikit-learn's PCA is the same model; its noise is the mean of the other eigenvalues."""
    from sklearn.decomposition import PCA

    scaled = (gaussian(800) - model.mean) / model.scale
    witness = PCA(n_components=4, svd_solver="full").fit(scaled)
    np.testing.assert_allclose(model.variances, witness.explained_variance_, rtol=1e-4)
    assert model.noise_variance == pytest.approx(witness.noise_variance_, rel=1e-4)
    alike = np.abs((model.components.astype(np.float64) * witness.components_).sum(axis=1))
    np.testing.assert_allclose(alike, 1.0, atol=1e-3)


def test_threshold_is_a_rank_of_held_out_distances():
    held_out = gaussian(99, seed=7)
    for false_alarm, rank in ((0.05, 95), (0.01, 99), (0.001, 99)):
        model = fit_out_of_distribution_detector(
            gaussian(300), held_out=held_out, false_alarm=false_alarm
        )
        assert model.threshold == np.sort(model.distance(held_out))[rank - 1]


def test_model_survives_storage_to_the_last_bit(model):
    settings = json.loads(json.dumps(model.settings(), allow_nan=False))
    back = OutOfDistributionDetector.from_arrays(model.to_arrays(), settings)
    features = gaussian(50, seed=8)
    np.testing.assert_array_equal(back.distance(features), model.distance(features))
    assert back.threshold == model.threshold


def test_few_images_and_silent_features_still_give_a_model():
    generator = np.random.default_rng(12)
    features = generator.normal(size=(6, 20)).astype(np.float32)
    features[:, 3] = 0.0
    model = fit_out_of_distribution_detector(features, held_out=features + 0.1, components=32)
    assert model.components.shape == (4, 20)
    assert np.isfinite(model.distance(features)).all()
    loud = features.copy()
    loud[:, 3] = 100.0
    assert not model.is_in_distribution(loud).any()


def test_features_that_are_not_numbers_are_out_of_distribution_and_spoil_no_others(model):
    features = gaussian(3, seed=13)
    features[1, 5] = np.nan
    distances = model.distance(features)
    assert np.isinf(distances[1])
    np.testing.assert_allclose(distances[[0, 2]], model.distance(features[[0, 2]]))
    assert model.distance(features[:0]).shape == (0,)


def test_pooled_features_are_means_and_deviations_of_length_one():
    activations = np.random.default_rng(14).normal(1, 2, (3, 5, 4, 6)).astype(np.float32)
    features = pooled_features(activations)
    assert (features.shape, features.dtype) == ((3, 10), np.float32)
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1.0, rtol=1e-5)
    ratio = features[1, 2] / features[1, 5 + 3]
    assert ratio == pytest.approx(activations[1, 2].mean() / activations[1, 3].std(), rel=1e-4)
    np.testing.assert_allclose(pooled_features(7 * activations), features, rtol=1e-4)
    np.testing.assert_array_equal(pooled_features(np.zeros((2, 3, 4, 4), np.float32)), 0.0)
    with pytest.raises(ShapeError, match="C, h, w"):
        pooled_features(features)


def test_what_does_not_fit_is_refused(model):
    with pytest.raises(ShapeError, match="40"):
        model.distance(np.zeros((2, 39), np.float32))
    with pytest.raises(DataError, match="too few"):
        fit_out_of_distribution_detector(gaussian(1), held_out=gaussian(1))
    with pytest.raises(DataError, match="same features"):
        fit_out_of_distribution_detector(np.ones((5, 4)), held_out=np.ones((5, 4)))
    with pytest.raises(DataError, match="finite"):
        fit_out_of_distribution_detector(np.full((5, 4), np.nan), held_out=np.ones((5, 4)))
    with pytest.raises(ConfigError, match="false_alarm"):
        fit_out_of_distribution_detector(gaussian(9), held_out=gaussian(9), false_alarm=0.0)
    with pytest.raises(ConfigError, match="threshold"):
        OutOfDistributionDetector.from_arrays(model.to_arrays(), {"noise_variance": 1.0})
    arrays = {**model.to_arrays(), "mean": np.zeros(3, np.float32)}
    with pytest.raises(ShapeError, match="expected"):
        OutOfDistributionDetector.from_arrays(arrays, model.settings())
    with pytest.raises(ConfigError, match="above 0"):
        replace(model, noise_variance=0.0)
