"""Heat maps without torch: on the image, in numbers, and as an image."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from conftest import MappedClassifier

from cascade.errors import ConfigError, ModelFileError, ShapeError
from cascade.evaluation.overlays import draw_outline
from cascade.explain import Explanation, explain, heat_inside, overlay_heat
from cascade.lesion.masking import MaskPolicy
from cascade.pipeline import Cascade


@pytest.fixture
def scene():
    """Skin with a dark lesion, left of whose middle is a red patch; and its truth."""
    image = np.full((96, 128, 3), 200, np.uint8)
    image[::2] = 210
    cv2.ellipse(image, (64, 48), (30, 20), 0, 0, 360, (60, 50, 50), cv2.FILLED)
    image[40:56, 44:60] = (160, 20, 20)
    return image


@pytest.fixture
def explained(scene, fake_segmenter):
    """Explain the scene with a classifier; gives the prediction and the explanation."""

    def run(classifier, image=scene, **options):
        cascade = Cascade(fake_segmenter, classifier)
        prediction = cascade([image])[0]
        return prediction, explain(cascade, image, prediction, **options)

    return run


def test_heat_lies_where_the_evidence_is_in_original_pixels(explained):
    prediction, found = explained(MappedClassifier(cells=12))
    assert prediction.box is not None
    assert found.heat_map.shape == (96, 128)
    assert found.heat_map.dtype == np.float32
    assert (found.heat_map.min(), found.heat_map.max()) == (0, pytest.approx(1, abs=1e-3))
    weight = found.heat_map / found.heat_map.sum()
    rows, columns = np.mgrid[:96, :128] + 0.5
    assert (weight * rows).sum() == pytest.approx(48, abs=1)
    assert (weight * columns).sum() == pytest.approx(52, abs=1)


def test_nothing_outside_the_crop_is_hot(explained):
    uniform = np.full((3, 3), 2.0)
    prediction, found = explained(MappedClassifier(fixed=uniform))
    top, left, bottom, right = prediction.crop_box
    seen = np.zeros((96, 128), bool)
    seen[max(top, 0) : bottom, max(left, 0) : right] = True
    assert 0 < seen.mean() < 1
    np.testing.assert_array_equal(found.heat_map, seen.astype(np.float32))


def test_a_crop_that_reaches_over_the_border_is_mapped_without_a_shift(fake_segmenter):
    image = np.full((60, 200, 3), 200, np.uint8)
    image[::2] = 210
    image[5:55, 40:160] = 50  # wider than the image is high, so the crop reaches over it
    right_half = np.zeros((8, 8))
    right_half[:, 4:] = 1.0
    cascade = Cascade(fake_segmenter, MappedClassifier(fixed=right_half))
    prediction = cascade([image])[0]
    top, left, bottom, right = prediction.crop_box
    assert top < 0
    assert bottom > 60
    found = explain(cascade, image, prediction)
    middle = (left + right) / 2
    crossing = np.argmax(found.heat_map[30] >= 0.5)
    assert crossing == pytest.approx(middle, abs=1)
    assert found.heat_map[0].max() == found.heat_map[-1].max() == 1
    assert any(f"{1 - 60 / (bottom - top):.0%}" in text for text in found.warnings)


@pytest.mark.parametrize("reason", ["no lesion", "low mask quality"])
def test_where_the_whole_image_was_classified_the_heat_covers_it(scene, fake_segmenter, reason):
    from cascade.reliability import MaskQualityLimits, Safeguards

    image = scene if reason == "low mask quality" else np.full_like(scene, 205)
    image = np.ascontiguousarray(image)
    image[::2] += 4
    safeguards = Safeguards(mask_quality_limits=MaskQualityLimits(smallest_area=1.0))
    halves = np.zeros((2, 2))
    halves[1] = 1.0
    classifier = MappedClassifier(fixed=halves, policy=MaskPolicy(on_empty="abstain"))
    cascade = Cascade(fake_segmenter, classifier, safeguards=safeguards)
    prediction = cascade([image])[0]
    assert prediction.crop_box == (0, 0, 96, 128)
    found = explain(cascade, image, prediction)
    assert found.heat_map[:20].max() == 0
    assert found.heat_map[-20:].min() == 1
    low_quality = any("mask quality is low" in text for text in found.warnings)
    assert low_quality == (reason == "low mask quality")
    assert (found.inside_fraction is None) == (reason == "no lesion")
    assert any("gave no label" in text for text in found.warnings) == (prediction.label is None)


def test_the_other_class_is_hot_where_this_one_is_cold(explained):
    halves = np.array([[1.0, -1.0], [1.0, -1.0]])
    prediction, malignant = explained(MappedClassifier(fixed=halves))
    _, benign = explained(MappedClassifier(fixed=halves, offset=1000.0), target="benign")
    assert (malignant.target, benign.target) == ("malignant", "benign")
    _, left, _, right = prediction.crop_box
    assert malignant.heat_map[48, left + 2] == benign.heat_map[48, right - 3] == 1
    assert malignant.heat_map[48, right - 3] == benign.heat_map[48, left + 2] == 0


@pytest.mark.parametrize("value", [-3.0, 1e-9])
def test_an_empty_map_is_said_to_be_empty(explained, scene, value):
    prediction, found = explained(MappedClassifier(fixed=np.full((3, 3), value)))
    assert found.is_empty
    assert not found.heat_map.any()
    assert (found.inside_fraction, found.mean_ratio) == (None, None)
    (warning,) = found.warnings
    assert "no heat" in warning
    assert "malignant" in warning
    np.testing.assert_array_equal(
        overlay_heat(scene, found, prediction.mask), draw_outline(scene, prediction.mask)
    )
    np.testing.assert_array_equal(overlay_heat(scene, found), scene)


def test_heat_that_stays_in_its_corner_when_the_crop_turns_is_a_warning(explained):
    _, found = explained(MappedClassifier())
    assert found.turn_agreement == pytest.approx(1, abs=1e-5)
    assert found.warnings == ()
    assert explained(MappedClassifier(fixed=np.ones((3, 3))))[1].turn_agreement is None
    corner = np.zeros((4, 4))
    corner[3, 3] = 1
    _, found = explained(MappedClassifier(fixed=corner))
    assert found.turn_agreement == pytest.approx(
        np.corrcoef(corner.ravel(), corner[::-1, ::-1].ravel())[0, 1]
    )
    assert "-0.07" in found.warnings[0]


@pytest.mark.parametrize("tta", ["none", "dihedral"])
def test_heat_is_the_mean_over_the_views_that_were_averaged(explained, tta):
    corner = np.full((2, 2), -1.0)
    corner[0, 0] = 5.0
    prediction, found = explained(MappedClassifier(fixed=corner), tta=tta)
    top, left, bottom, right = prediction.crop_box
    ends = found.heat_map[top : bottom : bottom - top - 1, left : right : right - left - 1]
    expected = {"none": [[1, 0], [0, 0]]}.get(tta, [[1, 1], [1, 1]])
    np.testing.assert_allclose(ends, expected, atol=1e-6)


def test_numbers_are_the_documented_formulas(explained):
    prediction, found = explained(MappedClassifier())
    heat, mask = found.heat_map.astype(np.float64), prediction.mask
    top, left, bottom, right = prediction.crop_box
    seen = np.zeros(mask.shape, bool)
    seen[max(top, 0) : bottom, max(left, 0) : right] = True
    assert found.inside_fraction == pytest.approx(heat[mask].sum() / heat.sum())
    assert found.mean_ratio == pytest.approx(heat[mask & seen].mean() / heat[seen & ~mask].mean())
    assert 0.5 < found.inside_fraction < 1
    assert found.mean_ratio > 1


@pytest.mark.parametrize(
    ("mask", "heat", "expected"),
    [
        ("none", "all", (None, None)),
        ("left", "none", (None, None)),
        ("left", "right", (0.0, 0.0)),
        ("all", "all", (1.0, None)),
        ("right", "all", (0.5, 1.0)),
    ],
)
def test_numbers_that_cannot_be_are_missing(mask, heat, expected):
    parts = {"none": slice(0, 0), "left": slice(0, 4), "right": slice(4, 8), "all": slice(0, 8)}
    lesion, warm = np.zeros((8, 8), bool), np.zeros((8, 8), np.float32)
    lesion[:, parts[mask]] = True
    warm[:, parts[heat]] = 0.25
    assert heat_inside(warm, lesion, (0, 0, 8, 8)) == expected


def explanation_of(heat, **changes):
    values = {"target": "malignant", "inside_fraction": None, "mean_ratio": None}
    return Explanation(heat_map=heat, is_empty=not heat.any(), **{**values, **changes})


def test_cold_pixels_show_the_photograph_and_hot_ones_a_warm_colour(scene):
    heat = np.zeros((96, 128), np.float32)
    heat[:, 64:] = np.linspace(0, 1, 64)
    before = scene.copy()
    drawn = overlay_heat(scene, explanation_of(heat))
    np.testing.assert_array_equal(scene, before)
    np.testing.assert_array_equal(drawn[:, :65], scene[:, :65])
    skin = drawn[0, 65:].astype(int)
    assert skin[-1, 0] > skin[-1, 2] + 30, "yellow at the hottest place"
    change = np.abs(drawn.astype(int) - scene).sum(axis=(0, 2))
    assert change[127] > change[90] > change[70] > 0


def test_parts_of_different_images_are_refused(scene):
    heat = np.ones((96, 128), np.float32)
    with pytest.raises(ShapeError, match="heat map is"):
        overlay_heat(scene[:-1], explanation_of(heat))
    with pytest.raises(ShapeError, match="they must agree"):
        overlay_heat(scene, explanation_of(heat), np.zeros((95, 128), bool))
    with pytest.raises(ShapeError, match="floats in"):
        overlay_heat(scene / 255.0, explanation_of(heat))


def test_what_cannot_be_explained_is_refused(explained, scene, fake_segmenter, fake_cascade):
    for options in ({"target": "melanoma"}, {"tta": "many"}):
        with pytest.raises(ConfigError, match=next(iter(options.values()))):
            explained(MappedClassifier(), **options)
    with pytest.raises(ModelFileError, match="not finite"):
        explained(MappedClassifier(fixed=np.full((3, 3), np.nan)))
    with pytest.raises(ConfigError, match="FakeClassifier"):
        explain(fake_cascade, scene, fake_cascade([scene])[0])
    cascade = Cascade(fake_segmenter, MappedClassifier())
    (prediction,) = cascade([scene])
    with pytest.raises(ShapeError, match="as it is displayed"):
        explain(cascade, np.ascontiguousarray(scene[:, ::-1][:90]), prediction)
    with pytest.raises(ShapeError, match="uint8"):
        explain(cascade, scene / 255.0, prediction)
    other = Cascade(fake_segmenter, MappedClassifier(size=32))
    with pytest.raises(ConfigError, match="the cascade that made it"):
        explain(other, scene, prediction)
