"""Masks and overlays of a whole table, as files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cascade.evaluation.overlays import overlay
from cascade.imaging import read_image, read_mask, write_image, write_mask
from cascade.progress import progress

if TYPE_CHECKING:
    from cascade.data.tables import Table


def write_pictures(
    folder: Path,
    table: Table,
    sketch: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray | None]],
    *,
    masks: bool,
    overlays: bool,
) -> None:
    """Write ``masks/STEM.png`` (0 and 255, original size) and ``overlays/STEM.jpg``.

    Args:
        folder: where the two folders go.
        table: the images.
        sketch: ``(H, W, 3)`` uint8 RGB to the mask ``(H, W)`` bool, and a crop that is not used.
        masks: write masks.
        overlays: write overlays, with the human outline where there is one.
    """
    if not (masks or overlays):
        return
    for record in progress(table, description="drawing"):
        image = read_image(record.image_path).pixels
        mask, _ = sketch(image)
        if masks:
            write_mask(folder / "masks" / f"{record.stem}.png", mask)
        if overlays:
            truth = None
            if record.mask_path is not None:
                truth = read_mask(record.mask_path, shape=mask.shape)
            write_image(folder / "overlays" / f"{record.stem}.jpg", overlay(image, truth, mask))
