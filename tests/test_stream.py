"""Large images are read small, small crops finer, and results come in order from threads."""

from __future__ import annotations

import threading
import time

import cv2
import numpy as np
import pytest

from cascade.errors import ImageError
from cascade.imaging import encode_jpeg, read_image
from cascade.imaging.resize import reduction
from cascade.lesion.masking import bounding_box
from cascade.pipeline import Failure, Prediction
from cascade.pipeline.stream import in_order


def scene(shape, centre, radius):
    """A dark disc on bright skin with a fine checkerboard, as ``(H, W, 3)`` uint8."""
    image = np.full((*shape, 3), 225, np.uint8)
    image[::2, ::2] -= 8
    cv2.circle(image, centre, radius, (70, 60, 60), -1)
    return image


LARGE = scene((1800, 2400), (1000, 800), 400)


@pytest.fixture
def large(tmp_path):
    path = tmp_path / "large.jpg"
    path.write_bytes(encode_jpeg(LARGE))
    return path


@pytest.mark.parametrize(
    ("shape", "divisor"),
    [((767, 900), 1), ((768, 900), 2), ((1536, 3000), 4), ((3072, 4000), 8), ((9000, 9000), 8)],
)
def test_an_image_is_halved_as_long_as_enough_pixels_stay(shape, divisor):
    assert reduction(shape, 384) == divisor
    assert reduction(shape, None) == 1


@pytest.mark.parametrize("form", ["path", "bytes", "array", "loaded"])
def test_a_large_image_gives_a_mask_and_boxes_of_its_own_size(fake_cascade, large, form):
    source = {
        "path": large,
        "bytes": large.read_bytes(),
        "array": LARGE,
        "loaded": read_image(large),
    }[form]
    (prediction,) = fake_cascade([source])
    assert prediction.mask.shape == prediction.shape == (1800, 2400)
    assert prediction.lesion.mask.shape == (450, 600)
    true = np.array(bounding_box(prediction.mask))
    assert np.abs(np.array(prediction.box) - true).max() <= 8
    assert np.abs(true - (400, 600, 1201, 1401)).max() <= 40
    assert prediction.measurements.diameter_pixels == pytest.approx(801, rel=0.06)
    assert prediction.area_fraction == pytest.approx(prediction.mask.mean(), rel=0.02)


def test_a_turned_image_has_its_boxes_as_displayed(fake_cascade, tmp_path):
    from PIL import Image

    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "turned.jpg"
    Image.fromarray(LARGE).save(path, quality=95, exif=exif)
    (prediction,) = fake_cascade([path])
    assert prediction.mask.shape == (2400, 1800)
    assert prediction.stored_mask.shape == (1800, 2400)
    stored = np.array(bounding_box(prediction.stored_mask))
    assert np.abs(np.array(prediction.stored_box) - stored).max() <= 8


@pytest.mark.parametrize("form", ["path", "array", "reduced"])
def test_a_small_lesion_is_cut_from_finer_pixels(fake_cascade, tmp_path, form):
    image = scene((3200, 3200), (1600, 1600), 150)
    path = tmp_path / "small.png"
    cv2.imwrite(str(path), image[..., ::-1])
    source = {"path": path, "array": image, "reduced": read_image(path, short_side=384)}[form]
    fake_cascade.classifier.size = 128
    (prediction,) = fake_cascade([source])
    top, left, bottom, right = prediction.crop_box
    assert 300 < bottom - top < 900
    expected = cv2.resize(image[top:bottom, left:right], (128, 128), interpolation=cv2.INTER_AREA)
    middle = np.s_[45:83, 45:83]  # the policy fills what lies around the lesion
    assert np.abs(prediction.crop[middle].astype(int) - expected[middle]).mean() < 2
    edge = np.abs(np.diff(prediction.crop[64].astype(int).sum(axis=1))).max()
    assert edge > 60, "a crop of enlarged pixels would be blurred"


def test_pixels_that_were_reduced_without_a_source_are_used_as_they_are(fake_cascade, tmp_path):
    from dataclasses import replace

    image = scene((3200, 3200), (1600, 1600), 150)
    path = tmp_path / "small.png"
    cv2.imwrite(str(path), image[..., ::-1])
    fake_cascade.classifier.size = 128
    (prediction,) = fake_cascade([replace(read_image(path, short_side=384), source=None)])
    assert prediction.shape == (3200, 3200)
    assert prediction.crop.shape == (128, 128, 3)


class Threaded:
    """A stage that may be called by several threads at once."""

    cores = 3

    def __init__(self, stage):
        self.stage = stage

    def __getattr__(self, name):
        return getattr(self.stage, name)

    def single_threaded(self):
        return self


def test_threads_give_the_results_of_one_in_order(fake_cascade, large, lesion):
    sources = [large, lesion.image, b"broken", *(np.roll(lesion.image, n, 0) for n in range(20))]
    expected = list(fake_cascade.predict_iter(sources))
    fake_cascade.segmenter = Threaded(fake_cascade.segmenter)
    fake_cascade.classifier = Threaded(fake_cascade.classifier)
    found = list(fake_cascade.predict_iter(sources))
    assert len(found) == len(sources)
    for one, other in zip(expected, found, strict=True):
        assert type(one) is type(other)
        if isinstance(one, Failure):
            assert isinstance(other.error, ImageError)
        else:
            assert one.probabilities == other.probabilities
            assert one.box == other.box
            np.testing.assert_array_equal(one.crop, other.crop)


