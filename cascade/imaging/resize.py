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


def resize_probability(probability: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Scale ``(h, w)`` probabilities to ``(H, W)``, bilinear, as float32 within [0, 1]."""
    values = probability.astype(np.float32, copy=False)
    if values.shape == tuple(shape):
        return values
    resized = cv2.resize(values, (shape[1], shape[0]), interpolation=cv2.INTER_LINEAR)
    return np.clip(resized, 0.0, 1.0)
