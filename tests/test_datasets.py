"""Training samples: exactly what prediction sees, and the same in any process."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
from torch.utils.data import DataLoader

from cascade import ClassificationDataset, MaskPolicy, SegmentationDataset, read_table
from cascade.errors import DataError, EmptyMaskError
from cascade.imaging import read_image, read_mask, resize_pixels
from cascade.lesion.masking import MASK_MODES, apply_mask, lesion_from_mask


@pytest.fixture(scope="module")
def table(dataset_folder):
    return read_table(dataset_folder / "train_data.csv")


@pytest.fixture(scope="module")
def unmasked(dataset_folder):
    with_masks = read_table(dataset_folder / "train_data.csv")
    return [replace(record, mask_path=None) for record in with_masks]


def same(first, second):
    return all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("size", [32, 96])
def test_a_segmentation_sample_is_what_the_segmenter_sees_in_prediction(table, size):
    dataset = SegmentationDataset(table, size=size)
    assert len(dataset) == len(table) == 12
    for index, record in enumerate(table):
        image, mask = dataset[index]
        expected = resize_pixels(read_image(record.image_path).pixels, size)
        if size == 96:  # no image has a longer short side
            assert np.array_equal(image, expected)
        else:  # a JPEG may be decoded at a fraction of its size, for speed
            assert np.abs(image.astype(int) - expected).mean() < 6
        assert (image.dtype, mask.dtype, mask.shape) == (np.uint8, np.uint8, (size, size))
        assert set(np.unique(mask)) <= {0, 1}
        truth = read_mask(record.mask_path)
        assert mask.mean() == pytest.approx(truth.mean(), abs=0.03)


def test_images_without_masks_are_counted_before_training(table, unmasked):
    with pytest.raises(DataError, match=r"2 images have no mask, e\.g\. synthetic"):
        SegmentationDataset([*table[:3], *unmasked[:2]], size=32)


def test_a_mask_of_another_size_than_its_image_is_refused_by_name(table, tmp_path):
    path = tmp_path / "synthetic_00000.png"
    cv2.imwrite(str(path), np.zeros((10, 10), np.uint8))
    dataset = SegmentationDataset([replace(table[0], mask_path=path)], size=32)
    with pytest.raises(DataError, match="synthetic_00000"):
        dataset[0]


@pytest.mark.parametrize("mode", MASK_MODES)
def test_a_crop_is_cut_exactly_as_the_cascade_cuts_it(table, mode):
    policy = MaskPolicy.from_mode(mode)
    dataset = ClassificationDataset(table, size=96, policy=policy)  # full decode, see above
    for index in (0, 5):
        record = table[index]
        crop, label = dataset[index]
        image = read_image(record.image_path).pixels
        lesion = lesion_from_mask(read_mask(record.mask_path), policy)
        expected = apply_mask(image, lesion, policy, size=96)
        assert np.array_equal(crop, expected.pixels)
        assert np.array_equal(dataset.crop(index).pixels, expected.pixels)
        assert label == ["benign", "malignant"].index(record.label)


def test_the_whole_image_needs_no_mask(table, unmasked):
    policy = MaskPolicy.from_mode("whole")
    with_masks = ClassificationDataset(table, size=32, policy=policy)
    without = ClassificationDataset(unmasked, size=32, policy=policy)
    assert same(with_masks[3], without[3])


def test_missing_masks_and_labels_are_counted_before_training(table, unmasked):
    with pytest.raises(DataError, match=r"12 images have no mask.*oof-masks.*--mask_mode whole"):
        ClassificationDataset(unmasked, size=32, policy=MaskPolicy())
    bare = [replace(table[0], label=None), table[1]]
    with pytest.raises(DataError, match=r"1 images have no label, e\.g\. synthetic_00000"):
        ClassificationDataset(bare, size=32, policy=MaskPolicy())


@pytest.fixture
def empty_mask(table, tmp_path):
    path = tmp_path / "synthetic_00000.png"
    cv2.imwrite(str(path), np.zeros(read_image(table[0].image_path).shape, np.uint8))
    return replace(table[0], mask_path=path)


@pytest.mark.parametrize("augmentation", ["none", "standard"])
def test_an_empty_mask_follows_the_policy(empty_mask, augmentation):
    def dataset(on_empty):
        policy = MaskPolicy(on_empty=on_empty)
        return ClassificationDataset(
            [empty_mask], size=32, policy=policy, augmentation=augmentation
        )

    assert dataset("whole")[0][0].shape == (32, 32, 3)
    assert not dataset("whole").crop(0).lesion_found
    with pytest.raises(EmptyMaskError):
        dataset("raise")[0]


@pytest.mark.parametrize("mode", ["crop", "feathered_crop"])
def test_crops_are_jittered_in_training_only(table, mode):
    policy = MaskPolicy.from_mode(mode)
    plain = ClassificationDataset(table, size=32, policy=policy)
    light = ClassificationDataset(table, size=32, policy=policy, augmentation="light")
    strong = ClassificationDataset(table, size=32, policy=policy, augmentation="strong")
    assert same(plain[0], plain[0])
    turned = [np.rot90(plain[0][0], turns) for turns in range(4)]
    assert any(np.array_equal(light[0][0], item) for t in turned for item in (t, t[:, ::-1]))
    assert not np.array_equal(strong[0][0], plain[0][0])
    assert np.array_equal(strong.crop(0).pixels, plain.crop(0).pixels), "crop() never jitters"


def make(kind, table, **options):
    if kind == "segmentation":
        return SegmentationDataset(table, size=32, **options)
    return ClassificationDataset(table, size=32, policy=MaskPolicy(), **options)


KINDS = ["segmentation", "classification"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_sample_depends_on_seed_epoch_and_record_and_on_nothing_else(kind, table):
    first = make(kind, table, augmentation="strong", seed=1)
    second = make(kind, table, augmentation="strong", seed=1)
    _ = [second[index] for index in (5, 3, 3)]
    assert same(first[2], second[2])
    other_seed = make(kind, table, augmentation="strong", seed=2)
    assert not same(first[2], other_seed[2])
    before = first[2]
    first.epoch = 1
    assert not same(first[2], before)
    first.epoch = 0
    assert same(first[2], before)


@pytest.mark.parametrize("kind", KINDS)
def test_a_loader_process_gives_the_same_samples(kind, table):
    dataset = make(kind, table, augmentation="strong")
    here = list(DataLoader(dataset, batch_size=4, num_workers=0))
    there = list(DataLoader(dataset, batch_size=4, num_workers=1))
    assert len(here) == len(there) == 3
    assert all(same(a, b) for a, b in zip(here, there, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_a_broken_image_is_named(kind, table, tmp_path):
    path = tmp_path / "broken.jpg"
    path.write_bytes(b"no picture")
    dataset = make(kind, [replace(table[0], image_path=path)])
    with pytest.raises(DataError, match=r"broken\.jpg"):
        dataset[0]
