"""Both stages in a row, with stages of plain numpy: what the cascade itself promises."""

from __future__ import annotations

import io
import itertools

import numpy as np
import pytest
from conftest import FakeClassifier, FakeSegmenter
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from cascade import Cascade, Failure, MaskPolicy, Prediction
from cascade.errors import ConfigError, EmptyMaskError, ImageError, ModelFileError, ShapeError
from cascade.imaging import ImageLimits, apply_orientation, read_image, resize_pixels
from cascade.lesion.masking import apply_mask, bounding_box, find_lesion
from cascade.pipeline.augmented_views import VIEWS, average, undo, view
from cascade.pipeline.stages import classify, segment

DIHEDRAL = VIEWS["dihedral"]


class Constant:
    """Both stages: the same answer whatever is shown."""

    size = 32
    policy = MaskPolicy()
    cutoff = 0.5

    def __init__(self, probability):
        self.probability = np.float32(probability)

    def predict(self, images):
        return np.full(images.shape[:3], self.probability, np.float32)

    def predict_proba(self, images):
        return np.full((len(images), 2), [1 - self.probability, self.probability], np.float32)

    def describe(self):
        return {}


def encoded(pixels, kind="PNG", **options):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def same(first, second):
    return (
        first.probabilities == second.probabilities
        and first.box == second.box
        and np.array_equal(first.mask, second.mask)
        and np.array_equal(first.crop, second.crop)
    )


@pytest.fixture
def white():
    """Nothing dark: the fake segmenter finds no lesion."""
    image = np.full((64, 80, 3), 230, np.uint8)
    image[::2, :40] = 240
    return image


def test_a_prediction_is_what_both_stages_say_of_the_image(lesion):
    segmenter, classifier = FakeSegmenter(), FakeClassifier()
    (prediction,) = Cascade(segmenter, classifier)(lesion.image)
    maps = segmenter.predict(resize_pixels(lesion.image, 64)[None])
    found = find_lesion(maps[0], classifier.policy, shape=(96, 128))
    crop = apply_mask(lesion.image, found, classifier.policy, size=48)
    assert np.array_equal(prediction.mask_probability, maps[0])
    assert np.array_equal(prediction.mask, found.mask)
    assert np.array_equal(prediction.crop, crop.pixels)
    assert (prediction.box, prediction.crop_box) == (found.box, crop.box)
    expected = classifier.predict_proba(crop.pixels[None])[0]
    assert list(prediction.probabilities.values()) == pytest.approx(expected)
    assert sum(prediction.probabilities.values()) == pytest.approx(1)


def test_documented_shapes_and_types_hold(fake_cascade, lesion):
    (prediction,) = fake_cascade([lesion.image])
    assert (prediction.mask.shape, prediction.mask.dtype) == ((96, 128), np.bool_)
    assert prediction.mask_probability.shape == (64, 64)
    assert prediction.mask_probability.dtype == np.float32
    assert (prediction.crop.shape, prediction.crop.dtype) == ((48, 48, 3), np.uint8)
    assert all(type(value) is float for value in prediction.probabilities.values())
    assert list(prediction.probabilities) == ["benign", "malignant"]
    assert all(type(side) is int for side in (*prediction.box, *prediction.crop_box))


def test_arrays_may_hold_blue_first_if_that_is_said(fake_cascade, lesion):
    (expected,) = fake_cascade(lesion.image)
    assert same(fake_cascade(lesion.image[..., ::-1], bgr=True)[0], expected)
    assert not same(fake_cascade(lesion.image[..., ::-1])[0], expected)
    assert same(fake_cascade(encoded(lesion.image), bgr=True)[0], expected), (
        "files know their order"
    )


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_every_kind_of_source_gives_the_same_prediction(fake_cascade, lesion, tmp_path, kind):
    data = encoded(lesion.image, kind)
    path = tmp_path / f"a.{kind.lower()}"
    path.write_bytes(data)
    loaded = read_image(path)
    with Image.open(path) as opened:
        sources = [path, str(path), data, bytearray(data), memoryview(data), loaded,
                   loaded.pixels, loaded.pixels[..., ::1], opened]  # fmt: skip
        predictions = fake_cascade(sources)
        assert all(same(predictions[0], other) for other in predictions)
        for source in sources:
            (called,), (iterated,) = fake_cascade(source), fake_cascade.predict_iter(source)
            assert same(called, iterated)


