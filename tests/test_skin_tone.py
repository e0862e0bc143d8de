"""The apparent skin tone: the angle's formula, its ranges, and what must not change it."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cascade.errors import ShapeError
from cascade.lesion.skin_tone import SKIN_TONES, individual_typology_angle, skin_tone

SHAPE = (180, 240)
SKINS = {
    "very light": (246, 224, 205),
    "light": (220, 180, 140),
    "intermediate": (195, 155, 115),
    "tan": (170, 132, 98),
    "brown": (140, 95, 65),
    "dark": (80, 50, 34),
}


def lab_by_hand(rgb):
    """sRGB (IEC 61966-2-1) to CIELAB under D65, written out without OpenCV."""
    linear = [
        value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4
        for value in (channel / 255 for channel in rgb)
    ]
    matrix = (
        (0.4124564, 0.3575761, 0.1804375),
        (0.2126729, 0.7151522, 0.0721750),
        (0.0193339, 0.1191920, 0.9503041),
    )
    white = (0.95047, 1.0, 1.08883)
    xyz = [sum(m * v for m, v in zip(row, linear, strict=True)) for row in matrix]
    ratios = [value / reference for value, reference in zip(xyz, white, strict=True)]
    f = [t ** (1 / 3) if t > (6 / 29) ** 3 else t / (3 * (6 / 29) ** 2) + 4 / 29 for t in ratios]
    return 116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])


def angle_by_hand(rgb):
    lightness, _, yellow = lab_by_hand(rgb)
    return math.degrees(math.atan((lightness - 50) / yellow))


def picture(rgb, *, seed=0, noise=4.0):
    """Skin of one colour with a lesion in its middle, and the lesion's mask."""
    generator = np.random.default_rng(seed)
    rows, columns = np.mgrid[: SHAPE[0], : SHAPE[1]]
    mask = ((rows - 90) / 35) ** 2 + ((columns - 120) / 45) ** 2 < 1
    image = np.full((*SHAPE, 3), rgb, np.float64)
    image[mask] *= 0.45
    image += generator.normal(0, noise, SHAPE)[..., None]
    return np.clip(np.rint(image), 0, 255).astype(np.uint8), mask


@pytest.mark.parametrize("rgb", SKINS.values(), ids=SKINS)
def test_the_angle_of_an_even_colour_is_that_of_the_written_out_formula(rgb):
    image = np.full((*SHAPE, 3), rgb, np.uint8)
    angle = individual_typology_angle(image, np.zeros(SHAPE, bool))
    assert angle == pytest.approx(angle_by_hand(rgb), abs=0.3)


@pytest.mark.parametrize(("name", "rgb"), SKINS.items())
def test_synthetic_skins_get_the_name_of_their_tone(name, rgb):
    image, mask = picture(rgb)
    assert skin_tone(individual_typology_angle(image, mask)) == name


def test_names_of_the_ranges_are_those_of_chardon_and_del_bino():
    found = [skin_tone(angle) for angle in (80, 55.1, 55, 41.1, 41, 28, 10.1, 10, -29.9, -30, -80)]
    assert found == [
        "very light", "very light", "light", "light", "intermediate", "tan", "tan", "brown",
        "brown", "dark", "dark",
    ]  # fmt: skip


@given(st.floats(-90, 90))
def test_every_angle_has_one_name_and_lighter_ones_come_first(angle):
    names = list(SKIN_TONES)
    assert names.index(skin_tone(angle)) <= names.index(skin_tone(max(-90.0, angle - 5)))


def with_hair(image):
    generator = np.random.default_rng(3)
    for _ in range(45):
        start, end = (tuple(int(v) for v in generator.integers(0, (240, 180))) for _ in "ab")
        cv2.line(image, start, end, (35, 25, 20), 2, cv2.LINE_AA)


def with_dark_corners(image):
    rows, columns = np.mgrid[: SHAPE[0], : SHAPE[1]]
    distance = np.hypot(rows - 90, columns - 120)
    light = np.clip((125 - distance) / 25, 0.03, 1)
    image[:] = np.rint(image * light[..., None])


def with_ruler(image):
    image[150:172, 10:230] = 250
    image[152:164, 14:226:4] = 10


def with_ink(image):
    cv2.circle(image, (40, 40), 28, (90, 60, 160), -1)


def with_sticker(image):
    cv2.circle(image, (225, 20), 50, (30, 140, 220), -1)


def with_glare(image):
    image[10:60, 80:150] = 255


@pytest.mark.parametrize(
    "dirty", [with_hair, with_dark_corners, with_ruler, with_ink, with_sticker, with_glare]
)
@pytest.mark.parametrize("tone", ["very light", "light", "tan", "brown"])
def test_what_lies_on_the_skin_changes_the_angle_by_less_than_3_degrees(tone, dirty):
    image, mask = picture(SKINS[tone])
    clean = individual_typology_angle(image, mask)
    dirty(image)
    assert individual_typology_angle(image, mask) == pytest.approx(clean, abs=3.0)


def test_the_rim_of_a_lesion_outside_a_tight_mask_does_not_count():
    image, mask = picture(SKINS["light"])
    clean = individual_typology_angle(image, mask)
    tight = cv2.erode(mask.astype(np.uint8), np.ones((9, 9), np.uint8)).astype(bool)
    assert individual_typology_angle(image, tight) == pytest.approx(clean, abs=1.0)


def test_the_size_of_the_picture_does_not_matter():
    image, mask = picture(SKINS["tan"], noise=0)
    small = individual_typology_angle(image, mask)
    large = individual_typology_angle(
        np.repeat(np.repeat(image, 4, 0), 4, 1), np.repeat(np.repeat(mask, 4, 0), 4, 1)
    )
    assert large == pytest.approx(small, abs=0.1)


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        (np.full((*SHAPE, 3), 200, np.uint8) * [1, 1, 1], np.ones(SHAPE, bool)),
        (np.zeros((*SHAPE, 3)), np.zeros(SHAPE, bool)),
        (np.full((*SHAPE, 3), 255), np.zeros(SHAPE, bool)),
        (np.full((*SHAPE, 3), (40, 90, 230)), np.zeros(SHAPE, bool)),
        (np.full((*SHAPE, 3), (205, 175, 190)), np.zeros(SHAPE, bool)),
        (np.full((5, 5, 3), (225, 190, 160)), np.zeros((5, 5), bool)),
    ],
    ids=["all lesion", "black", "white", "blue", "bluish light", "few pixels"],
)
def test_a_picture_without_usable_skin_has_no_angle(image, mask):
    assert individual_typology_angle(image.astype(np.uint8), mask) is None


def test_arrays_that_do_not_fit_are_refused():
    image, mask = picture(SKINS["tan"])
    with pytest.raises(ShapeError, match="does not fit image"):
        individual_typology_angle(image, mask[1:])
    with pytest.raises(ShapeError, match="bool"):
        individual_typology_angle(image, mask.astype(np.uint8))
    with pytest.raises(ShapeError, match="uint8"):
        individual_typology_angle(image / 255.0, mask)


def test_the_arrays_stay_as_they_were():
    image, mask = picture(SKINS["tan"])
    before = image.copy(), mask.copy()
    individual_typology_angle(image, mask)
    np.testing.assert_array_equal(image, before[0])
    np.testing.assert_array_equal(mask, before[1])
