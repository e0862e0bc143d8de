"""Size, shape and colour of a lesion, against formulas, brute force and other arithmetic."""

import dataclasses
import math

import cv2
import numpy as np
import pytest
from drawn_files import lab_by_hand
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from cascade import Measurements
from cascade.errors import ConfigError, EmptyMaskError, ShapeError
from cascade.lesion import measurements
from cascade.lesion.measurements import measure

RATIOS = ("asymmetry", "border_irregularity", "colour_variegation")
COLOURS = ("mean_lightness", "mean_redness", "mean_yellowness")
FEW = settings(max_examples=25)
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


@pytest.mark.parametrize(
    ("width", "height", "turn"), [(20, 20, 0), (900, 900, 0), (300, 60, 33), (300, 150, 0)]
)
def test_an_ellipse_is_symmetric_and_regular_however_it_lies(width, height, turn):
    found = shape_of(ellipse((1000, 1001), width, height, turn=turn))
    assert found.diameter_pixels == pytest.approx(width, abs=1.5)
    assert found.area_pixels == pytest.approx(math.pi / 4 * width * height, rel=0.02)
    assert found.area_fraction == found.area_pixels / 1_001_000
    assert found.asymmetry < 0.015
    assert found.border_irregularity == pytest.approx(1, abs=0.002)
    assert not found.cut_off


def test_the_border_irregularity_of_a_star_is_that_of_its_curve():
    """Lengths of the drawn curve and of its hull, from 100 000 points on it."""
    angle = np.linspace(0, 2 * np.pi, 100_001)
    reach = 150 * (1 + 0.2 * np.cos(5 * angle + 0.3)) / 1.2
    curve = np.stack([reach * np.cos(angle), reach * np.sin(angle)], axis=1).astype(np.float32)
    expected = cv2.arcLength(curve, closed=True) / cv2.arcLength(cv2.convexHull(curve), closed=True)
    found = shape_of(star((400, 400), 150, depth=0.2, rays=5)).border_irregularity
    assert found == pytest.approx(expected, rel=0.02)


def moved(values, how):
    turned = np.rot90(values, how % 4)
    return np.ascontiguousarray(turned[:, ::-1] if how >= 4 else turned)


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


@pytest.mark.parametrize("radius", [30, 120])
def test_twice_as_many_pixels_double_lengths_and_leave_ratios(radius):
    mask = star((280, 280), radius, depth=0.25, rays=3)
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


def test_a_reduced_copy_gives_what_all_pixels_give(monkeypatch):
    size = 1100
    mask = star((size, size), 0.45 * size, depth=0.3, rays=5) & inside(
        (size, size), lambda x, y: x < 0.2 * size
    )
    image = painted(mask)
    quick = measure(image, mask)
    monkeypatch.setattr(measurements, "_BORDER_SIDE", 10_000)
    monkeypatch.setattr(measurements, "_FOLDING_SIDE", 10_000)
    full = measure(image, mask)
    assert (quick.area_pixels, quick.diameter_pixels) == (full.area_pixels, full.diameter_pixels)
    assert quick.asymmetry == pytest.approx(full.asymmetry, abs=0.005)
    assert quick.border_irregularity == pytest.approx(full.border_irregularity, rel=0.01)
    assert quick.colour_variegation == pytest.approx(full.colour_variegation, rel=0.01)


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


@given(arrays(np.uint8, (6, 7, 3)), arrays(np.bool_, (6, 7)))
@FEW
def test_colour_variegation_is_the_mean_distance_from_the_mean_colour(image, mask):
    assume(mask.any())
    lab = lab_by_hand(image[mask])
    expected = np.linalg.norm(lab - lab.mean(axis=0), axis=1).mean()
    found = measure(image, mask).colour_variegation
    assert found == pytest.approx(expected, rel=0.02, abs=0.05)


def test_the_mean_colour_is_that_of_the_lesion_alone():
    mask = ellipse((60, 50), 30, 20, turn=20)
    image = painted(mask)
    image[~mask] = 255
    found = measure(image, mask)
    expected = lab_by_hand(image[mask]).mean(axis=0)
    assert [getattr(found, name) for name in COLOURS] == pytest.approx(expected, abs=0.3)
    assert np.linalg.norm(expected - (100, 0, 0)) > 20


def test_one_pixel_is_a_square_of_side_one():
    mask = np.zeros((30, 40), bool)
    mask[7, 9] = True
    found = shape_of(mask)
    expected = Measurements(1, 1 / 1200, None, math.sqrt(2), None, 0, 1, 0, 0, 0, 0, False)
    for name in RATIOS:
        assert getattr(found, name) == pytest.approx(getattr(expected, name), abs=1e-6)
    ignored = dict.fromkeys((*RATIOS, *COLOURS), 0.0)
    assert dataclasses.replace(found, **ignored) == dataclasses.replace(expected, **ignored)


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
    [(np.s_[1:-1, 1:-1], False), (np.s_[0:5, 3:9], True), (np.s_[5:, 3:9], True),
     (np.s_[3:9, 0:5], True), (np.s_[3:9, 5:], True)],
)  # fmt: skip
def test_a_lesion_at_the_image_border_is_said_to_be_cut_off(box, cut_off):
    mask = np.zeros((20, 30), bool)
    mask[box] = True
    found = shape_of(mask)
    assert found.cut_off is cut_off
    assert found.border_irregularity == 1


def test_an_empty_mask_is_an_error_not_zeros():
    with pytest.raises(EmptyMaskError, match="no lesion to measure"):
        shape_of(np.zeros((20, 20), bool))


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        (np.zeros((20, 20, 3), np.uint8), np.ones((20, 21), bool)),
        (np.zeros((20, 20, 3), np.uint8), np.ones((20, 20), np.uint8)),
        (np.zeros((20, 20, 3), np.float32), np.ones((20, 20), bool)),
    ],
)
def test_arrays_that_do_not_fit_are_refused(image, mask):
    with pytest.raises(ShapeError):
        measure(image, mask)


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
