"""PNG images for the answer, in memory."""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np

from cascade.evaluation.overlays import draw_outline
from cascade.explain import Explanation, overlay_heat
from cascade.imaging import encode_image, encode_mask

LONGEST_SIDE = 1024
"""Overlays and heat maps are reduced to this, so that an image does not become a huge PNG."""


def mask_png(mask: np.ndarray) -> bytes:
    """A ``(H, W)`` bool mask as a gray PNG of the same size."""
    return encode_mask(mask)


def overlay_png(image: np.ndarray, mask: np.ndarray) -> bytes:
    """A ``(H, W, 3)`` uint8 RGB image with the outline of its ``(H, W)`` bool mask."""
    small = reduced(image)
    return encode_image(draw_outline(small, _fitted(mask, small)))


def heat_png(image: np.ndarray, explanation: Explanation, mask: np.ndarray) -> bytes:
    """The image under its heat map, with the outline of its mask.

    It is laid over the reduced image: at full size it would take twenty bytes a pixel.
    """
    small = reduced(image)
    height, width = small.shape[:2]
    heat = cv2.resize(explanation.heat_map, (width, height), interpolation=cv2.INTER_AREA)
    fitted = dataclasses.replace(explanation, heat_map=heat)
    return encode_image(overlay_heat(small, fitted, _fitted(mask, small)))


def _fitted(mask: np.ndarray, image: np.ndarray) -> np.ndarray:
    height, width = image.shape[:2]
    shares = cv2.resize(mask.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
    return np.asarray(shares >= 0.5)


def reduced(image: np.ndarray) -> np.ndarray:
    """The image with no side above :data:`LONGEST_SIDE`."""
    height, width = image.shape[:2]
    scale = LONGEST_SIDE / max(height, width)
    if scale >= 1:
        return np.ascontiguousarray(image)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA))
