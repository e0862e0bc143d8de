"""The same image twice: equal files, equal pixels, and near-duplicates.

Near-duplicates are found by perceptual hashes of 256 bits over the eight flips and quarter turns.
Dermoscopic images look alike (one dark blob in the middle), so the usual 64 bits are too few: they
put 62 pairs of 1,831 ISIC images within 4 bits, nearly all of them different lesions.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from cascade.errors import ConfigError
from cascade.files import file_digest

HASH_SIDE = 16
"""A hash has ``HASH_SIDE ** 2`` bits, the lowest frequencies of the grey image."""

THRESHOLD = 26
"""Largest number of differing bits, of 256, between near-duplicates.

Measured on dermoscopic images: recompression, resizing, turning and mild changes of brightness or
colour stay below 20 bits in 99 of 100 images; a border of 2 percent cut off moves 30 to 60 bits and
is mostly missed. Among the 50 million pairs of 10,054 HAM10000 images, two different lesions first
meet at 28 bits, 5 such pairs by 36 and 12 by 40.
"""

LARGEST_THRESHOLD = 64
_BLOCK = 64
_WORDS = HASH_SIDE**2 // 64

Kind = Literal["file", "pixels", "near"]


@dataclass(frozen=True)
class Fingerprint:
    """What one image is recognised by.

    Both digests are SHA-256, that of the pixels with their shape. ``hashes`` is ``(8, 4)`` uint64,
    one perceptual hash per flip and quarter turn; the first is the image as it is.
    """

    name: str
    file_digest: str
    pixel_digest: str
    hashes: np.ndarray


@dataclass(frozen=True)
class Duplicate:
    """Two images that show the same image.

    The first one came first. ``file`` stands for equal bytes, ``pixels`` for equal pixels, ``near``
    for a close hash; ``distance`` counts differing bits, 0 to 256, in the best of the eight
    orientations.
    """

    first: str
    second: str
    kind: Kind
    distance: int


def fingerprint(name: str, path: str | os.PathLike[str], pixels: np.ndarray) -> Fingerprint:
    """Describe an image, ``(H, W, 3)`` uint8 RGB with a short side of 128 pixels or more."""
    digest = hashlib.sha256(str(pixels.shape).encode())
    digest.update(np.ascontiguousarray(pixels).data)
    return Fingerprint(name, file_digest(path), digest.hexdigest(), perceptual_hashes(pixels))


def perceptual_hashes(pixels: np.ndarray) -> np.ndarray:
    """Hash ``(H, W, 3)`` uint8 RGB in its eight orientations, as ``(8, 4)`` uint64."""
    import imagehash
    from PIL import Image

    side = 4 * HASH_SIDE
    grey = Image.fromarray(pixels).convert("L").resize((side, side), Image.Resampling.LANCZOS)
    bits = [
        imagehash.phash(Image.fromarray(view), hash_size=HASH_SIDE).hash.ravel()
        for view in _orientations(np.asarray(grey))
    ]
    return np.packbits(bits, axis=1).view(np.uint64)


def find_duplicates(
    fingerprints: Sequence[Fingerprint], *, threshold: int = THRESHOLD
) -> list[Duplicate]:
    """Find all pairs of near-duplicates, and tie each exact copy to its first occurrence.

    ``threshold`` is the largest distance of near-duplicates in bits, 0 to 64 of 256.

    Returns:
        Pairs in the order of the images. Copies of one image appear once each, not in all pairs,
        and only the first of them is compared with other images.

    Raises:
        ConfigError: the threshold is out of range.
    """
    check_threshold(threshold)
    found: list[Duplicate] = []
    distinct: list[Fingerprint] = []
    by_file: dict[str, Fingerprint] = {}
    by_pixels: dict[str, Fingerprint] = {}
    for item in fingerprints:
        same_file = by_file.setdefault(item.file_digest, item)
        same_pixels = by_pixels.setdefault(item.pixel_digest, item)
        if same_file is not item:
            found.append(Duplicate(same_file.name, item.name, "file", 0))
        elif same_pixels is not item:
            found.append(Duplicate(same_pixels.name, item.name, "pixels", 0))
        else:
            distinct.append(item)
    if len(distinct) > 1:
        hashes = np.stack([item.hashes for item in distinct])
        found += [
            Duplicate(distinct[first].name, distinct[second].name, "near", distance)
            for first, second, distance in close_pairs(hashes, threshold)
        ]
    place = {item.name: index for index, item in enumerate(fingerprints)}
    return sorted(found, key=lambda pair: (place[pair.first], place[pair.second]))


def check_threshold(threshold: int) -> None:
    """Refuse a threshold that is out of range.

    Raises:
        ConfigError: it is not within 0 to ``LARGEST_THRESHOLD``.
    """
    if not 0 <= threshold <= LARGEST_THRESHOLD:
        raise ConfigError(f"threshold is {threshold}; use 0 to {LARGEST_THRESHOLD} bits of 256")


def close_pairs(hashes: np.ndarray, threshold: int) -> Iterator[tuple[int, int, int]]:
    """Yield ``(first, second, distance)`` of all pairs with ``distance <= threshold``.

    The first image as it is is compared with the second in all orientations.

    ``hashes`` are ``(N, 8, 4)`` uint64, the threshold is in bits.
    """
    count, orientations, _ = hashes.shape
    words = np.ascontiguousarray(hashes.reshape(count * orientations, _WORDS).T)
    for start in range(0, count, _BLOCK):
        block = hashes[start : start + _BLOCK, 0]
        rest = words[:, start * orientations :]
        # half of the words rules out nearly all pairs, since a distance can only grow
        partial = np.bitwise_count(block[:, None, 0] ^ rest[0])
        partial += np.bitwise_count(block[:, None, 1] ^ rest[1])
        rows, columns = np.nonzero(partial <= threshold)
        differing = np.bitwise_count(block[rows] ^ rest[:, columns].T)
        distances = differing.sum(axis=1, dtype=np.int64)
        best: dict[tuple[int, int], int] = {}
        for row, column, distance in zip(
            rows.tolist(), columns.tolist(), distances.tolist(), strict=True
        ):
            pair = (start + row, start + column // orientations)
            if distance <= threshold and pair[0] < pair[1]:
                best[pair] = min(distance, best.get(pair, distance))
        for (first, second), distance in sorted(best.items()):
            yield first, second, distance


def _orientations(values: np.ndarray) -> list[np.ndarray]:
    """The eight flips and quarter turns of ``(S, S)`` values; the first is unchanged."""
    turns = [np.rot90(values, count) for count in range(4)]
    return [np.ascontiguousarray(view) for turn in turns for view in (turn, turn[:, ::-1])]
