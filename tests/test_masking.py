"""The joint between the stages: from probabilities to the one crop that the classifier sees."""

import math
import tracemalloc
from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from cascade.errors import ConfigError, EmptyMaskError, ShapeError
from cascade.imaging import resize_pixels
from cascade.lesion.masking import (
    MASK_MODES,
    NO_LESION,
    Lesion,
    MaskPolicy,
    apply_mask,
    bounding_box,
    crop_box,
    find_lesion,
    lesion_from_mask,
)

ANY_SIZE = MaskPolicy(minimum_area=0.0, fill_holes=False)
small_masks = arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12)))
fractions = st.floats(0.0, 1.0)


@st.composite
def boxes_in_images(draw):
    """A box inside an image, both of any shape."""
    height, width = draw(st.integers(1, 400)), draw(st.integers(1, 400))
    top, left = draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))
    bottom, right = draw(st.integers(top + 1, height)), draw(st.integers(left + 1, width))
    return (top, left, bottom, right), (height, width)


def disc(shape=(90, 120), centre=(40, 60), radius=14):
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    return (rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 <= radius**2


def noise(shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3)).astype(np.uint8)


def components(mask):
    """8-connected components as sets of pixels, by flood fill: the witness for OpenCV's."""
    left = {(int(r), int(c)) for r, c in np.argwhere(mask)}
    found = []
    while left:
        front = [left.pop()]
        component = set(front)
        while front:
            row, column = front.pop()
            near = {(row + dr, column + dc) for dr in (-1, 0, 1) for dc in (-1, 0, 1)} & left
            left -= near
            component |= near
            front += near
        found.append(component)
    return found


def without_holes(mask):
    """Everything that a 4-connected flood from outside the image does not reach."""
    outside = np.pad(mask, 1)
    front = [(0, 0)]
    while front:
        row, column = front.pop()
        inside = 0 <= row < outside.shape[0] and 0 <= column < outside.shape[1]
        if inside and not outside[row, column]:
            outside[row, column] = True
            front += [(row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)]
    return mask | ~outside[1:-1, 1:-1]


def opacity_of(mask, policy, *, size=None):
    """How much of each pixel stays, read off a black image with a white fill."""
    image = np.zeros((*mask.shape, 3), np.uint8)
    policy = replace(policy, fill=(255, 255, 255))
    crop = apply_mask(image, lesion_from_mask(mask, policy), policy, size=size or mask.shape[0])
    return 1 - crop.pixels[..., 0].astype(float) / 255


# --- from probabilities to a mask -----------------------------------------------------------------


def test_a_pixel_at_the_threshold_belongs_to_the_lesion():
    probability = np.array([[0.3, 0.5, 0.7]], np.float32)
    found = find_lesion(probability, replace(ANY_SIZE, threshold=0.5))
    assert found.mask.tolist() == [[False, True, True]]


@given(arrays(np.float32, (6, 7), elements=st.floats(0, 1, width=32)), fractions, fractions)
def test_a_higher_threshold_never_adds_pixels(probability, one, other):
    low, high = sorted((one, other))
    keep_all = replace(ANY_SIZE, keep="all")
    wide = find_lesion(probability, replace(keep_all, threshold=low)).mask
    narrow = find_lesion(probability, replace(keep_all, threshold=high)).mask
    assert not (narrow & ~wide).any()


def test_the_map_is_scaled_up_to_the_original_frame():
    probability = np.zeros((8, 8), np.float32)
    probability[2:6, 2:6] = 1.0
    found = find_lesion(probability, ANY_SIZE, shape=(80, 160))
    assert found.mask.shape == (80, 160)
    assert np.allclose(found.box, (20, 40, 60, 120), atol=2)


@pytest.mark.parametrize(
    "probability",
    [
        np.full((4, 4), np.nan, np.float32), np.full((4, 4), 1.5, np.float32),
        np.full((4, 4), -0.1, np.float32), np.zeros((4, 4, 1), np.float32),
        np.zeros((4, 4), np.uint8), np.zeros((0, 4), np.float32),
    ],
    ids=["nan", "logits", "negative", "three axes", "uint8", "no pixels"],
)  # fmt: skip
def test_what_is_no_probability_map_is_refused(probability):
    with pytest.raises(ShapeError, match="probability map"):
        find_lesion(probability, MaskPolicy())
    if probability.dtype == np.uint8:
        with pytest.raises(ShapeError, match="mask is"):
            lesion_from_mask(probability, MaskPolicy())


