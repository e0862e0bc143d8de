import io

import imagehash
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cascade.data.duplicates import (
    THRESHOLD,
    Fingerprint,
    close_pairs,
    find_duplicates,
    fingerprint,
    perceptual_hashes,
)
from cascade.errors import ConfigError


def picture(seed, size=(192, 256)):
    """A smooth random image without symmetry."""
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, 256, (12, 12, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize(size[::-1], Image.Resampling.BICUBIC))


def recompressed(pixels, quality=70):
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer))


def save(path, pixels):
    Image.fromarray(np.ascontiguousarray(pixels)).save(path)
    return fingerprint(path.name, path, np.ascontiguousarray(pixels))


def bits(hashes):
    return np.unpackbits(hashes.view(np.uint8), axis=-1)


def test_first_hash_is_that_of_imagehash():
    pixels = picture(1)
    grey = Image.fromarray(pixels).convert("L").resize((64, 64), Image.Resampling.LANCZOS)
    expected = imagehash.phash(grey, hash_size=16).hash.ravel()
    found = perceptual_hashes(pixels)
    assert found.shape == (8, 4)
    assert found.dtype == np.uint64
    assert np.array_equal(bits(found)[0], expected)


TURNS = {
    "mirrored": lambda pixels: pixels[:, ::-1],
    "transposed": lambda pixels: pixels.transpose(1, 0, 2),
    "turned and recompressed": lambda pixels: recompressed(np.rot90(pixels, 3)),
    "smaller": lambda pixels: np.asarray(Image.fromarray(pixels).resize((160, 120))),
    "brighter": lambda pixels: np.clip(pixels * 1.1 + 5, 0, 255).astype(np.uint8),
}


@pytest.mark.parametrize("change", TURNS)
def test_changed_copies_are_found(tmp_path, change):
    changed = TURNS[change](picture(2))
    prints = [
        save(tmp_path / "a.png", picture(2)),
        save(tmp_path / "b.png", picture(3)),
        save(tmp_path / "c.png", changed),
    ]
    found = find_duplicates(prints)
    assert [(pair.first, pair.second, pair.kind) for pair in found] == [("a.png", "c.png", "near")]
    assert found[0].distance <= THRESHOLD


def test_different_pictures_are_far_apart(tmp_path):
    prints = [save(tmp_path / f"{seed}.png", picture(seed)) for seed in range(8)]
    assert find_duplicates(prints) == []


def test_exact_copies_are_tied_to_the_first_and_compared_once(tmp_path):
    first = save(tmp_path / "a.png", picture(1))
    pixels = save(tmp_path / "b.bmp", picture(1))
    third = save(tmp_path / "c.png", picture(1))
    near = save(tmp_path / "d.png", picture(1)[:, ::-1])
    found = find_duplicates([first, pixels, third, near])
    assert [(pair.first, pair.second, pair.kind) for pair in found] == [
        ("a.png", "b.bmp", "pixels"),
        ("a.png", "c.png", "file"),
        ("a.png", "d.png", "near"),
    ]


@given(seed=st.integers(0, 1000), count=st.integers(2, 60), threshold=st.integers(0, 64))
@settings(max_examples=10, deadline=None)
def test_close_pairs_equal_brute_force(seed, count, threshold):
    generator = np.random.default_rng(seed)
    base = generator.integers(0, 2**63, (5, 8, 4), dtype=np.uint64)
    noise = generator.integers(0, 2**63, (4, count, 8, 4), dtype=np.uint64)
    hashes = base[generator.integers(0, 5, count)] ^ (noise[0] & noise[1] & noise[2] & noise[3])
    hashes = hashes[:, generator.permutation(8)]
    unpacked = bits(hashes).astype(int)
    expected = []
    for first in range(count):
        for second in range(first + 1, count):
            distance = np.abs(unpacked[first, :1] - unpacked[second]).sum(axis=-1).min()
            if distance <= threshold:
                expected.append((first, second, int(distance)))
    assert list(close_pairs(hashes, threshold)) == expected


def test_nothing_and_one_image_have_no_duplicates():
    for threshold in (-1, 65):
        with pytest.raises(ConfigError, match="threshold"):
            find_duplicates([], threshold=threshold)
    assert find_duplicates([]) == []
    assert find_duplicates([Fingerprint("a", "x", "y", np.zeros((8, 4), np.uint64))]) == []
