"""Size, shape and colour of a lesion, against formulas, brute force and other arithmetic."""

from __future__ import annotations

import csv
import dataclasses
import math
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from cascade import Measurements, measurements
from cascade.errors import ConfigError, EmptyMaskError, ShapeError
from cascade.imaging import read_image, read_mask
from cascade.lesion.measurements import measure

RATIOS = ("asymmetry", "border_irregularity", "colour_variegation")
FEW = settings(max_examples=40)
MASKS = arrays(np.bool_, st.tuples(st.integers(1, 9), st.integers(1, 9)))


def inside(shape, contains):
    """The pixels whose centre a function of x and y (from the middle, in pixels) accepts."""
    y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float64)
    return contains(x - shape[1] / 2 + 0.5, y - shape[0] / 2 + 0.5)


def ellipse(shape, width, height, *, turn=0.0):
    """Axes ``width`` and ``height`` (whole, in pixels), turned by some degrees."""
    c, s = math.cos(math.radians(turn)), math.sin(math.radians(turn))
    return inside(
        shape,
        lambda x, y: (2 * (c * x + s * y) / width) ** 2 + (2 * (c * y - s * x) / height) ** 2 <= 1,
    )


def star(shape, radius, *, depth, rays=7, phase=0.3):
    """Round with ``rays`` notches; ``depth`` is that of a notch as a fraction of the radius."""

    def contains(x, y):
        wave = 1 + depth * np.cos(rays * np.arctan2(y, x) + phase)
        return np.hypot(x, y) <= radius * wave / (1 + depth)

    return inside(shape, contains)