# --- choosing the lesion --------------------------------------------------------------------------


@given(small_masks)
def test_all_components_are_counted_and_kept_on_request(mask):
    found = lesion_from_mask(mask, replace(ANY_SIZE, keep="all"))
    assert np.array_equal(found.mask, mask)
    assert found.component_count == len(components(mask))
    assert found.found == mask.any()


@given(small_masks)
def test_the_largest_component_is_kept_whole(mask):
    found = lesion_from_mask(mask, ANY_SIZE)
    expected = components(mask)
    assume(expected)
    kept = {(int(r), int(c)) for r, c in np.argwhere(found.mask)}
    assert kept in expected
    assert len(kept) == max(map(len, expected))


def test_a_confident_region_outweighs_a_larger_uncertain_one():
    probability = np.zeros((40, 40), np.float32)
    probability[2:12, 2:12] = 0.99  # 100 pixels
    probability[20:32, 20:32] = 0.51  # 144 pixels
    found = find_lesion(probability, ANY_SIZE)
    assert found.box == (2, 2, 12, 12)
    assert "2 separate regions in the mask, the largest was used" in found.warnings


def test_a_region_that_is_spread_over_a_large_image_is_weighed_as_a_whole():
    """Regions are summed in slices of 256 rows; no slice alone knows which is heavier."""
    weight = np.zeros((900, 60), np.float32)
    weight[10:890, 5:15] = 0.6  # 5280 in four slices, at most 1536 in one
    weight[300:500, 30:50] = 0.9  # 3600 in one slice and a bit
    found = lesion_from_mask(weight >= 0.5, ANY_SIZE, weight=weight)
    assert found.box == (10, 5, 890, 15)
    assert np.array_equal(found.mask, weight == np.float32(0.6))


def test_a_large_image_takes_little_memory():
    """Summing all of it at once took 24 bytes a pixel."""
    rng = np.random.default_rng(0)
    probability = cv2.GaussianBlur(rng.random((64, 64), np.float32), (0, 0), 3)
    probability = (probability - probability.min()) / np.ptp(probability)
    shape = (1500, 2000)
    tracemalloc.start()
    try:
        found = find_lesion(probability, MaskPolicy(), shape=shape)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert "separate regions" in found.warnings[0], "the case that takes most"
    assert peak < 16 * shape[0] * shape[1]


@given(small_masks)
def test_holes_are_filled_and_nothing_else(mask):
    policy = replace(ANY_SIZE, keep="all", fill_holes=True)
    assert np.array_equal(lesion_from_mask(mask, policy).mask, without_holes(mask))


@given(small_masks, st.floats(0.0, 0.5))
def test_components_below_the_minimum_area_are_dropped(mask, minimum):
    policy = replace(ANY_SIZE, keep="all", minimum_area=minimum)
    large = [part for part in components(mask) if len(part) >= minimum * mask.size]
    kept = {(int(r), int(c)) for r, c in np.argwhere(lesion_from_mask(mask, policy).mask)}
    assert kept == set().union(*large)


@pytest.mark.parametrize(
    ("place", "touches"),
    [(np.s_[:5, 5:9], True), (np.s_[15:, 5:9], True), (np.s_[5:9, :5], True),
     (np.s_[5:9, 25:], True), (np.s_[1:19, 1:29], False)],
    ids=["top", "bottom", "left", "right", "one pixel away"],
)  # fmt: skip
def test_a_lesion_at_the_border_is_announced(place, touches):
    mask = np.zeros((20, 30), bool)
    mask[place] = True
    assert ("the lesion touches the image border" in lesion_from_mask(mask, ANY_SIZE).warnings) is (
        touches
    )


def test_a_dropped_component_at_the_border_is_not_announced():
    mask = disc((60, 60), (30, 30), 12)
    mask[0, 0] = True
    assert lesion_from_mask(mask, MaskPolicy()).warnings == ()