@pytest.mark.parametrize("batch_size", [None, 1, 4])
@pytest.mark.parametrize("tta", ["none", "flips"])
def test_batches_of_a_gpu_give_the_results_of_single_images_in_order(
    fake_cascade, large, lesion, batch_size, tta
):
    sources = [large, lesion.image, b"broken", *(np.roll(lesion.image, n, 0) for n in range(40))]
    expected = [next(fake_cascade.predict_iter([source], tta=tta)) for source in sources]
    sizes = []
    predict = fake_cascade.segmenter.predict
    fake_cascade.segmenter.predict = lambda batch: sizes.append(len(batch)) or predict(batch)
    fake_cascade.segmenter.on_gpu = True
    found = list(fake_cascade.predict_iter(sources, tta=tta, batch_size=batch_size))
    assert (batch_size or 32) - 1 <= max(sizes) <= (batch_size or 32)  # one is broken
    assert [type(one) for one in found] == [type(one) for one in expected]
    for one, other in zip(expected, found, strict=True):
        if isinstance(one, Failure):
            assert isinstance(other.error, ImageError)
        else:
            assert one.probabilities == other.probabilities
            assert (one.box, one.measurements) == (other.box, other.measurements)
            np.testing.assert_array_equal(one.crop, other.crop)


def test_a_caller_of_a_gpu_may_stop_early(fake_cascade, lesion):
    taken = []
    fake_cascade.segmenter.on_gpu = True
    results = fake_cascade.predict_iter(
        (taken.append(n) or lesion.image for n in range(10_000)), batch_size=2
    )
    assert isinstance(next(results), Prediction)
    results.close()
    assert len(taken) < 1000


def test_work_is_read_ahead_by_a_bounded_number():
    taken, running, most = [], [], []
    lock = threading.Lock()

    def items():
        for number in range(100):
            taken.append(number)
            yield number

    def work(number):
        with lock:
            running.append(number)
            most.append(len(running))
        time.sleep(0.001 * (number % 3))
        with lock:
            running.remove(number)
        return number

    results = in_order(work, items(), workers=4)
    assert [next(results) for _ in range(5)] == [0, 1, 2, 3, 4]
    assert len(taken) <= 5 + 2 * 4 + 1
    assert list(results) == list(range(5, 100))
    assert max(most) <= 4


def test_an_error_reaches_the_caller_and_a_caller_may_stop_early():
    def work(number):
        if number == 3:
            raise KeyError(number)
        return number

    results = in_order(work, iter(range(50)), workers=2)
    with pytest.raises(KeyError):
        list(results)
    early = in_order(work, iter(range(3)), workers=2)
    assert next(early) == 0
    early.close()


def test_mask_box_and_crop_are_of_one_lesion_at_every_size(fake_cascade):
    """Two equal discs: which of them is larger must not depend on the size that is looked at."""
    for seed in range(6):
        rng = np.random.default_rng(seed)
        image = np.full((1543, 2311, 3), 225, np.uint8)
        radius = int(rng.integers(90, 110))
        for centre in ((500 + seed, 400), (1700, 1200 - seed)):
            cv2.circle(image, centre, radius, (70, 60, 60), -1)
        (prediction,) = fake_cascade([image])
        found = np.array(bounding_box(prediction.mask))
        assert np.abs(np.array(prediction.box) - found).max() <= 8
        top, left, bottom, right = prediction.crop_box
        assert (top, left) <= (found[0], found[1])
        assert left <= found[1] < found[3] <= right
        assert bottom >= found[2]


def test_boxes_stay_within_an_image_of_odd_size(fake_cascade):
    image = np.full((1543, 1543, 3), 225, np.uint8)
    image[1000:, 1000:] = 60
    (prediction,) = fake_cascade([image])
    assert prediction.box[2:] == (1543, 1543)


@pytest.mark.parametrize("shape", [(1535, 2047), (1536, 2049), (3071, 4095)])
def test_a_file_is_reduced_once_whatever_its_size(tmp_path, shape):
    image = scene(shape, (700, 700), 300)
    path = tmp_path / "odd.jpg"
    path.write_bytes(encode_jpeg(image))
    read, held = read_image(path, short_side=384), read_image(image, short_side=384)
    assert read.shape == held.shape
    assert read.divisor == held.divisor == reduction(shape, 384)
    assert read.full_shape == shape


def test_a_file_and_its_loaded_image_are_predicted_alike(fake_cascade, large):
    of_path, of_loaded = (fake_cascade([source])[0] for source in (large, read_image(large)))
    assert of_path.probabilities == of_loaded.probabilities
    np.testing.assert_array_equal(of_path.crop, of_loaded.crop)


def test_sources_in_memory_may_be_reused_or_closed_by_their_owner(fake_cascade, lesion, tmp_path):
    from PIL import Image

    frames = [np.roll(lesion.image, 3 * number, 1) for number in range(8)]
    expected = [prediction.box for prediction in fake_cascade(frames)]
    for number, frame in enumerate(frames):
        Image.fromarray(frame).save(tmp_path / f"{number}.png")

    def refilled():
        buffer = np.empty_like(frames[0])
        for frame in frames:
            buffer[:] = frame
            yield buffer

    def closed():
        for number in range(len(frames)):
            with Image.open(tmp_path / f"{number}.png") as image:
                yield image

    fake_cascade.segmenter = Threaded(fake_cascade.segmenter)
    fake_cascade.classifier = Threaded(fake_cascade.classifier)
    for sources in (refilled(), closed()):
        assert [prediction.box for prediction in fake_cascade.predict_iter(sources)] == expected


def test_what_was_taken_before_a_source_failed_is_delivered():
    def failing():
        yield from range(4)
        raise OSError("the disk is gone")

    results = in_order(lambda number: number, failing(), workers=3)
    assert [next(results) for _ in range(4)] == [0, 1, 2, 3]
    with pytest.raises(OSError, match="disk"):
        next(results)
