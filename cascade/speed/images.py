"""The files that all configurations judge."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from cascade.data.synthetic import draw_lesion
from cascade.errors import ConfigError
from cascade.imaging import expand_sources
from cascade.progress import progress

JPEG_QUALITY = 90
MOST_PIXELS = 12_000_000
"""Pixels that are drawn of one shape at most, but for the first two images."""


def parse_shape(text: str) -> tuple[int, int]:
    """``1024x768`` to ``(768, 1024)``: height and width.

    Raises:
        ConfigError: it is written otherwise.
    """
    found = re.fullmatch(r"(\d{2,5})x(\d{2,5})", text)
    if found is None:
        raise ConfigError(f"--drawn {text}: must be WIDTHxHEIGHT in pixels, such as 1024x768")
    return int(found[2]), int(found[1])


def find_files(named: Sequence[str], count: int) -> list[str]:
    """At most so many of the image files behind files, folders and patterns, evenly spaced.

    Raises:
        ConfigError: there is none.
    """
    found = [item.path for item in expand_sources(named) if item.problem is None]
    if not found:
        raise ConfigError(f"{' '.join(named)}: there is no image")
    count = min(count, len(found))
    return [str(found[place * len(found) // count].resolve()) for place in range(count)]


def drawn_files(shape: tuple[int, int], count: int, folder: Path) -> list[str]:
    """Draw lesions and write them as JPEG of quality 90 with halved colour (4:2:0).

    Large images take long to draw, so only :data:`MOST_PIXELS` are, at least two images; then the
    same files come again.

    Args:
        shape: height and width in pixels.
        count: how many paths to return.
        folder: where the files go.
    """
    height, width = shape
    distinct = min(count, max(2, MOST_PIXELS // (height * width)))
    paths = []
    for seed in progress(range(distinct), description=f"drawing {width}x{height}"):
        generator = np.random.default_rng(seed)
        lesion = draw_lesion(generator, malignant=bool(seed % 2), shape=shape)
        path = folder / f"{width}x{height}_{seed}.jpg"
        pixels = cv2.cvtColor(lesion.image, cv2.COLOR_RGB2BGR)
        sampling = (cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420)
        cv2.imwrite(str(path), pixels, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY, *sampling])
        paths.append(str(path))
    return list(itertools.islice(itertools.cycle(paths), count))