def test_one_pixel_is_a_speck_unless_the_policy_allows_it():
    mask = np.zeros((100, 100), bool)
    mask[40, 50] = True
    found = lesion_from_mask(mask, MaskPolicy())
    assert not found.found
    assert not found.mask.any()
    assert found.warnings == (f"{NO_LESION}: only specks in the mask",)
    assert lesion_from_mask(mask, ANY_SIZE).box == (40, 50, 41, 51)


def test_a_full_mask_is_a_lesion_as_large_as_the_image():
    found = lesion_from_mask(np.ones((20, 30), bool), MaskPolicy())
    assert found.box == (0, 0, 20, 30)
    assert found.area_fraction == 1.0
    assert found.warnings == ("the lesion touches the image border",)


# --- boxes ----------------------------------------------------------------------------------------


@given(small_masks)
def test_the_bounding_box_is_the_smallest_around_all_pixels(mask):
    pixels = [(int(r), int(c)) for r, c in np.argwhere(mask)]
    if not pixels:
        assert bounding_box(mask) is None
        return
    rows, columns = zip(*pixels, strict=True)
    assert bounding_box(mask) == (min(rows), min(columns), max(rows) + 1, max(columns) + 1)


@given(boxes_in_images(), st.floats(0.0, 2.0))
def test_the_crop_is_square_holds_the_lesion_and_stays_in_the_image_where_it_fits(example, margin):
    box, shape = example
    crop = top, left, bottom, right = crop_box(box, shape, margin)
    longer = max(box[2] - box[0], box[3] - box[1])
    assert bottom - top == right - left == longer + 2 * math.ceil(longer * margin)
    assert top <= box[0] < box[2] <= bottom
    assert left <= box[1] < box[3] <= right
    for low, high, length in ((crop[0], crop[2], shape[0]), (crop[1], crop[3], shape[1])):
        if high - low <= length:
            assert 0 <= low < high <= length
        else:  # centred: it reaches over both borders by the same, give or take a pixel
            assert abs((0 - low) - (high - length)) <= 1
    far = crop_box(tuple(side + 3000 for side in box), (shape[0] + 6000, shape[1] + 6000), margin)
    for low, high in ((0, 2), (1, 3)):  # centred on the lesion where the border is far
        assert abs((box[low] + 3000 - far[low]) - (far[high] - box[high] - 3000)) <= 1


# --- masking an image -----------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MASK_MODES)
@pytest.mark.parametrize("shape", [(90, 120), (120, 90), (64, 64)])
def test_every_mode_gives_a_square_of_the_size_asked_for(mode, shape):
    lesion = lesion_from_mask(disc(shape, (30, 40)), MaskPolicy())
    crop = apply_mask(noise(shape), lesion, MaskPolicy.from_mode(mode), size=48)
    assert crop.pixels.shape == (48, 48, 3)
    assert crop.pixels.dtype == np.uint8
    assert crop.lesion_found


@pytest.mark.parametrize("mode", MASK_MODES)
def test_neither_image_nor_mask_is_changed(mode):
    image, mask = noise((90, 120)), disc()
    image_before, mask_before = image.copy(), mask.copy()
    policy = MaskPolicy.from_mode(mode)
    crop = apply_mask(image, lesion_from_mask(mask, policy), policy, size=90)
    crop.pixels[:] = 0
    assert np.array_equal(image, image_before)
    assert np.array_equal(mask, mask_before)


def test_mode_whole_ignores_the_mask():
    image = noise((90, 120))
    policy = MaskPolicy.from_mode("whole", on_empty="raise")
    with_lesion = apply_mask(image, lesion_from_mask(disc(), policy), policy, size=48)
    empty = Lesion(np.zeros((90, 120), bool), None, 0)
    without = apply_mask(image, empty, policy, size=48)
    assert np.array_equal(with_lesion.pixels, without.pixels)
    assert np.array_equal(with_lesion.pixels, resize_pixels(image, 48))
    assert with_lesion.box == (0, 0, 90, 120)
    assert not policy.uses_mask


