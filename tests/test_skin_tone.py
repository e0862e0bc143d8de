"""The apparent skin tone: the angle's formula, its ranges, and what must not change it."""

import math

import cv2
import numpy as np
import pytest
from drawn_files import lab_by_hand

from cascade.errors import ShapeError
from cascade.lesion.skin_tone import individual_typology_angle, skin_tone

SHAPE = (180, 240)
SKINS = {
    "very light": (246, 224, 205),
    "light": (220, 180, 140),
    "intermediate": (195, 155, 115),
    "tan": (170, 132, 98),
    "brown": (140, 95, 65),
    "dark": (80, 50, 34),
}


def angle_by_hand(rgb):
    ((lightness, _, yellow),) = lab_by_hand(np.array([rgb]))
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
    assert SKINS[skin_tone(angle)] == rgb


def test_names_of_the_ranges_are_those_of_chardon_and_del_bino():
    found = [skin_tone(angle) for angle in (80, 55.1, 55, 41.1, 41, 28, 10.1, 10, -29.9, -30, -80)]
    assert found == [
        "very light", "very light", "light", "light", "intermediate", "tan", "tan", "brown",
        "brown", "dark", "dark",
    ]  # fmt: skip


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


def with_objects(image):
    """A ruler, ink and a sticker."""
    cv2.circle(image, (40, 40), 28, (90, 60, 160), -1)
    cv2.circle(image, (225, 20), 50, (30, 140, 220), -1)
    image[150:172, 10:230] = 250
    image[152:164, 14:226:4] = 10


def with_glare(image):
    image[10:60, 80:150] = 255


@pytest.mark.parametrize("dirty", [with_hair, with_dark_corners, with_objects, with_glare])
@pytest.mark.parametrize("tone", ["very light", "brown"])
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


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        (np.full((*SHAPE, 3), 200, np.uint8) * [1, 1, 1], np.ones(SHAPE, bool)),
        (np.zeros((*SHAPE, 3)), np.zeros(SHAPE, bool)),
        (np.full((*SHAPE, 3), (40, 90, 230)), np.zeros(SHAPE, bool)),
        (np.full((*SHAPE, 3), (205, 175, 190)), np.zeros(SHAPE, bool)),
        (np.full((5, 5, 3), (225, 190, 160)), np.zeros((5, 5), bool)),
    ],
    ids=["all lesion", "black", "blue", "bluish light", "few pixels"],
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