@pytest.mark.parametrize("kind", [iter, np.stack])
def test_several_images_may_come_in_any_iterable(fake_cascade, lesion, kind):
    images = [lesion.image, lesion.image[::-1].copy()]
    first, second = fake_cascade(kind(images))
    assert same(first, fake_cascade(images[0])[0])
    assert same(second, fake_cascade(images[1])[0])


@pytest.mark.parametrize("orientation", [1, 6, 7])
def test_every_exif_orientation_gives_the_same_prediction(
    fake_cascade, lesion, tmp_path, orientation
):
    (expected,) = fake_cascade(lesion.image)
    back = {6: 8, 8: 6}.get(orientation, orientation)
    stored = apply_orientation(lesion.image, back)
    block = Image.Exif()
    block[274] = orientation
    path = tmp_path / "a.png"
    Image.fromarray(stored).save(path, exif=block.tobytes())
    (prediction,) = fake_cascade(path)
    assert same(prediction, expected)
    assert prediction.orientation == orientation
    # the way back: dark pixels of the file are where the stored mask says
    assert prediction.stored_mask.shape == stored.shape[:2]
    assert np.array_equal(apply_orientation(prediction.stored_mask, orientation), prediction.mask)
    assert prediction.stored_box == bounding_box(prediction.stored_mask)
    lit = stored[prediction.stored_mask]
    assert sorted(map(tuple, lit)) == sorted(map(tuple, lesion.image[prediction.mask]))


