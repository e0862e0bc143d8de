"""The cache of samples: same pixels, never out of date, never too large, never fatal."""

import multiprocessing
import os
import shutil
import time
from dataclasses import replace

import cv2
import numpy as np
import pytest
from torch.utils.data import DataLoader

from cascade import ClassificationDataset, MaskPolicy, SegmentationDataset
from cascade.data import datasets
from cascade.data.cache import (
    FOLDER_VARIABLE,
    Sample,
    SampleCache,
    cache_folder,
    decode_sample,
    encode_sample,
    sample_key,
)
from cascade.imaging import read_image, read_mask
from cascade.lesion.masking import MASK_MODES, apply_mask, lesion_from_mask

KINDS = ["segmentation", *MASK_MODES]
SAMPLE = Sample(np.arange(300, dtype=np.uint16).astype(np.uint8).reshape(10, 10, 3))
SIZE = len(encode_sample(SAMPLE))


def make(kind, records, folder=None, **options):
    cache = None if folder is None else SampleCache(1.0, folder)
    options = {"size": 32, "augmentation": "strong", "seed": 3, "cache": cache, **options}
    if kind == "segmentation":
        return SegmentationDataset(records, **options)
    policy = MaskPolicy.from_mode(kind)
    return ClassificationDataset(records, policy=policy, whole_image_share=0.3, **options)


def same(one, other):
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def entries(folder):
    return sorted(path for path in folder.glob("*/*") if path.is_file())


def size_of(folder):
    return sum(path.stat().st_size for path in entries(folder))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("augmentation", ["none", "strong"])
