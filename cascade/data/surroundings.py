"""What lies around an image that is seen from farther away: plain skin that was never taken."""

from __future__ import annotations

import cv2
import numpy as np

_REACH = 0.1
"""Distance at which the border's own colour has faded to a third, of the short side."""
_SOFTNESS = 0.04
"""Standard deviation of the blur that takes the border's colour from a little inside."""
_GRAIN = 2
"""Standard deviation of the skin's grain, of 255 levels."""


def amid_skin(
    image: np.ndarray, tall: int, wide: int, generator: np.random.Generator
) -> np.ndarray:
    """An image amid skin: beyond its border, the colours there go over into one plain tone.

    Args:
        image: ``(H, W, 3)`` uint8 RGB.
        tall: pixels to add above, and as many below.
        wide: pixels to add to the left, and as many to the right.
        generator: draws the skin's grain.

    Returns:
        ``(H + 2 * tall, W + 2 * wide, 3)`` uint8 RGB with the image in its middle.
    """
    height, width = image.shape[:2]
    side = min(height, width)
    around = (tall, tall, wide, wide)
    outside = cv2.copyMakeBorder(
        np.zeros((height, width), np.uint8), *around, cv2.BORDER_CONSTANT, value=1
    )
    distance = cv2.distanceTransform(outside, cv2.DIST_L2, 3)[..., None] / side
    # what lies a little inside goes on beyond the border, which may be a dark line
    soft = cv2.GaussianBlur(image, (0, 0), _SOFTNESS * side)
    border = np.concatenate([soft[0], soft[-1], soft[:, 0], soft[:, -1]])
    smooth = cv2.copyMakeBorder(soft, *around, cv2.BORDER_REPLICATE).astype(np.float32)
    skin = np.median(border, axis=0) + generator.standard_normal(smooth.shape, np.float32) * _GRAIN
    near = np.exp(-distance / _REACH)
    wider = np.clip(near * smooth + (1 - near) * skin, 0, 255).astype(np.uint8)
    wider[tall : tall + height, wide : wide + width] = image
    return wider
