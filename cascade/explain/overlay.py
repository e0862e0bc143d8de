"""The heat map over its image."""

from __future__ import annotations

import cv2
import numpy as np

from cascade.errors import ShapeError
from cascade.evaluation.overlays import draw_outline
from cascade.explain.explanation import Explanation
from cascade.imaging import check_image, check_mask

OPACITY = 0.6
"""Of the hottest pixel; colder ones let more of the image through."""


def overlay_heat(
    image: np.ndarray, explanation: Explanation, mask: np.ndarray | None = None
) -> np.ndarray:
    """Lay a heat map over its image, with the lesion's outline.

    Heat is purple where there is little, yellow where there is most (inferno, which grows in
    brightness for every kind of colour vision), and the more opaque the hotter it is. Without heat
    only the outline is drawn.

    Args:
        image: ``(H, W, 3)`` uint8 RGB in displayed orientation.
        explanation: of this image.
        mask: ``(H, W)`` bool, the lesion; ``None`` or empty draws no outline.

    Returns:
        ``(H, W, 3)`` uint8 RGB.

    Raises:
        ShapeError: image, heat map or mask do not fit each other.
    """
    check_image(image)
    heat = explanation.heat_map
    if heat.shape != image.shape[:2]:
        raise ShapeError(
            f"the heat map is {heat.shape} but the image is {image.shape[:2]}; give the image that "
            "was explained",
            expected=image.shape[:2],
            actual=heat.shape,
        )
    drawn = np.ascontiguousarray(image)
    if not explanation.is_empty:
        levels = cv2.convertScaleAbs(heat, alpha=255.0)
        colors = cv2.cvtColor(cv2.applyColorMap(levels, cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)
        opacity = heat * OPACITY
        drawn = cv2.blendLinear(drawn, colors, 1.0 - opacity, opacity)
    if mask is None:
        return drawn.copy() if drawn is image else drawn
    check_mask(mask, like=image)
    return draw_outline(drawn, mask)