def test_a_sample_is_the_same_with_and_without_cache(table, tmp_path, kind, augmentation):
    plain = make(kind, table, augmentation=augmentation)
    cached = make(kind, table, tmp_path, augmentation=augmentation)
    for epoch in range(3):
        plain.epoch = cached.epoch = epoch
        assert all(same(cached[index], plain[index]) for index in range(len(table)))
    assert entries(tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_is_decoded_once_for_all_epochs_and_runs(table, tmp_path, kind, monkeypatch):
    whole = {"whole_image_share": 0.0} if kind != "segmentation" else {}
    first = make(kind, table, tmp_path)
    vars(first).update(whole)
    expected = [first[index] for index in range(len(table))]
    for name in ("read_image", "read_mask", "read_shape"):
        monkeypatch.setattr(datasets, name, lambda *_, **__: pytest.fail("decoded again"))
    again = make(kind, table, tmp_path)
    vars(again).update(whole)
    assert all(same(again[index], expected[index]) for index in range(len(table)))
    again.epoch = 1
    assert any(not np.array_equal(again[index][0], expected[index][0]) for index in range(5))


@pytest.mark.parametrize("mode", ["crop", "feathered_crop"])
def test_a_jittered_crop_is_that_of_the_original_pixels_but_for_resampling(tmp_path, mode):
    """On a large image the cached part is shrunk; without jitter it must show what a crop shows."""
    from cascade.data.synthetic import SyntheticConfig, write_synthetic_dataset
    from cascade.data.tables import read_table

    settings = SyntheticConfig(count_train=4, count_test=1, sizes=((600, 800),))
    write_synthetic_dataset(tmp_path, settings)
    policy = MaskPolicy.from_mode(mode)
    dataset = ClassificationDataset(
        read_table(tmp_path / "train_data.csv"), size=64, policy=policy, augmentation="standard"
    )
    for record in dataset.records:
        reach = dataset._reach(record)
        assert reach.pixels.size < 600 * 800
        mask = np.zeros(reach.pixels.shape[:2], bool)
        lesion = lesion_from_mask(read_mask(record.mask_path), policy)
        kept = mask if reach.mask is None else reach.mask.astype(bool)
        moved = replace(lesion, mask=kept, box=reach.box)
        found = apply_mask(reach.pixels, moved, policy, size=64).pixels
        expected = apply_mask(read_image(record.image_path).pixels, lesion, policy, size=64).pixels
        assert np.abs(found.astype(int) - expected).mean() < 4


@pytest.mark.parametrize("kind", ["segmentation", "feathered_crop"])
def test_a_changed_image_or_mask_is_never_taken_from_the_cache(table, tmp_path, kind):
    folder = tmp_path / "own"
    folder.mkdir()
    record = replace(
        table[0],
        image_path=shutil.copy(table[0].image_path, folder / "image.png"),
        mask_path=shutil.copy(table[0].mask_path, folder / "mask.png"),
    )
    dataset = make(kind, [record], tmp_path / "cache")
    before = dataset[0]
    image = read_image(record.image_path).pixels
    cv2.imwrite(str(record.image_path), 255 - image[..., ::-1])
    changed = dataset[0]
    assert not np.array_equal(changed[0], before[0])
    mask = read_mask(record.mask_path)
    cv2.imwrite(str(record.mask_path), np.roll(mask, 9, axis=1).astype(np.uint8) * 255)
    assert not same(dataset[0], changed)
    assert same(dataset[0], make(kind, [record])[0])


def test_the_key_depends_on_path_content_time_and_recipe(tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    one.write_bytes(b"abc")
    shutil.copy2(one, other)
    keys = {sample_key([one], "a"), sample_key([other], "a"), sample_key([one], "b")}
    os.utime(one, ns=(1, 1))
    keys |= {sample_key([one], "a"), sample_key([one, other], "a")}
    assert len(keys) == 5
    assert sample_key([one], "a") in keys


@pytest.mark.parametrize("damage", [b"", b"x", "cut", "flip"])
def test_a_damaged_entry_is_made_anew(tmp_path, damage, caplog):
    cache = SampleCache(1.0, tmp_path)
    assert cache.get("ab", lambda: SAMPLE) is SAMPLE
    (path,) = entries(tmp_path)
    data = path.read_bytes()
    broken = {"cut": data[:-1], "flip": data[:-1] + bytes([data[-1] ^ 1])}
    path.write_bytes(broken.get(damage, damage))
    assert cache.get("ab", lambda: SAMPLE) is SAMPLE
    assert "damaged" in caplog.text
    assert path.read_bytes() == data
    again = cache.get("ab", lambda: pytest.fail("made again"))
    assert np.array_equal(again.pixels, SAMPLE.pixels)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("box", [None, (-1, 2, 3, 10)])
def test_a_sample_survives_its_bytes(masked, box):
    mask = np.eye(10, dtype=np.uint8) if masked else None
    sample = replace(SAMPLE, mask=mask, box=box)
    found = decode_sample(bytearray(encode_sample(sample)))
    assert np.array_equal(found.pixels, sample.pixels)
    assert found.pixels.flags.writeable, "torch warns of arrays that are not"
    assert found.box == box
    assert np.array_equal(found.mask, mask) if masked else found.mask is None


def test_zero_gigabytes_neither_read_nor_write(tmp_path):
    SampleCache(1.0, tmp_path).get("ab", lambda: SAMPLE)
    before = entries(tmp_path)
    made = []
    SampleCache(0.0, tmp_path).get("ab", lambda: made.append(1) or SAMPLE)
    SampleCache(0.0, tmp_path).get("cd", lambda: SAMPLE)
    assert made == [1]
    assert entries(tmp_path) == before


def test_a_full_cache_keeps_what_it_has_and_says_so(tmp_path, caplog):
    cache = SampleCache(3.5 * SIZE / 1e9, tmp_path)
    made = []
    for number in [*range(6), *range(6)]:
        cache.get(f"{number:02}", lambda number=number: made.append(number) or SAMPLE)
    assert made == [0, 1, 2, 3, 4, 5, 3, 4, 5]
    assert size_of(tmp_path) == 3 * SIZE
    assert caplog.text.count("the cache is full") == 1


def test_what_earlier_runs_left_makes_room_oldest_first(tmp_path):
    old = SampleCache(1.0, tmp_path)
    for number in range(4):
        old.get(f"0{number}", lambda: SAMPLE)
    for age, path in enumerate(reversed(entries(tmp_path))):
        os.utime(path, (time.time() - 100 - age,) * 2)
    cache = SampleCache(4.6 * SIZE / 1e9, tmp_path)
    cache.get("00", lambda: pytest.fail("made again"))  # used now, so no longer the oldest
    cache.get("aa", lambda: SAMPLE)
    names = {path.stem for path in entries(tmp_path)}
    assert names == {"00", "02", "03", "aa"}
    cache.get("bb", lambda: SAMPLE)
    assert size_of(tmp_path) <= cache.limit


def test_files_that_a_killed_process_left_are_cleaned(tmp_path):
    (tmp_path / "ab").mkdir()
    left = tmp_path / "ab" / "x.tmp"
    left.write_bytes(b"1")
    os.utime(left, (1, 1))
    SampleCache(1.0, tmp_path).get("ab", lambda: SAMPLE)
    assert [path.suffix for path in entries(tmp_path)] == [".sample"]


def test_a_folder_that_cannot_be_written_costs_time_only(tmp_path, caplog):
    blocked = tmp_path / "file"
    blocked.write_text("no folder")
    cache = SampleCache(1.0, blocked)
    assert cache.get("ab", lambda: SAMPLE) is SAMPLE
    assert cache.get("cd", lambda: SAMPLE) is SAMPLE
    assert caplog.text.count("cannot be written") == 1


def test_a_failed_sample_is_an_error_each_time_and_is_not_kept(table, tmp_path):
    empty = tmp_path / "empty.png"
    cv2.imwrite(str(empty), np.zeros((10, 10), np.uint8))
    dataset = make("segmentation", [replace(table[0], mask_path=empty)], tmp_path / "cache")
    for _ in range(2):
        with pytest.raises(Exception, match="empty"):
            dataset[0]
    assert not entries(tmp_path / "cache")


def fill(folder, records, barrier):
    dataset = make("segmentation", records, folder)
    barrier.wait(60)
    for index in range(len(records)):
        dataset[index]


def test_two_processes_may_fill_one_folder(table, tmp_path):
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(2)
    both = [context.Process(target=fill, args=(tmp_path, table, barrier)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(120)
        assert process.exitcode == 0
    assert len(entries(tmp_path)) == len(table)
    plain, cached = make("segmentation", table), make("segmentation", table, tmp_path)
    assert all(same(cached[index], plain[index]) for index in range(len(table)))


def test_loader_processes_fill_and_read_the_cache(table, tmp_path):
    plain, cached = make("crop", table), make("crop", table, tmp_path)
    for _ in range(2):
        loader = DataLoader(cached, batch_size=4, num_workers=1)
        crops = np.concatenate([batch[0].numpy() for batch in loader])
        assert all(np.array_equal(crops[index], plain[index][0]) for index in range(len(table)))
    assert entries(tmp_path)


def test_the_folder_follows_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    assert SampleCache(1.0).folder == cache_folder() == tmp_path
    monkeypatch.delenv(FOLDER_VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "cascade" / "samples"
