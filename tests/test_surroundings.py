"""Skin around an image that is seen from farther away."""

import cv2
import numpy as np
import pytest

from cascade.data.surroundings import amid_skin


@pytest.fixture
def lesion():
    image = np.full((60, 90, 3), (200, 160, 140), np.uint8)
    cv2.circle(image, (45, 30), 15, (90, 50, 40), -1)
    return image


def test_the_image_itself_stays_in_the_middle(lesion):
    wider = amid_skin(lesion, 20, 7, np.random.default_rng(0))
    assert wider.shape == (100, 104, 3)
    np.testing.assert_array_equal(wider[20:80, 7:97], lesion)


def test_far_from_the_image_is_skin_of_the_borders_colour(lesion):
    wider = amid_skin(lesion, 60, 60, np.random.default_rng(0))
    corner = wider[:20, :20].reshape(-1, 3)
    assert np.abs(corner.mean(axis=0) - (200, 160, 140)).max() < 1
    assert 1 < corner.std(axis=0).min() <= corner.std(axis=0).max() < 3  # grain, no edge


def test_a_dark_frame_does_not_go_on_around_the_image(lesion):
    lesion[[0, -1]] = lesion[:, [0, -1]] = 20
    wider = amid_skin(lesion, 60, 60, np.random.default_rng(0))
    assert wider[:20, :20].mean() > 120


def test_the_grain_follows_the_generator(lesion):
    one, same, other = (amid_skin(lesion, 5, 5, np.random.default_rng(seed)) for seed in (3, 3, 4))
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()


def test_nothing_is_added_where_nothing_is_asked_for(lesion):
    np.testing.assert_array_equal(amid_skin(lesion, 0, 0, np.random.default_rng(0)), lesion)
