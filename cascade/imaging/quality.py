"""Focus and exposure of one image, whatever its resolution, and whether it can show a lesion."""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np

from cascade.fields import described

NOT_A_LESION = "not a dermoscopic lesion"
"""How a warning begins that rules an image out before any network looks at it."""

LEAST_SHARPNESS = 0.26
"""Sharpness below which an image is out of focus."""

MOST_DARK = 0.9
"""Share of dark pixels above which an image is under-exposed."""

MOST_SATURATED = 0.3
"""Share of saturated pixels above which an image is over-exposed."""

_SIDE_PX = 192
_KERNEL_PX = 9
_DARK = 104
"""sRGB level of an eighth of full scale in linear light, three stops below saturation, and 5 more
for the noise of a lossy file."""

_SATURATED = 250

LEAST_CONTRAST = 3.0
"""Standard deviation of gray levels below which an image is nearly uniform."""

LEAST_CORRELATION = 0.5
"""Correlation of neighbouring pixels below which an image is noise; real images are above 0.9."""


@dataclass(frozen=True)
class ImageQuality:
    """Focus and exposure of an image. ``docs/fields.md`` explains the limits."""

    sharpness: float = field(
        metadata=described(
            "Focus: 1 minus the blur effect of Crété-Roffet et al. (2007), from 0 (blurred) to 1.",
            column="sharpness",
            label="Sharpness",
            digits=3,
            example=0.59,
        )
    )
    exposure: float = field(
        metadata=described(
            "Share of clipped pixels: too dark in all channels or saturated in two, in [0, 1].",
            column="exposure",
            label="Clipped pixels",
            digits=3,
            example=0.01,
        )
    )
    dark: float = field(
        metadata=described(
            "The part of exposure that is too dark: no channel reaches an eighth of full scale.",
            example=0.01,
        )
    )

    implausible: str = ""

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is wrong with the image: out of focus, under-exposed or over-exposed."""
        found = {
            f"out of focus: sharpness {self.sharpness:.2f} is below {LEAST_SHARPNESS}": (
                self.sharpness < LEAST_SHARPNESS
            ),
            f"under-exposed: {self.dark:.0%} of the pixels are too dark": self.dark > MOST_DARK,
            f"over-exposed: {self.exposure - self.dark:.0%} of the pixels are saturated": (
                self.exposure - self.dark > MOST_SATURATED
            ),
        }
        spoilt = tuple(text for text, holds in found.items() if holds)
        return (self.implausible, *spoilt) if self.implausible else spoilt


def image_quality(pixels: np.ndarray) -> ImageQuality:
    """Measure an image at a short side of 192 pixels, or its own if that is smaller.

    Sharpness compares the differences between neighbouring pixels with those that are left after
    the image is blurred along a row or column: a sharp image loses most of them (F. Crété-Roffet,
    T. Dolmiere, P. Ladret, M. Nicolas, "The blur effect: perception and estimation with a new
    no-reference perceptual blur metric", SPIE 6492, 2007). Both directions must be sharp.

    Args:
        pixels: ``(H, W, 3)`` uint8 RGB.
    """
    height, width = pixels.shape[:2]
    scale = min(1.0, _SIDE_PX / min(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    small = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA) if scale < 1 else pixels
    first, second, third = cv2.split(small)
    low, high = cv2.min(first, second), cv2.max(first, second)
    brightest, middle = cv2.max(high, third), cv2.max(low, cv2.min(high, third))
    dark = float(np.mean(brightest <= _DARK))
    gray = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY).astype(np.float32)
    return ImageQuality(
        sharpness=_sharpness(gray),
        exposure=dark + float(np.mean(middle >= _SATURATED)),
        dark=dark,
        implausible=_implausible(gray),
    )


def _implausible(gray: np.ndarray) -> str:
    """Why an image cannot show a lesion, whatever a network would say of it; else empty."""
    mean, deviation = (float(value[0, 0]) for value in cv2.meanStdDev(gray))
    if deviation < LEAST_CONTRAST:
        return f"{NOT_A_LESION}: the image is nearly uniform, nothing can be judged"
    centred = gray - mean
    if cv2.mean(centred[:, :-1] * centred[:, 1:])[0] < LEAST_CORRELATION * deviation**2:
        return f"{NOT_A_LESION}: the image is noise, nothing can be judged"
    return ""


def _sharpness(gray: np.ndarray) -> float:
    gray = cv2.GaussianBlur(gray, (0, 0), 0.7)  # the noise of a sensor is not focus
    kept = []
    for axis, kernel in ((1, (_KERNEL_PX, 1)), (0, (1, _KERNEL_PX))):
        before = np.abs(np.diff(gray, axis=axis))
        after = np.abs(np.diff(cv2.blur(gray, kernel), axis=axis))
        total = float(before.sum())
        kept.append(float(np.maximum(0, before - after).sum()) / total if total else 0.0)
    return min(kept)
