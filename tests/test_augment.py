"""Augmentation: the same for image and mask, decided by the seed alone."""

import random
import typing

import numpy as np
import pytest

from cascade.config import Augmentation, ExtraAugmentation
from cascade.data.augment import Augmenter, neutral_light

STRENGTHS = typing.get_args(Augmentation)
RANDOM = [strength for strength in STRENGTHS if strength != "none"]


@pytest.fixture(scope="module")
def augmenters():
    return {strength: Augmenter(strength) for strength in STRENGTHS}


@pytest.fixture
def picture():
    """A bright shape without symmetry on a dark ground, and its mask."""
    mask = np.zeros((64, 64), np.uint8)
    mask[12:44, 16:28] = 1
    mask[34:44, 16:52] = 1
    image = np.full((64, 64, 3), 30, np.uint8)
    image[mask == 1] = (220, 200, 190)
    return image, mask


def symmetries(array):
    turned = [np.rot90(array, turns) for turns in range(4)]
    return [item.tobytes() for item in (*turned, *(item[:, ::-1] for item in turned))]


def test_none_gives_image_and_mask_as_they_are(augmenters, picture):
    image, mask = picture
    changed, changed_mask = augmenters["none"](image, mask, seed=3)
    assert changed is image
    assert changed_mask is mask


@pytest.mark.parametrize("strength", STRENGTHS)
@pytest.mark.parametrize("side", [32, 97])
def test_shapes_types_and_values_hold(augmenters, strength, side):
    image = np.random.default_rng(0).integers(0, 256, (side, side, 3)).astype(np.uint8)
    mask = (image[..., 0] > 128).astype(np.uint8)
    for seed in range(5):
        changed, changed_mask = augmenters[strength](image, mask, seed=seed)
        assert (changed.shape, changed.dtype) == (image.shape, np.uint8)
        assert (changed_mask.shape, changed_mask.dtype) == (mask.shape, np.uint8)
        assert set(np.unique(changed_mask)) <= {0, 1}


@pytest.mark.parametrize("strength", RANDOM)
def test_the_seed_alone_decides(augmenters, strength, picture):
    image, mask = picture
    before = image.copy(), mask.copy()
    first = [augmenters[strength](image, mask, seed=seed) for seed in range(6)]
    random.seed(99)
    np.random.seed(99)  # noqa: NPY002 - that the global generator plays no part is the point
    state = random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    other = Augmenter(strength)
    again = [other(image, mask, seed=seed) for seed in reversed(range(6))][::-1]
    for (image_1, mask_1), (image_2, mask_2) in zip(first, again, strict=True):
        assert np.array_equal(image_1, image_2)
        assert np.array_equal(mask_1, mask_2)
    assert state == (random.getstate(), np.random.get_state()[1].tolist())  # noqa: NPY002
    assert np.array_equal(image, before[0])
    assert np.array_equal(mask, before[1])


def test_each_change_is_drawn_on_its_own(augmenters, picture):
    """Geometry comes with probability 0.7, brightness and hue with 0.6 each, independently.

    With one seed for every transform, as albumentations sets it, 30 % of the images would
    only be turned or mirrored instead of 0.3 * 0.4 * 0.4 = 4.8 %.
    """
    image, mask = picture
    turned_masks = symmetries(mask)
    trials, moved, recoloured, untouched = 400, 0, 0, 0
    for seed in range(trials):
        changed, changed_mask = augmenters["standard"](image, mask, seed=seed)
        move = changed_mask.tobytes() not in turned_masks
        recolour = tuple(np.median(changed[changed_mask == 1], axis=0)) != (220, 200, 190)
        moved, recoloured = moved + move, recoloured + recolour
        untouched += not (move or recolour)
    deviation = 3 * np.sqrt(0.25 * trials)
    assert moved == pytest.approx(0.7 * trials, abs=deviation)
    assert trials - recoloured == pytest.approx(0.4 * 0.4 * trials, abs=deviation)
    assert untouched < 0.1 * trials


def test_light_only_turns_and_mirrors_and_reaches_all_eight_symmetries(augmenters, picture):
    image, mask = picture
    seen = set()
    for seed in range(80):
        changed, changed_mask = augmenters["light"](image, mask, seed=seed)
        index = symmetries(image).index(changed.tobytes())
        assert symmetries(mask).index(changed_mask.tobytes()) == index, "the same for the mask"
        seen.add(index)
    assert seen == set(range(8))


@pytest.mark.parametrize("strength", ["standard", "strong"])
def test_the_mask_moves_with_the_image(augmenters, strength, picture):
    image, mask = picture
    overlaps = []
    for seed in range(60):
        changed, changed_mask = augmenters[strength](image, mask, seed=seed)
        bright = changed.astype(int).mean(axis=2)
        bright = bright > (bright.min() + bright.max()) / 2
        overlaps.append((bright & (changed_mask == 1)).sum() / (bright | (changed_mask == 1)).sum())
    assert np.median(overlaps) > 0.9
    # a symmetry too many would overlap by less than half
    assert np.quantile(overlaps, 0.1) > (0.85 if strength == "standard" else 0.7)