@st.composite
def images_with_lesions(draw):
    height, width = draw(st.integers(8, 40)), draw(st.integers(8, 40))
    mask = np.zeros((height, width), bool)
    for _ in range(draw(st.integers(1, 3))):
        top, left = draw(st.integers(0, height - 2)), draw(st.integers(0, width - 2))
        mask[top : top + draw(st.integers(2, 20)), left : left + draw(st.integers(2, 20))] = True
    return noise((height, width), draw(st.integers(0, 9))), mask


@given(images_with_lesions(), st.sampled_from(["keep", "hard", "feathered"]), fractions)
def test_pasting_the_crop_back_restores_the_lesion(example, background, margin):
    image, mask = example
    policy = replace(ANY_SIZE, background=background, margin=margin)
    lesion = lesion_from_mask(mask, policy)
    top, left, bottom, right = crop_box(lesion.box, mask.shape, margin)
    crop = apply_mask(image, lesion, policy, size=bottom - top)
    assert crop.box == (top, left, bottom, right)
    pasted = np.zeros_like(image)
    rows = slice(max(top, 0), min(bottom, image.shape[0]))
    columns = slice(max(left, 0), min(right, image.shape[1]))
    pasted[rows, columns] = crop.pixels[
        rows.start - top : rows.stop - top, columns.start - left : columns.stop - left
    ]
    assert np.array_equal(pasted[lesion.mask], image[lesion.mask])
    if background == "keep":
        assert np.array_equal(pasted[rows, columns], image[rows, columns])


@given(images_with_lesions(), fractions)
def test_hard_replaces_every_pixel_outside_the_mask_and_no_other(example, margin):
    image, mask = example
    policy = replace(ANY_SIZE, background="hard", margin=margin)
    lesion = lesion_from_mask(mask, policy)
    top, left, bottom, right = crop_box(lesion.box, mask.shape, margin)
    crop = apply_mask(image, lesion, policy, size=bottom - top).pixels
    for row in range(bottom - top):
        for column in range(right - left):
            y, x = top + row, left + column
            inside = 0 <= y < mask.shape[0] and 0 <= x < mask.shape[1] and lesion.mask[y, x]
            assert tuple(crop[row, column]) == (tuple(image[y, x]) if inside else policy.fill)


@pytest.mark.parametrize("frame", ["crop", "full"])
def test_feathered_keeps_the_lesion_and_fades_with_distance(frame):
    mask = disc((120, 120), (60, 60), 20)
    policy = MaskPolicy(frame=frame, margin=1.0, dilation=0.1, feather=0.2)
    opacity = opacity_of(mask, policy, size=120)
    hard = opacity_of(mask, replace(policy, background="hard"), size=120)
    assert (opacity >= hard).all()
    rows, columns = np.indices(mask.shape)
    pixels = np.argwhere(hard == 1)
    distance = np.sqrt(
        ((rows[..., None] - pixels[:, 0]) ** 2 + (columns[..., None] - pixels[:, 1]) ** 2).min(-1)
    )
    order = np.argsort(distance, axis=None)
    assert (np.diff(opacity.ravel()[order]) <= 1e-9).all()
    longer = 41  # box of the disc; the crop of 41 + 2 * 41 pixels is shown at 120
    unit = longer * (120 / (3 * longer) if frame == "crop" else 1.0)
    assert (opacity[distance <= 0.1 * unit] == 1).all()
    assert (opacity[distance >= 0.3 * unit] == 0).all()
    assert ((opacity > 0) & (opacity < 1)).any()


@pytest.mark.parametrize("frame", ["crop", "full"])
def test_background_shows_what_feathered_hides(frame):
    policy = MaskPolicy(frame=frame, margin=0.5)
    shown = opacity_of(disc(), policy, size=64)
    hidden = opacity_of(disc(), replace(policy, background="only"), size=64)
    assert np.allclose(shown + hidden, 1, atol=1.01 / 255)
    assert hidden[32, 32] == 0 or frame == "full"


