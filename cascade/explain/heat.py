"""From the activation map of a crop to heat on the image, and to numbers."""

from __future__ import annotations

import numpy as np

from cascade.errors import ModelFileError
from cascade.imaging import resize_probability
from cascade.lesion.masking import Box

SMALLEST_HEAT = 1e-6
"""Log odds; where no place adds more than this, scaling would show rounding errors as heat."""


def heat_in_image(
    activation: np.ndarray, box: Box, shape: tuple[int, int]
) -> tuple[np.ndarray, float]:
    """Lay a crop's activation map back on its image.

    ``activation`` is ``(h, w)`` float log odds, ``box`` the square of the image that the crop
    shows; it may reach over the border of ``shape``.

    Returns:
        The heat ``(H, W)`` float32, that is, the activation above 0 divided by its maximum, 0
        outside the box; and the share of the box's heat that lies beyond the image's border.

    Raises:
        ModelFileError: the activation is not finite.
    """
    if not np.isfinite(activation).all():
        raise ModelFileError("the activation map is not finite: the weights are broken")
    canvas = np.zeros(shape, np.float32)
    hottest = float(activation.max())
    if hottest <= SMALLEST_HEAT:
        return canvas, 0.0
    top, left, bottom, right = box
    scaled = np.maximum(activation, 0.0) / hottest
    heat = resize_probability(scaled, (bottom - top, right - left))
    rows, columns = _visible(box, shape)
    visible = heat[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
    canvas[rows, columns] = visible
    return canvas, 1.0 - _total(visible) / _total(heat)


def _visible(box: Box, shape: tuple[int, int]) -> tuple[slice, slice]:
    """Rows and columns of the image that lie within a box."""
    top, left, bottom, right = box
    return slice(max(top, 0), min(bottom, shape[0])), slice(max(left, 0), min(right, shape[1]))


def _total(heat: np.ndarray) -> float:
    return float(heat.sum(dtype=np.float64))


def heat_inside(heat: np.ndarray, mask: np.ndarray, box: Box) -> tuple[float | None, float | None]:
    """How much of the heat lies within the lesion.

    ``heat`` is ``(H, W)`` float32, 0 or above, ``mask`` ``(H, W)`` bool, ``box`` the part that the
    classifier saw.

    Returns:
        The share of the heat within the mask, and the ratio of the mean heat within the mask to
        that of the other pixels of the box; each ``None`` where it is not defined.
    """
    seen = _visible(box, mask.shape)
    lesion, seen_heat = mask[seen], heat[seen]
    inside = float(seen_heat.sum(dtype=np.float64, where=lesion))
    outside = float(seen_heat.sum(dtype=np.float64, where=~lesion))
    if not (mask.any() and inside + outside > 0):
        return None, None
    share = inside / (inside + outside)
    count = int(np.count_nonzero(lesion))
    if not (count and outside > 0):
        return share, None
    return share, (inside / count) / (outside / (lesion.size - count))
