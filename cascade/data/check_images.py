"""What one image and its mask look like: readable, of one size, and what gives the class away."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from cascade.data.duplicates import Fingerprint, fingerprint
from cascade.data.tables import Record
from cascade.errors import CascadeError
from cascade.imaging import read_image, read_mask, read_shape
from cascade.progress import progress

_DECODED_SIDE = 128
_CORNER = 0.1
_ORDINARY_LEVELS = ({0}, {1}, {255}, {0, 1}, {0, 255})


@dataclass(frozen=True)
class ImageFacts:
    """What was found out about one image.

    ``problem`` says why the image cannot be read, ``mask_problem`` why the mask cannot be used with
    it. ``pixels`` and ``file_bytes`` are 0 where unreadable; ``mask_share`` is the share of the
    image within the mask, in [0, 1]; ``mask_levels`` says what is odd about the values of the mask.
    """

    name: str
    problem: str | None = None
    warnings: tuple[str, ...] = ()
    pixels: int = 0
    file_bytes: int = 0
    corner_darkness: float = 0.0
    fingerprint: Fingerprint | None = None
    mask_problem: str | None = None
    mask_share: float | None = None
    mask_levels: str | None = None


def inspect_images(records: Sequence[Record], *, fingerprints: bool = True) -> list[ImageFacts]:
    """Look at the images and masks of records, in their order, on all processors."""
    executor = ThreadPoolExecutor(min(8, os.cpu_count() or 1))
    try:
        facts = executor.map(partial(inspect_image, fingerprints=fingerprints), records)
        return list(progress(facts, description="check", total=len(records)))
    finally:
        executor.shutdown(cancel_futures=True)


def inspect_image(record: Record, *, fingerprints: bool = True) -> ImageFacts:
    """Look at one image and its mask; what is wrong is returned, not raised."""
    try:
        image = read_image(record.image_path, short_side=_DECODED_SIDE)
        shape = read_shape(record.image_path)
        file_bytes = record.image_path.stat().st_size
    except (CascadeError, OSError) as error:
        return ImageFacts(record.name, problem=str(error))
    mask_problem, mask_share, mask_levels = _inspect_mask(record.mask_path, shape)
    return ImageFacts(
        name=record.name,
        warnings=image.warnings,
        pixels=shape[0] * shape[1],
        file_bytes=file_bytes,
        corner_darkness=corner_darkness(image.pixels),
        fingerprint=(
            fingerprint(record.name, record.image_path, image.pixels) if fingerprints else None
        ),
        mask_problem=mask_problem,
        mask_share=mask_share,
        mask_levels=mask_levels,
    )


def corner_darkness(pixels: np.ndarray) -> float:
    """How dark the four corners of ``(H, W, 3)`` uint8 are, from 0 (white) to 1 (black).

    A corner is a square of a tenth of the shorter side; a dermatoscope's round frame darkens it.
    """
    height, width = pixels.shape[:2]
    side = max(1, round(_CORNER * min(height, width)))
    rows = np.r_[:side, height - side : height]
    columns = np.r_[:side, width - side : width]
    return float(1.0 - pixels[rows][:, columns].mean() / 255.0)


def _inspect_mask(
    path: Path | None, shape: tuple[int, int]
) -> tuple[str | None, float | None, str | None]:
    if path is None:
        return None, None, None
    try:
        mask = read_mask(path, shape=shape)
        return None, float(mask.mean()), _odd_levels(path)
    except (CascadeError, OSError) as error:
        return str(error), None, None


def _odd_levels(path: Path) -> str | None:
    """What is unusual about how an otherwise readable mask was saved."""
    from PIL import Image

    with Image.open(path) as mask:
        if mask.mode not in ("1", "L"):
            return f"saved as {mask.mode}"
        levels = np.flatnonzero(mask.histogram()).tolist()
    return None if set(levels) in _ORDINARY_LEVELS else f"{len(levels)} gray levels"
