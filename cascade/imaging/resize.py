"""Resizing, the one way it is done in training and in use."""

from __future__ import annotations

import cv2
import numpy as np


def resize_pixels(image: np.ndarray, size: int) -> np.ndarray:
    """Resize ``(H, W, 3)`` uint8 to ``(size, size, 3)``: area when shrinking, else bilinear."""
    if image.shape[:2] == (size, size):
        return np.ascontiguousarray(image)
    shrinking = image.shape[0] * image.shape[1] > size * size
    interpolation = cv2.INTER_AREA if shrinking else cv2.INTER_LINEAR
    return cv2.resize(np.ascontiguousarray(image), (size, size), interpolation=interpolation)


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
