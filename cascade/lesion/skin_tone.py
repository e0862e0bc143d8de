"""The apparent tone of the skin around a lesion, as its individual typology angle (ITA).

ITA = arctan((L* - 50) / b*) * 180 / pi in CIELAB (Chardon, Cretois and Hourseau 1991, "Skin colour
typology and suntanning pathways"); the names of the ranges are those of Chardon and of Del Bino and
Bernerd (2013). Kinyanjui et al. (2020, "Fairness of classifiers across skin tones in dermatology")
computed it on the skin around the lesions of the ISIC and SD-198 data sets.

Limits: a dermatoscope's light, gel, contact pressure and white balance are not calibrated, and some
images were recoloured. The angle is an estimate of the tone that a *image* shows. It is not a
measurement of a person's skin, no Fitzpatrick type and no ethnicity; use it to compare groups of
images, never to say something about one person.
"""

from __future__ import annotations

import math

import cv2
import numpy as np

from cascade.errors import ShapeError
from cascade.imaging.checks import check_image

SKIN_TONES = {
    "very light": 55.0,
    "light": 41.0,
    "intermediate": 28.0,
    "tan": 10.0,
    "brown": -30.0,
    "dark": -math.inf,
}
"""Names from light to dark, each with the angle in degrees that it lies above."""

_LONGEST_SIDE = 256
_MARGIN = 0.1
_DARKEST, _BRIGHTEST = 12.0, 97.0
_GREENEST, _BLUEST = -8.0, -15.0
_MINIMUM_SHARE, _MINIMUM_PIXELS = 0.03, 100
_OUTLIER, _SMALLEST_SPREAD, _ROUNDS = 2.5, 1.5, 10


def individual_typology_angle(image: np.ndarray, mask: np.ndarray) -> float | None:
    """Estimate the individual typology angle of the skin outside a lesion.

    The lesion is widened by a tenth of its longer side, because its rim is not skin. Black and
    saturated pixels and colours that no skin has are left out, then whatever is far from the median
    of what is left (hair, ink, rulers, stickers, dark corners), until nothing more is.

    Args:
        image: ``(H, W, 3)`` uint8 RGB (sRGB, white D65).
        mask: ``(H, W)`` bool, the lesion; without one the whole image counts as skin.

    Returns:
        The angle in degrees, in (-90, 90), larger for lighter skin; ``None`` where less than 3 %
        of the image, or fewer than 100 pixels, are left, and where the light is so blue that the
        skin shows no yellow (b* <= 0), which the formula has no answer for.

    Raises:
        ShapeError: the image is not ``(H, W, 3)`` uint8 or the mask does not fit it.
    """
    check_image(image)
    if mask.shape != image.shape[:2] or mask.dtype != np.bool_:
        raise ShapeError(
            f"mask {mask.shape} {mask.dtype} does not fit image {image.shape}; it must be (H, W) "
            "bool with the image's height and width",
            expected=image.shape[:2],
            actual=mask.shape,
        )
    # every n-th pixel, not averages: an average of hair and skin would look like darker skin
    step = max(1, math.ceil(max(mask.shape) / _LONGEST_SIDE))
    outside = ~_widened(mask[::step, ::step])
    colours = _lab(image[::step, ::step])[outside]
    skin = _typical(colours[_could_be_skin(colours)])
    if len(skin) < max(_MINIMUM_PIXELS, _MINIMUM_SHARE * outside.size):
        return None
    lightness, _, yellow = np.median(skin, axis=0).tolist()
    if yellow <= 0.0:
        return None
    return math.degrees(math.atan((lightness - 50.0) / yellow))


def skin_tone(angle: float) -> str:
    """The name of the range that an angle in degrees lies in, see :data:`SKIN_TONES`."""
    return next(name for name, limit in SKIN_TONES.items() if angle > limit)


def _widened(mask: np.ndarray) -> np.ndarray:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if rows.size == 0:
        return mask
    longer = max(rows[-1] - rows[0], columns[-1] - columns[0]) + 1
    radius = max(1, math.ceil(_MARGIN * longer))
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    return cv2.dilate(mask.astype(np.uint8), kernel).astype(bool)


def _lab(image: np.ndarray) -> np.ndarray:
    """``(H, W, 3)`` uint8 sRGB to float32 CIELAB: L* in [0, 100], a* and b* around 0."""
    # uint8 would be rounded to L* * 255 / 100 and whole a*, b*
    lab: np.ndarray = cv2.cvtColor(image.astype(np.float32) / 255.0, cv2.COLOR_RGB2LAB)
    return lab


def _could_be_skin(colours: np.ndarray) -> np.ndarray:
    """``(N,)`` bool of ``(N, 3)`` CIELAB: neither black nor white, neither blue nor green."""
    lightness, red, yellow = colours.T
    bright_enough = (lightness > _DARKEST) & (lightness < _BRIGHTEST)
    return np.asarray(bright_enough & (red > _GREENEST) & (yellow > _BLUEST))


def _typical(colours: np.ndarray) -> np.ndarray:
    """The ``(N, 3)`` colours that are not far from their median in any of the three."""
    for _ in range(_ROUNDS):
        if len(colours) < _MINIMUM_PIXELS:
            break
        distance = np.abs(colours - np.median(colours, axis=0))
        # 1.4826 makes the median distance a standard deviation; a flat area has none
        spread = np.maximum(1.4826 * np.median(distance, axis=0), _SMALLEST_SPREAD)
        near = (distance <= _OUTLIER * spread).all(axis=1)
        if near.all():
            break
        colours = colours[near]
    return colours
