"""Focus and exposure are told whatever the resolution, and sound images are left alone."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from cascade.data.synthetic import draw_lesion
from cascade.imaging import image_quality


def stops(image, number):
    """An image exposed by so many stops more, in linear light."""
    values = np.arange(256) / 255
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    linear = np.clip(linear * 2.0**number, 0, 1)
    srgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.round(255 * srgb).astype(np.uint8)[image]


def blurred(image, share=0.02):
    return cv2.GaussianBlur(image, (0, 0), share * min(image.shape[:2]))


def drawn(seed, shape=(300, 400)):
    return draw_lesion(np.random.default_rng(seed), malignant=bool(seed % 2), shape=shape).image


@pytest.fixture(scope="module")
def images():
    return [drawn(seed) for seed in range(12)]


def test_sound_images_are_not_warned_of(images):
    assert sum(bool(image_quality(image).warnings) for image in images) == 0


@pytest.mark.parametrize(
    ("change", "warning"),
    [
        (blurred, "out of focus"),
        (lambda image: stops(image, -3), "under-exposed"),
        (lambda image: stops(image, 3), "over-exposed"),
        (lambda image: image // 8, "under-exposed"),
    ],
    ids=["blur", "dark", "bright", "an eighth of the levels"],
)
def test_spoilt_images_are_caught(images, change, warning):
    caught = [
        any(text.startswith(warning) for text in image_quality(change(image)).warnings)
        for image in images
    ]
    assert sum(caught) >= 10


@pytest.mark.parametrize("side", [600, 1500])
def test_resolution_does_not_matter(side):
    scene = drawn(3, (side, side * 4 // 3))
    small = cv2.resize(scene, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    first, second = image_quality(scene), image_quality(small)
    assert first.sharpness == pytest.approx(second.sharpness, abs=0.03)
    assert first.exposure == pytest.approx(second.exposure, abs=0.01)


def test_blur_lowers_the_sharpness_step_by_step(images):
    for image in images[:4]:
        values = [image_quality(blurred(image, share)).sharpness for share in (0.003, 0.01, 0.03)]
        assert image_quality(image).sharpness > values[0] > values[1] > values[2]


@pytest.mark.parametrize("level", [0, 128, 255])
def test_a_uniform_image_has_no_sharpness_and_all_or_nothing_clipped(level):
    quality = image_quality(np.full((40, 1, 3), level, np.uint8))
    assert quality.sharpness == 0
    assert quality.exposure == (level != 128)
    assert quality.dark == (level == 0)