@pytest.mark.parametrize("batch_size", [2, 100])
def test_each_input_has_one_result_in_order_whatever_breaks(
    fake_cascade, lesion, tmp_path, batch_size
):
    good = tmp_path / "good.png"
    good.write_bytes(encoded(lesion.image))
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "page.jpg").write_text("<html>")
    cut = encoded(lesion.image, "JPEG")
    (tmp_path / "cut.jpg").write_bytes(cut[: len(cut) // 2])
    sources = [
        tmp_path / "empty.jpg",
        good,
        tmp_path / "page.jpg",
        tmp_path / "cut.jpg",
        lesion.image,
        tmp_path / "none.jpg",
        lesion.image.astype(np.float32),
        np.zeros((8, 8, 3), np.uint8),
        7,
        None,
        good,
    ]
    results = list(fake_cascade.predict_iter(sources, batch_size=batch_size))
    kinds = ["F", "P", "F", "F", "P", "F", "F", "F", "F", "F", "P"]
    assert ["P" if isinstance(item, Prediction) else "F" for item in results] == kinds
    names = ["empty.jpg", "good.png", "page.jpg", "cut.jpg", "image", "none.jpg"]
    assert [item.name for item in results[:6]] == names
    assert all(item.name in str(item.error) for item in results[:6] if isinstance(item, Failure))
    good_alone = fake_cascade(good)[0]
    assert same(results[1], good_alone)
    assert same(results[10], good_alone)
    with pytest.raises(ImageError, match=r"empty\.jpg"):
        fake_cascade(sources)  # a call raises the first error


@pytest.mark.parametrize("value", [np.nan, -0.1])
def test_a_segmenter_that_gives_no_probabilities_fails_that_image(lesion, value):
    cascade = Cascade(Constant(value), FakeClassifier())
    (result,) = cascade.predict_iter([lesion.image])
    assert isinstance(result, Failure)
    assert isinstance(result.error, ShapeError)


def test_the_batch_size_changes_how_often_the_networks_are_called_and_nothing_else(lesion):
    images = [np.roll(lesion.image, shift, axis=1) for shift in range(5)]
    one, three = FakeSegmenter(), FakeSegmenter()
    judge = FakeClassifier()
    singles = list(Cascade(one, FakeClassifier()).predict_iter(images))
    batched = list(Cascade(three, judge).predict_iter(images, batch_size=3))
    assert (one.batches, three.batches, judge.batches) == ([1] * 5, [3, 2], [3, 2])
    assert all(map(same, singles, batched))


def test_inputs_are_taken_only_when_their_results_are_asked_for(fake_cascade, lesion):
    batch_size = 4
    taken = []

    def endless():
        for number in itertools.count():
            taken.append(number)
            yield lesion.image

    results = fake_cascade.predict_iter(endless(), batch_size=batch_size)
    assert taken == []
    next(results)
    assert len(taken) <= batch_size + 3, "read ahead by a few"
    for _ in range(2 * batch_size):
        next(results)
    assert len(taken) <= 3 * batch_size + 3


@given(
    arrays(np.uint8, st.tuples(st.just(2), st.just(5), st.just(5), st.just(3))),
    st.sampled_from(DIHEDRAL),
)
def test_each_view_is_undone_exactly(images, how):
    assert np.array_equal(undo(view(images, how), how), images)
    assert np.array_equal(undo(view(images[..., 0], how), how), images[..., 0])


def test_the_views_are_the_eight_symmetries_of_a_square():
    picture = np.arange(9).reshape(1, 3, 3)
    seen = {view(picture, how).tobytes() for how in DIHEDRAL}
    assert len(seen) == 8
    assert set(VIEWS["flips"]) < set(DIHEDRAL)
    flips = {view(picture, how).tobytes() for how in VIEWS["flips"]}
    expected = [picture[:, ::a, ::b] for a in (1, -1) for b in (1, -1)]
    assert flips == {np.ascontiguousarray(item).tobytes() for item in expected}


@given(st.floats(0, 1, width=32), st.sampled_from(sorted(VIEWS)))
def test_augmenting_a_constant_stage_gives_that_constant(probability, tta):
    stage = Constant(probability)
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3)).astype(np.uint8)
    maps = segment(stage, [image], tta=tta)
    assert maps.dtype == np.float32
    assert np.allclose(maps, stage.probability, atol=1e-6)
    crop = apply_mask(
        image, find_lesion(maps[0], MaskPolicy(), shape=(40, 50)), MaskPolicy(), size=32
    )
    judged = classify(stage, [crop], tta=tta)
    assert np.allclose(judged, [[1 - stage.probability, stage.probability]], atol=1e-6)


@pytest.mark.parametrize(("tta", "views"), [("none", 1), ("flips", 4)])
def test_augmentation_is_the_mean_over_its_views(lesion, tta, views):
    class Corner(FakeSegmenter):
        """Sees only the top left quarter, so that turning matters."""

        def predict(self, images):
            maps = super().predict(images)
            maps[:, 32:] = 0
            maps[:, :, 32:] = 0
            return maps

    stage = Corner()
    batch = resize_pixels(lesion.image, 64)[None]
    each = [undo(stage.predict(view(batch, how)), how) for how in VIEWS[tta]]
    assert len(each) == views
    assert np.allclose(segment(stage, [lesion.image], tta=tta), np.mean(each, axis=0), atol=1e-6)
    assert np.array_equal(average(each[:1]), each[0])


def test_another_policy_than_the_classifiers_is_refused(fake_segmenter, fake_classifier):
    same_policy = Cascade(fake_segmenter, fake_classifier, policy=MaskPolicy())
    assert same_policy.policy == fake_classifier.policy
    with pytest.raises(ConfigError, match="the classifier was trained with mask policy"):
        Cascade(fake_segmenter, fake_classifier, policy=MaskPolicy(margin=0.2))


