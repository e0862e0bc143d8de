"""Resizing, the one way it is done in training and in use."""

from __future__ import annotations

import cv2
import numpy as np

_FLOATS = 4_000_000
"""Values of the largest image that is averaged in float32, which takes four times its memory."""


def resize_pixels(image: np.ndarray, size: int) -> np.ndarray:
    """Resize ``(H, W, 3)`` uint8 to ``(size, size, 3)``: area when shrinking, else bilinear."""
    height, width = image.shape[:2]
    if (height, width) == (size, size):
        return np.ascontiguousarray(image)
    pixels = np.ascontiguousarray(image)
    if height * width <= size * size:
        return cv2.resize(pixels, (size, size), interpolation=cv2.INTER_LINEAR)
    whole = height % size == 0 and width % size == 0
    if whole or min(height, width) < size or image.size > _FLOATS:
        return cv2.resize(pixels, (size, size), interpolation=cv2.INTER_AREA)
    # OpenCV averages fractions of a pixel in float32 whatever it is given, floats a third faster
    means = cv2.resize(pixels.astype(np.float32), (size, size), interpolation=cv2.INTER_AREA)
    return np.rint(means, out=means).astype(np.uint8)


def reduction(shape: tuple[int, int], short_side: int | None) -> int:
    """By how much an image may be reduced at once: 8, 4, 2, or 1 for not at all.

    These are the fractions at which a JPEG decoder computes fewer pixels instead of dropping some.

    Args:
        shape: ``(H, W)``.
        short_side: pixels that the shorter side keeps at least; ``None`` reduces nothing.
    """
    if short_side is None:
        return 1
    return next((divisor for divisor in (8, 4, 2) if min(shape) // divisor >= short_side), 1)


def reduce_pixels(image: np.ndarray, divisor: int) -> np.ndarray:
    """The means of squares of ``divisor`` pixels; ``(H, W, 3)`` uint8 to ``(h, w, 3)``."""
    if divisor == 1:
        return image
    size = -(-image.shape[1] // divisor), -(-image.shape[0] // divisor)
    return cv2.resize(np.ascontiguousarray(image), size, interpolation=cv2.INTER_AREA)


def resize_probability(probability: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Scale ``(h, w)`` probabilities to ``(H, W)``, bilinear, as float32 within [0, 1]."""
    values = probability.astype(np.float32, copy=False)
    if values.shape == tuple(shape):
        return values
    resized = cv2.resize(values, (shape[1], shape[0]), interpolation=cv2.INTER_LINEAR)
    return np.clip(resized, 0.0, 1.0, out=resized)
