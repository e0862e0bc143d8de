"""Cheap signs that an image cannot show a lesion, whatever a network would say of it."""

from __future__ import annotations

import cv2
import numpy as np

LEAST_CONTRAST = 3.0
"""Standard deviation of gray levels below which an image is nearly uniform."""

LEAST_CORRELATION = 0.5
"""Correlation of neighbouring pixels below which an image is noise; images are above 0.9."""

_SAMPLE_PX = 512


def plausibility_warnings(pixels: np.ndarray) -> tuple[str, ...]:
    """Warn about a uniform image and about noise.

    Only the middle of the image is looked at, at most 512 pixels on a side.

    Args:
        pixels: ``(H, W, 3)`` uint8 RGB.
    """
    height, width = pixels.shape[:2]
    rows, columns = min(height, _SAMPLE_PX), min(width, _SAMPLE_PX)
    top, left = (height - rows) // 2, (width - columns) // 2
    middle = np.ascontiguousarray(pixels[top : top + rows, left : left + columns])
    gray = cv2.cvtColor(middle, cv2.COLOR_RGB2GRAY).astype(np.float32)
    if gray.std() < LEAST_CONTRAST:
        return ("not a dermoscopic lesion: the image is nearly uniform, nothing can be judged",)
    first, second = gray[:, :-1] - gray.mean(), gray[:, 1:] - gray.mean()
    if (first * second).mean() < LEAST_CORRELATION * gray.var():
        return ("not a dermoscopic lesion: the image is noise, nothing can be judged",)
    return ()