@pytest.mark.parametrize("mode", ["hard_full", "feathered_crop"])
@pytest.mark.parametrize("place", [(0, 0), (500, 731), (999, 999)])
def test_a_lesion_smaller_than_a_pixel_of_the_crop_is_not_lost(mode, place):
    mask = np.zeros((1000, 1000), bool)
    mask[place] = True
    policy = MaskPolicy.from_mode(mode, minimum_area=0.0)
    crop = apply_mask(
        np.zeros((1000, 1000, 3), np.uint8), lesion_from_mask(mask, policy), policy, size=32
    )
    assert crop.lesion_found
    assert (crop.pixels != policy.fill).any()


@pytest.mark.parametrize("mode", [mode for mode in MASK_MODES if mode != "whole"])
@pytest.mark.parametrize("on_empty", ["whole", "abstain"])
def test_without_a_lesion_the_whole_image_stands_in_and_says_so(mode, on_empty):
    image = noise((90, 120))
    policy = MaskPolicy.from_mode(mode, on_empty=on_empty)
    crop = apply_mask(image, Lesion(np.zeros((90, 120), bool), None, 0), policy, size=48)
    assert not crop.lesion_found
    assert crop.box == (0, 0, 90, 120)
    assert np.array_equal(crop.pixels, resize_pixels(image, 48))


def test_without_a_lesion_the_policy_raise_raises():
    empty = Lesion(np.zeros((90, 120), bool), None, 0)
    with pytest.raises(EmptyMaskError, match="on_empty"):
        apply_mask(noise((90, 120)), empty, MaskPolicy(on_empty="raise"), size=48)


@pytest.mark.parametrize("shape", [(90, 121, 3), (120, 90, 3), (90, 120), (90, 120, 4)])
@pytest.mark.parametrize("mode", ["whole", "feathered_crop"])
def test_an_image_that_does_not_fit_the_mask_is_refused(shape, mode):
    policy, image = MaskPolicy.from_mode(mode), np.zeros(shape, np.uint8)
    with pytest.raises(ShapeError, match="does not fit mask"):
        apply_mask(image, lesion_from_mask(disc(), policy), policy, size=48)


# --- the policy -----------------------------------------------------------------------------------

policies = st.builds(
    MaskPolicy,
    frame=st.sampled_from(["crop", "full"]),
    background=st.sampled_from(["keep", "hard", "feathered", "only"]),
    margin=st.floats(0, 2),
    dilation=fractions,
    feather=fractions,
    fill=st.tuples(*[st.integers(0, 255)] * 3),
    threshold=fractions,
    keep=st.sampled_from(["largest", "all"]),
    fill_holes=st.booleans(),
    minimum_area=fractions,
    on_empty=st.sampled_from(["whole", "abstain", "raise"]),
)


@given(policies)
def test_a_policy_survives_the_round_trip_through_json(policy):
    import json

    restored = MaskPolicy.from_dict(json.loads(json.dumps(policy.to_dict())))
    assert restored == policy
    assert hash(restored) == hash(policy)


@given(policies)
def test_a_mode_names_frame_and_background(policy):
    again = MaskPolicy.from_mode(policy.mode)
    assert (again.frame, again.background) == (policy.frame, policy.background)


def test_unknown_settings_and_modes_are_refused():
    with pytest.raises(ConfigError, match=r"unknown setting.*'marginn'.*did you mean margin"):
        MaskPolicy.from_dict({"marginn": 0.1})
    with pytest.raises(ConfigError, match="mask mode 'soft' is unknown; choose from whole, crop"):
        MaskPolicy.from_mode("soft")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("frame", "square"), ("background", "black"), ("keep", "first"), ("on_empty", "ignore"),
        ("margin", -0.1), ("margin", 2.1), ("margin", math.nan), ("margin", "0.1"),
        ("dilation", 1.1), ("feather", -1), ("threshold", 1.01), ("minimum_area", 2),
        ("fill", (0, 0)), ("fill", (0, 0, 256)), ("fill", (0.5, 0, 0)), ("fill", "red"),
        ("fill_holes", "no"),
    ],
)  # fmt: skip
def test_a_value_outside_its_limits_is_refused_by_name(name, value):
    with pytest.raises(ConfigError, match=f"mask policy: {name} is"):
        MaskPolicy(**{name: value})
    with pytest.raises(ConfigError, match=f"mask policy: {name} is"):
        MaskPolicy.from_dict({name: value})
