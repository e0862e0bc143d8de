"""What lies between the lesion and the reader: hair, rulers, bubbles, dark corners, the camera."""

from __future__ import annotations

import math
from collections.abc import Callable

import cv2
import numpy as np

from cascade.data.synthetic.skin import planes

_SHIFT = 3  # sub-pixel bits of cv2's drawing functions


def add_artefacts(image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """``(3, H, W)`` float32 RGB in [0, 255] to ``(H, W, 3)`` uint8, with artefacts, then noise."""
    if generator.random() < 0.15:
        image = _bubbles(image, generator)
    if generator.random() < 0.55:
        image = hair(image, generator)
    if generator.random() < 0.25:
        image = ruler(image, generator)
    if generator.random() < 0.3:
        image = dark_corners(image, generator)
    blur = generator.uniform(0.35, 0.9)
    noise = generator.standard_normal(image.shape[1:], dtype=np.float32)
    noise *= np.float32(generator.uniform(0.5, 2.5))
    final = [np.clip(cv2.GaussianBlur(plane, (0, 0), blur) + noise, 0, 255) for plane in image]
    return cv2.merge([plane.astype(np.uint8) for plane in final])


def _paint(image: np.ndarray, opacity: np.ndarray, colour: np.ndarray) -> np.ndarray:
    """Blend ``colour`` over the planes; ``opacity`` is ``(H, W)`` float32 in [0, 1]."""
    return image + opacity * (planes(colour) - image)


def on_planes(image: np.ndarray, draw: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Apply a drawing of ``(3, H, W)`` float32 planes to an image ``(H, W, 3)`` uint8 RGB."""
    drawn = draw(np.ascontiguousarray(image.transpose(2, 0, 1), np.float32))
    return np.ascontiguousarray(np.clip(drawn, 0, 255).astype(np.uint8).transpose(1, 2, 0))


def _polyline(canvas: np.ndarray, points: np.ndarray, thickness: int) -> None:
    fixed = np.rint(points * (1 << _SHIFT)).astype(np.int32)
    cv2.polylines(canvas, [fixed], False, 255, thickness, cv2.LINE_AA, _SHIFT)


def hair(
    image: np.ndarray, generator: np.random.Generator, *, count: int | None = None
) -> np.ndarray:
    """Curved hairs over ``(3, H, W)`` float32 planes, by default 1 to 18 of them."""
    height, width = image.shape[1:]
    canvas = np.zeros((height, width), np.uint8)
    steps = np.linspace(0.0, 1.0, 14)[:, None]
    direction = generator.uniform(0.0, math.tau)
    longest = 0.75 * max(height, width)
    for _ in range(int(generator.integers(1, 6) ** 1.8) if count is None else count):
        angle = direction + generator.normal(0.0, 0.6)
        start = generator.uniform((-10, -10), (width + 10, height + 10))
        end = start + generator.uniform(0.2, 1.0) * longest * np.array(
            [math.cos(angle), math.sin(angle)]
        )
        middle = (start + end) / 2 + generator.normal(0.0, 0.13 * longest, 2)
        curve = (1 - steps) ** 2 * start + 2 * steps * (1 - steps) * middle + steps**2 * end
        _polyline(canvas, curve, 1 + int(min(height, width) > 280 and generator.random() < 0.5))
    colour = np.array([70.0, 48.0, 36.0]) * generator.uniform(0.3, 1.9)
    return _paint(image, canvas * np.float32(generator.uniform(0.45, 0.85) / 255), colour)


def ruler(image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """A millimetre scale near one side of the image, sometimes oblique."""
    height, width = image.shape[1:]
    canvas = np.zeros((height, width), np.uint8)
    step = generator.uniform(0.025, 0.05) * min(height, width)
    count = int(generator.integers(10, 24))
    side = int(generator.integers(4))
    angle = (side % 2) * math.pi / 2 + generator.normal(0.0, 0.12)
    along = np.array([math.cos(angle), math.sin(angle)])
    across = np.array([-along[1], along[0]])
    inset = generator.uniform(0.03, 0.12)
    centre = (
        np.array([width, height])
        * ((0.5, inset), (inset, 0.5), (0.5, 1 - inset), (1 - inset, 0.5))[side]
    )
    origin = centre - along * step * count / 2
    _polyline(canvas, np.stack([origin, origin + along * step * count]), 1)
    for tick in range(count + 1):
        foot = origin + along * step * tick
        length = step * (1.4 if tick % 5 == 0 else 0.8)
        _polyline(canvas, np.stack([foot, foot + across * length]), 1)
    colour = np.full(3, generator.uniform(10.0, 70.0))
    return _paint(image, canvas * np.float32(generator.uniform(0.55, 0.9) / 255), colour)


def _bubbles(image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Air under the glass: thin bright rings with a highlight."""
    height, width = image.shape[1:]
    canvas = np.zeros((height, width), np.uint8)
    for _ in range(int(generator.integers(1, 5))):
        radius = generator.uniform(0.012, 0.035) * min(height, width)
        x, y = generator.uniform((0, 0), (width, height))
        centre = (int(x * 8), int(y * 8))
        cv2.circle(canvas, centre, int(radius * 8), 120, 1, cv2.LINE_AA, _SHIFT)
        shine = (int((x - radius / 3) * 8), int((y - radius / 3) * 8))
        cv2.circle(canvas, shine, int(radius * 2), 230, -1, cv2.LINE_AA, _SHIFT)
    return _paint(image, canvas.astype(np.float32) / 255, np.array([250.0, 248.0, 245.0]))


def dark_corners(
    image: np.ndarray, generator: np.random.Generator, *, radius: float | None = None
) -> np.ndarray:
    """The round aperture of a dermatoscope; the image's centre always stays visible.

    ``radius`` is a fraction of the diagonal, by default between 0.42 and 0.56.
    """
    height, width = image.shape[1:]
    centre_y = height * generator.uniform(0.46, 0.54)
    centre_x = width * generator.uniform(0.46, 0.54)
    rows = np.arange(height, dtype=np.float32)[:, None] - np.float32(centre_y)
    columns = np.arange(width, dtype=np.float32)[None, :] - np.float32(centre_x)
    share = generator.uniform(0.42, 0.56) if radius is None else radius
    reach = share * math.hypot(height, width)
    softness = generator.uniform(0.01, 0.12) * reach
    distance = np.sqrt(rows**2 + columns**2)
    opacity = np.clip((distance - reach) / softness + 0.5, 0.0, 1.0)
    return _paint(image, opacity, np.full(3, generator.uniform(4.0, 24.0)))