def painted(mask, *, seed=0):
    """Random colours in blocks of pixels, so that sampling changes little."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (9, 11, 3), dtype=np.uint8)
    return cv2.resize(coarse, mask.shape[::-1], interpolation=cv2.INTER_CUBIC)


def shape_of(mask):
    """Measure a mask on an image of one colour."""
    return measure(np.full((*mask.shape, 3), 90, np.uint8), mask)


def farthest_corners(mask):
    """Diameter by brute force: all corners of all pixels."""
    rows, columns = np.nonzero(mask)
    corners = np.array([(rows + i, columns + j) for i in (0, 1) for j in (0, 1)])
    corners = corners.transpose(0, 2, 1).reshape(-1, 2)
    return np.linalg.norm(corners[:, None] - corners, axis=2).max()


def lab_by_hand(pixels):
    """``(N, 3)`` uint8 sRGB to CIELAB under D65, from the definitions."""
    srgb = pixels / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    matrix = [
        [0.412453, 0.357580, 0.180423],
        [0.212671, 0.715160, 0.072169],
        [0.019334, 0.119193, 0.950227],
    ]
    ratio = linear @ np.array(matrix).T / [0.950456, 1.0, 1.088754]
    f = np.where(ratio > (6 / 29) ** 3, np.cbrt(ratio), ratio / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.stack(
        [116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], axis=1
    )


# --- shapes whose numbers are known ---------------------------------------------------------------


@pytest.mark.parametrize("diameter", [20, 75, 200, 900])
def test_a_disc_has_its_diameter_and_area_and_is_symmetric_and_regular(diameter):
    found = shape_of(ellipse((1000, 1001), diameter, diameter))
    assert found.diameter_pixels == pytest.approx(diameter, abs=1.5)
    assert found.area_pixels == pytest.approx(math.pi / 4 * diameter**2, rel=0.02)
    assert found.area_fraction == found.area_pixels / 1_001_000
    assert found.asymmetry < 0.01
    assert found.border_irregularity == pytest.approx(1, abs=0.001)
    assert not found.cut_off


@pytest.mark.parametrize("turn", [0, 10, 33, 45, 77, 90])
@pytest.mark.parametrize("height", [60, 150])
def test_an_ellipse_is_symmetric_and_regular_however_it_lies(turn, height):
    found = shape_of(ellipse((400, 400), 300, height, turn=turn))
    assert found.diameter_pixels == pytest.approx(300, abs=1.5)
    assert found.area_pixels == pytest.approx(math.pi / 4 * 300 * height, rel=0.01)
    assert found.asymmetry < 0.015
    assert found.border_irregularity == pytest.approx(1, abs=0.002)


def test_a_rectangle_has_the_length_of_its_diagonal():
    mask = np.zeros((60, 90), bool)
    mask[10:40, 20:60] = True
    found = shape_of(mask)
    assert found.area_pixels == 1200
    assert found.diameter_pixels == 50
    assert found.asymmetry < 0.001
    assert found.border_irregularity == 1


@pytest.mark.parametrize("turn", range(0, 90, 10))
def test_a_square_is_symmetric_although_no_axis_of_it_is_longer(turn):
    c, s = math.cos(math.radians(turn)), math.sin(math.radians(turn))
    square = inside(
        (200, 200), lambda x, y: np.maximum(abs(c * x + s * y), abs(c * y - s * x)) <= 60
    )
    assert shape_of(square).asymmetry < 0.03


def test_folding_a_triangle_leaves_what_geometry_says():
    """Equilateral: nothing over its height; 2/9 of each side over the parallel to a side.

    Mirrored at the centroid's height, of 1 at the base and 0 at the tip, min(1-t, t+1/3) remains.
    """
    height = 180.0
    triangle = inside(
        (300, 300),
        lambda x, y: (y <= height / 3) & (np.abs(x) * math.sqrt(3) <= y + 2 * height / 3),
    )
    kept = 2 * 2 * sum((1 - t) * 1e-5 for t in np.arange(1 / 3, 2 / 3, 1e-5))
    least = shape_of(triangle).asymmetry
    assert least <= (1 - kept) / 2 + 0.01
    assert least > 0.05


def test_half_a_disc_and_an_l_are_less_symmetric_than_a_disc_and_a_square():
    disc = ellipse((300, 300), 200, 200)
    half = disc & inside(disc.shape, lambda x, y: y > 0)
    square = inside((300, 300), lambda x, y: np.maximum(abs(x), abs(y)) <= 100)
    corner = square & inside(square.shape, lambda x, y: (x < -20) | (y > 20))
    assert shape_of(half).asymmetry > shape_of(disc).asymmetry + 0.05
    assert shape_of(corner).asymmetry > shape_of(square).asymmetry + 0.2


@pytest.mark.parametrize("radius", [60, 120, 240])
def test_a_star_is_more_irregular_the_deeper_its_notches(radius):
    shape = (500, 500)
    values = [shape_of(star(shape, radius, depth=d)).border_irregularity for d in (0, 0.1, 0.3)]
    assert values[0] == pytest.approx(1, abs=0.001)
    assert 1.005 < values[1] < values[2]
    assert values[2] > 1.3


def test_the_border_irregularity_of_a_star_is_that_of_its_curve():
    """Lengths of the drawn curve and of its hull, from 100 000 points on it."""
    angle = np.linspace(0, 2 * np.pi, 100_001)
    reach = 150 * (1 + 0.2 * np.cos(5 * angle + 0.3)) / 1.2
    curve = np.stack([reach * np.cos(angle), reach * np.sin(angle)], axis=1).astype(np.float32)
    expected = cv2.arcLength(curve, closed=True) / cv2.arcLength(cv2.convexHull(curve), closed=True)
    found = shape_of(star((400, 400), 150, depth=0.2, rays=5)).border_irregularity
    assert found == pytest.approx(expected, rel=0.02)


def test_a_ragged_outline_counts_and_the_staircase_of_a_slanted_one_does_not():
    rng = np.random.default_rng(0)
    noise = cv2.GaussianBlur(rng.normal(0, 1, (400, 400)), (0, 0), 6)
    ragged = inside((400, 400), lambda x, y: np.hypot(x, y) <= 120 + 20 * noise / noise.std())
    smooth = ellipse((400, 400), 290, 170, turn=27)
    assert shape_of(smooth).border_irregularity < 1.003
    assert shape_of(ragged).border_irregularity > 1.3


# --- what must not matter -------------------------------------------------------------------------


def moved(values, how):
    turned = np.rot90(values, how % 4)
    return np.ascontiguousarray(turned[:, ::-1] if how >= 4 else turned)


@pytest.mark.parametrize("how", range(1, 8))
def test_turning_and_mirroring_changes_nothing(how):
    mask = star((220, 260), 90, depth=0.3, rays=3) | ellipse((220, 260), 200, 40, turn=20)
    image = painted(mask)
    assert_same(measure(moved(image, how), moved(mask, how)), measure(image, mask))


@given(MASKS, st.integers(1, 7))
@FEW
def test_turning_and_mirroring_changes_nothing_for_any_mask(mask, how):
    assume(mask.any())
    image = painted(mask)
    assert_same(measure(moved(image, how), moved(mask, how)), measure(image, mask), within=0.02)


@given(MASKS, st.tuples(*(st.integers(0, 5) for _ in range(4))))
@FEW
def test_more_skin_around_changes_nothing_but_the_fraction(mask, margins):
    assume(mask.any())
    image = painted(mask)
    wide = np.pad(mask, (margins[:2], margins[2:]))
    more = np.pad(image, (margins[:2], margins[2:], (0, 0)), constant_values=200)
    first, second = measure(image, mask), measure(more, wide)
    ignored = {"area_fraction": 0.0, "cut_off": False}
    first_values = dataclasses.astuple(dataclasses.replace(first, **ignored))
    second_values = dataclasses.astuple(dataclasses.replace(second, **ignored))
    assert first_values == pytest.approx(second_values, abs=1e-9)
    assert second.area_fraction * wide.size == pytest.approx(first.area_fraction * mask.size)


def assert_same(first, second, *, within=0.002):
    for name in ("area_pixels", "area_fraction", "diameter_pixels", "cut_off"):
        assert getattr(first, name) == pytest.approx(getattr(second, name)), name
    assert first.asymmetry == pytest.approx(second.asymmetry, abs=within)
    assert first.border_irregularity == pytest.approx(second.border_irregularity, rel=1e-4)
    assert first.colour_variegation == pytest.approx(second.colour_variegation, rel=1e-4)


@pytest.mark.parametrize("radius", [30, 100, 300])
def test_twice_as_many_pixels_double_lengths_and_leave_ratios(radius):
    mask = star((700, 700), radius, depth=0.25, rays=3)
    image = painted(mask)
    large = np.kron(mask, np.ones((2, 2), bool))
    first = measure(image, mask)
    second = measure(image.repeat(2, axis=0).repeat(2, axis=1), large)
    assert second.area_pixels == 4 * first.area_pixels
    assert second.area_fraction == first.area_fraction
    assert second.diameter_pixels == pytest.approx(2 * first.diameter_pixels)
    assert second.asymmetry == pytest.approx(first.asymmetry, abs=0.01)
    assert second.border_irregularity == pytest.approx(first.border_irregularity, rel=0.03)
    assert second.colour_variegation == pytest.approx(first.colour_variegation, rel=0.03)


@pytest.mark.parametrize("size", [300, 1100])
def test_a_reduced_copy_gives_what_all_pixels_give(size, monkeypatch):
    mask = star((size, size), 0.45 * size, depth=0.3, rays=5) & inside(
        (size, size), lambda x, y: x < 0.2 * size
    )
    image = painted(mask)
    quick = measure(image, mask)
    monkeypatch.setattr(measurements, "_WORKING_SIDE", 10_000)
    monkeypatch.setattr(measurements, "_FOLDING_SIDE", 10_000)
    full = measure(image, mask)
    assert (quick.area_pixels, quick.diameter_pixels) == (full.area_pixels, full.diameter_pixels)
    assert quick.asymmetry == pytest.approx(full.asymmetry, abs=0.005)
    assert quick.border_irregularity == pytest.approx(full.border_irregularity, rel=0.01)
    assert quick.colour_variegation == pytest.approx(full.colour_variegation, rel=0.01)


@pytest.mark.parametrize("turn", [7, 45, 80, 128])
@pytest.mark.parametrize("height", [60, 110])
def test_how_a_lesion_lies_matters_little_to_its_shape(turn, height):
    def drawn(degrees):
        lesion = ellipse((320, 320), 200, height, turn=degrees)
        c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
        return lesion | inside(
            (320, 320), lambda x, y: np.hypot(x - 80 * c + 30 * s, y - 80 * s - 30 * c) <= 40
        )

    first, second = shape_of(drawn(0)), shape_of(drawn(turn))
    assert second.asymmetry == pytest.approx(first.asymmetry, abs=0.015)
    assert second.border_irregularity == pytest.approx(first.border_irregularity, rel=0.02)
    assert second.diameter_pixels == pytest.approx(first.diameter_pixels, abs=2)


# --- witnesses ------------------------------------------------------------------------------------


@given(MASKS)
@FEW
def test_the_diameter_is_that_of_the_farthest_pair_of_corners(mask):
    assume(mask.any())
    assert shape_of(mask).diameter_pixels == pytest.approx(farthest_corners(mask))


@given(MASKS)
@FEW
def test_any_mask_has_finite_numbers_within_their_ranges(mask):
    assume(mask.any())
    found = measure(painted(mask), mask, pixels_per_millimetre=3)
    assert all(math.isfinite(value) for value in dataclasses.astuple(found))
    assert found.area_pixels == mask.sum()
    assert 0 < found.area_fraction <= 1
    assert math.sqrt(2) <= found.diameter_pixels <= math.hypot(*mask.shape) + 1e-9
    assert found.area_pixels <= math.pi / 4 * found.diameter_pixels**2, "isodiametric inequality"
    assert 0 <= found.asymmetry <= 1
    assert found.border_irregularity >= 1
    assert found.colour_variegation >= 0
    for item in dataclasses.fields(found):
        assert type(getattr(found, item.name)) in (int, float, bool), item.name


@given(MASKS)
@FEW
def test_the_hull_is_filled_as_another_algorithm_fills_it(mask):
    """A pixel is in the hull if it lies on no outer side of any edge, tested one by one."""
    assume(mask.any())
    points = np.argwhere(mask)[:, ::-1].astype(np.float32)
    hull = cv2.convexHull(points)
    expected = [
        [cv2.pointPolygonTest(hull, (float(x), float(y)), False) >= 0 for x in range(mask.shape[1])]
        for y in range(mask.shape[0])
    ]
    if len(hull) > 2:
        assert np.array_equal(measurements._filled_hull(mask), expected)


# --- colours --------------------------------------------------------------------------------------


@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (120, 70, 50)])
def test_one_colour_has_no_variegation(colour):
    mask = ellipse((80, 80), 50, 30)
    image = np.full((80, 80, 3), 10, np.uint8)
    image[mask] = colour
    assert measure(image, mask).colour_variegation == pytest.approx(0, abs=1e-3)


def test_two_colours_in_equal_parts_are_half_their_distance_away_from_the_mean():
    mask = np.ones((40, 40), bool)
    image = np.full((40, 40, 3), (150, 90, 70), np.uint8)
    image[:, 20:] = (60, 40, 45)
    first, second = lab_by_hand(np.array([(150, 90, 70), (60, 40, 45)]))
    expected = np.linalg.norm(first - second) / 2
    assert measure(image, mask).colour_variegation == pytest.approx(expected, rel=0.005)


@given(arrays(np.uint8, (6, 7, 3)), arrays(np.bool_, (6, 7)))
@FEW
def test_colour_variegation_is_the_mean_distance_from_the_mean_colour(image, mask):
    assume(mask.any())
    lab = lab_by_hand(image[mask])
    expected = np.linalg.norm(lab - lab.mean(axis=0), axis=1).mean()
    found = measure(image, mask).colour_variegation
    assert found == pytest.approx(expected, rel=0.01, abs=0.05)


def test_the_skin_around_has_no_say():
    mask = ellipse((90, 90), 50, 40)
    image = painted(mask)
    other = np.where(mask[..., None], image, 255 - image)
    first, second = measure(image, mask), measure(other, mask)
    assert dataclasses.astuple(first) == pytest.approx(dataclasses.astuple(second))


# --- edges ----------------------------------------------------------------------------------------


def test_one_pixel_is_a_square_of_side_one():
    mask = np.zeros((30, 40), bool)
    mask[7, 9] = True
    found = shape_of(mask)
    expected = Measurements(1, 1 / 1200, None, math.sqrt(2), None, 0, 1, 0, False)
    for name in RATIOS:
        assert getattr(found, name) == pytest.approx(getattr(expected, name), abs=1e-6)
    ignored = dict.fromkeys(RATIOS, 0.0)
    assert dataclasses.replace(found, **ignored) == dataclasses.replace(expected, **ignored)


@pytest.mark.parametrize("line", [np.s_[5, 3:33], np.s_[3:33, 5]])
def test_a_line_is_long_symmetric_and_regular(line):
    mask = np.zeros((40, 40), bool)
    mask[line] = True
    found = shape_of(mask)
    assert found.diameter_pixels == pytest.approx(math.hypot(30, 1))
    assert found.border_irregularity == 1
    assert found.asymmetry < 0.01


def test_a_thin_line_across_a_large_image_is_not_lost_in_sampling():
    mask = np.zeros((3000, 3000), bool)
    mask[np.arange(1, 2999), np.arange(2998, 0, -1)] = True
    mask[::2, ::2] = False
    found = shape_of(mask)
    assert math.isfinite(found.asymmetry)
    assert found.border_irregularity >= 1
    assert found.diameter_pixels > 4200


@pytest.mark.parametrize(
    ("box", "cut_off"),
    [
        (np.s_[1:-1, 1:-1], False),
        (np.s_[0:5, 3:9], True),
        (np.s_[5:, 3:9], True),
        (np.s_[3:9, 0:5], True),
        (np.s_[3:9, 5:], True),
        (np.s_[:, :], True),
    ],
)
def test_a_lesion_at_the_image_border_is_said_to_be_cut_off(box, cut_off):
    mask = np.zeros((20, 30), bool)
    mask[box] = True
    found = shape_of(mask)
    assert found.cut_off is cut_off
    assert found.border_irregularity == 1


def test_a_lesion_that_fills_the_image_has_the_image_s_size():
    found = shape_of(np.ones((30, 40), bool))
    assert (found.area_fraction, found.diameter_pixels) == (1, 50)
    assert found.asymmetry < 0.001


def test_an_empty_mask_is_an_error_not_zeros():
    with pytest.raises(EmptyMaskError, match="no lesion to measure"):
        shape_of(np.zeros((20, 20), bool))


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        (np.zeros((20, 20, 3), np.uint8), np.ones((20, 21), bool)),
        (np.zeros((20, 20, 3), np.uint8), np.ones((20, 20), np.uint8)),
        (np.zeros((20, 20, 3), np.float32), np.ones((20, 20), bool)),
        (np.zeros((20, 20), np.uint8), np.ones((20, 20), bool)),
    ],
)
def test_arrays_that_do_not_fit_are_refused(image, mask):
    with pytest.raises(ShapeError):
        measure(image, mask)


def test_neither_array_is_changed():
    mask = star((90, 90), 40, depth=0.2)
    image = painted(mask)
    before = image.copy(), mask.copy()
    image.flags.writeable = mask.flags.writeable = False
    measure(image, mask)
    assert np.array_equal(image, before[0])
    assert np.array_equal(mask, before[1])


# --- millimetres ----------------------------------------------------------------------------------


def test_without_a_scale_there_are_no_millimetres():
    found = shape_of(ellipse((90, 90), 50, 40))
    assert found.diameter_millimetres is None
    assert found.area_square_millimetres is None


def test_ten_pixels_per_millimetre_divide_lengths_by_10_and_areas_by_100():
    mask = ellipse((90, 90), 50, 40)
    found = measure(painted(mask), mask, pixels_per_millimetre=10)
    assert found.diameter_millimetres == pytest.approx(found.diameter_pixels / 10)
    assert found.area_square_millimetres == pytest.approx(found.area_pixels / 100)
    assert found.diameter_millimetres == pytest.approx(5, abs=0.15)


@pytest.mark.parametrize("scale", [0, -1, math.nan, math.inf])
def test_a_scale_that_makes_no_sense_is_refused(scale):
    mask = ellipse((90, 90), 50, 40)
    with pytest.raises(ConfigError, match="pixels_per_millimetre"):
        measure(painted(mask), mask, pixels_per_millimetre=scale)


# --- a prediction ---------------------------------------------------------------------------------


def test_a_prediction_measures_its_lesion(fake_cascade, lesion):
    (prediction,) = fake_cascade(lesion.image)
    assert_same(prediction.measurements, measure(lesion.image, prediction.mask))
    assert prediction.measurements.area_fraction == prediction.area_fraction
    (scaled,) = fake_cascade(lesion.image, pixels_per_millimetre=10)
    assert_same(scaled.measurements, prediction.measurements)
    assert scaled.measurements.diameter_millimetres == scaled.measurements.diameter_pixels / 10


def test_a_prediction_without_a_lesion_has_no_measurements(fake_cascade):
    image = np.full((64, 64, 3), 230, np.uint8)
    image[:, ::2] = 240
    (prediction,) = fake_cascade(image)
    assert prediction.measurements is None


@pytest.mark.parametrize("scale", [0, -3, math.nan])
def test_a_cascade_refuses_a_scale_that_makes_no_sense(fake_cascade, lesion, scale):
    with pytest.raises(ConfigError, match="pixels_per_millimetre"):
        fake_cascade(lesion.image, pixels_per_millimetre=scale)


# --- real lesions ---------------------------------------------------------------------------------


@pytest.mark.data
def test_real_lesions_have_plausible_numbers():
    folder = os.environ.get("CASCADE_DATA")
    if not folder:
        pytest.skip("CASCADE_DATA is not set")
    root = Path(folder) / "isic"
    with (root / "train_data.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))[::80]
    for row in rows:
        image = read_image(root / "images_all" / row["name"]).pixels
        path = (root / "masks_all" / row["name"]).with_suffix(".png")
        found = measure(image, read_mask(path, shape=image.shape[:2]))
        assert found.asymmetry < 0.5, row["name"]
        assert found.border_irregularity < 3, row["name"]
        assert 0.5 < found.colour_variegation < 40, row["name"]
        assert found.diameter_pixels <= math.hypot(*image.shape[:2]), row["name"]