@pytest.mark.parametrize(
    ("cutoff", "label"), [(0.0, "malignant"), (0.25, "malignant"), (0.2500001, "benign")]
)
def test_a_probability_at_the_cutoff_is_malignant(lesion, cutoff, label):
    class Quarter(Constant):
        policy = MaskPolicy()

    cascade = Cascade(FakeSegmenter(), Quarter(0.25), cutoff=cutoff)
    assert cascade(lesion.image)[0].label == label
    assert Cascade(FakeSegmenter(), FakeClassifier(cutoff=0.3)).cutoff == 0.3


@pytest.mark.parametrize("cutoff", [1.1, float("nan")])
def test_a_cutoff_that_is_no_probability_is_refused(fake_segmenter, fake_classifier, cutoff):
    with pytest.raises(ConfigError, match="cutoff is"):
        Cascade(fake_segmenter, fake_classifier, cutoff=cutoff)


@pytest.mark.parametrize(
    ("mode", "on_empty", "label"),
    [("crop", "whole", "malignant"), ("crop", "abstain", None), ("whole", "abstain", "malignant")],
)
def test_without_a_lesion_the_policy_decides_and_that_is_said(white, mode, on_empty, label):
    policy = MaskPolicy.from_mode(mode, on_empty=on_empty)
    (prediction,) = Cascade(FakeSegmenter(), FakeClassifier(policy=policy))(white)
    assert prediction.label == label
    assert bool(prediction.probabilities) == (label is not None)
    assert prediction.box is prediction.stored_box is None
    assert not prediction.mask.any()
    assert not prediction.stored_mask.any()
    assert sum("no lesion found" in warning for warning in prediction.warnings) == 1
    if label:
        assert prediction.crop_box == (0, 0, 64, 80)


def test_without_a_lesion_a_strict_cascade_fails_that_image_only(white, lesion):
    cascade = Cascade(FakeSegmenter(), FakeClassifier(policy=MaskPolicy(on_empty="raise")))
    results = list(cascade.predict_iter([lesion.image, white, lesion.image], batch_size=3))
    assert [type(item) for item in results] == [Prediction, Failure, Prediction]
    assert isinstance(results[1].error, EmptyMaskError)
    with pytest.raises(EmptyMaskError):
        cascade(white)


def test_odd_masks_and_images_are_announced(fake_cascade):
    image = np.full((64, 64, 3), 230, np.uint8)
    image[0:20, 0:20] = 40
    image[40:50, 40:50] = 40
    (prediction,) = fake_cascade(image)
    assert any("border" in warning for warning in prediction.warnings)
    assert any("2 separate regions" in warning for warning in prediction.warnings)
    (uniform,) = fake_cascade(np.full((64, 64, 3), 128, np.uint8))
    assert any("uniform" in warning for warning in uniform.warnings)


def test_a_cascade_describes_itself_in_plain_values(fake_cascade):
    import json

    described = json.loads(json.dumps(fake_cascade.describe()))
    assert described["segmenter"]["encoder"] == "fake"
    assert described["cutoff"] == 0.5
    assert fake_cascade.provenance == {"segmenter": {}, "classifier": {}}


def test_what_a_cascade_cannot_do_is_refused(fake_cascade, lesion, tmp_path):
    path = tmp_path / "a.safetensors"
    with pytest.raises(ConfigError, match="only a cascade of torch networks"):
        fake_cascade.save(path)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ConfigError, match="'tpu'"):
        Cascade.load(path, runtime="tpu")
    with pytest.raises(ModelFileError, match=r"a\.safetensors"):
        Cascade.load(path)
    with pytest.raises(ConfigError, match=r"'all'.*none, flips, dihedral"):
        fake_cascade(lesion.image, tta="all")
    small = Cascade(FakeSegmenter(), FakeClassifier(), limits=ImageLimits(max_pixels=10_000))
    with pytest.raises(ImageError, match="too large"):
        small(lesion.image)