@pytest.mark.parametrize("strength", RANDOM)
def test_an_image_alone_changes_as_it_does_with_a_mask_of_the_same_seed(
    augmenters, strength, picture
):
    image, mask = picture
    for seed in range(8):
        alone, nothing = augmenters[strength](image, seed=seed)
        assert nothing is None
        assert np.array_equal(alone, augmenters[strength](image, mask, seed=seed)[0])


def test_crops_that_were_jittered_already_are_not_scaled_again(picture):
    image, mask = picture
    rotating = Augmenter("standard", geometry_only_rotates=True)
    areas = [rotating(image, mask, seed=seed)[1].sum() / mask.sum() for seed in range(40)]
    assert np.std(areas) < 0.05
    free = Augmenter("standard")
    scaled = [free(image, mask, seed=seed)[1].sum() / mask.sum() for seed in range(40)]
    assert np.std(scaled) > 0.1


EXTRAS = typing.get_args(ExtraAugmentation)


@pytest.mark.parametrize("name", EXTRAS)
def test_a_further_change_is_made_of_about_every_second_image(name, picture):
    image, mask = picture
    augmenter = Augmenter("none", extra=(name,))
    changed = [augmenter(image, mask, seed=seed)[0] for seed in range(60)]
    count = sum(bool((other != image).any()) for other in changed)
    assert 18 <= count <= 42
    again = augmenter(image, mask, seed=59)[0]
    np.testing.assert_array_equal(again, changed[59])


@pytest.mark.parametrize("name", ["cut", "scale"])
def test_a_further_change_of_geometry_moves_image_and_mask_together(name, picture):
    image, mask = picture
    augmenter = Augmenter("none", extra=(name,))
    areas, cut = [], 0
    for seed in range(40):
        changed, changed_mask = augmenter(image, mask, seed=seed)
        assert changed.shape == image.shape
        assert set(np.unique(changed_mask)) <= {0, 1}
        bright = changed[..., 0] > 125
        assert (bright != changed_mask.astype(bool)).mean() < 0.04
        areas.append(int(changed_mask.sum()))
        rims = changed_mask[0], changed_mask[-1], changed_mask[:, 0], changed_mask[:, -1]
        cut += any(rim.any() for rim in rims)
    assert max(areas) > mask.sum()
    assert (cut > 3) if name == "cut" else (min(areas) < mask.sum())


def test_a_smaller_image_lies_amid_skin_or_its_own_border_goes_on():
    stripes = np.full((64, 64, 3), 120, np.uint8)
    stripes[:, ::4] = 200
    augmenter = Augmenter("none", extra=("scale",))
    corners = []
    for seed in range(60):
        changed, mask = augmenter(stripes, np.ones((64, 64), np.uint8), seed=seed)
        if mask[0].any() or mask[:, 0].any():
            continue  # not smaller
        corners.append(float(np.ptp(changed[0].mean(axis=1))))
    assert min(corners) < 25 < 45 < max(corners)  # plain skin, and stripes that go on


def test_hair_leaves_the_mask_and_darkens_lines(picture):
    image, mask = np.full((96, 96, 3), 200, np.uint8), np.zeros((96, 96), np.uint8)
    augmenter = Augmenter("none", extra=("hair",))
    results = [augmenter(image, mask, seed=seed) for seed in range(10)]
    assert all((changed_mask == mask).all() for _, changed_mask in results)
    changed = [image for image, _ in results if (image != 200).any()]
    assert changed
    assert all(
        (other <= 200).all() and (other != 200).any(axis=2).mean() < 0.6 for other in changed
    )


def test_degradations_differ_in_what_they_take_from_an_image():
    """Sharpness (blur), equal neighbours (noise, JPEG) or the balance of the colours (cast)."""
    grey = np.full((96, 96, 3), 120, np.uint8)
    grey[:, ::2] = 160
    augmenter = Augmenter("none", extra=("degradation",))
    changed = [augmenter(grey, seed=seed)[0].astype(float) for seed in range(60)]
    contrasts = [np.abs(np.diff(image.mean(axis=(0, 2)))).mean() for image in changed]
    casts = [np.ptp(image.mean(axis=(0, 1))) for image in changed]
    spreads = [image[:, 0].std() for image in changed]
    assert min(contrasts) < 25 < 39 < max(contrasts)
    assert np.median(casts) < 2 < 8 < max(casts)
    assert np.median(spreads) < 2 < 8 < max(spreads)


def test_a_coloured_light_is_made_neutral():
    generator = np.random.default_rng(0)
    plain = generator.integers(40, 200, (64, 64, 1)).repeat(3, axis=2)
    lit = np.clip(plain * np.array([1.1, 1.0, 0.7]), 0, 255).astype(np.uint8)
    neutral = neutral_light(lit)
    spread = neutral.astype(int).max(axis=2) - neutral.astype(int).min(axis=2)
    assert spread.max() <= 2
    assert neutral.mean() == pytest.approx(lit.mean(), rel=0.05)
    black = np.zeros((4, 4, 3), np.uint8)
    np.testing.assert_array_equal(neutral_light(black), black)
