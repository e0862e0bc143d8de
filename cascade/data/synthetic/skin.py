"""Skin without a lesion: its colour, its texture, and what a camera and a clinic add to it.

Colours are composed as optical density, the way light is lost in skin: densities of melanin,
blood and ink add up, and the image is ``light * exp(-density)``. Nothing here knows the class of
the lesion, so hair, rulers and dark corners cannot give it away.
"""

from __future__ import annotations

import math

import cv2
import numpy as np

MELANIN = np.array([0.5, 1.0, 1.35], np.float32)
"""Optical density of melanin in red, green and blue, relative to green."""

BLOOD = np.array([0.05, 0.6, 0.5], np.float32)
"""Optical density of blood in red, green and blue."""

_LIGHTEST_SKIN = np.array([241.0, 212.0, 202.0], np.float32)


def planes(values: np.ndarray) -> np.ndarray:
    """Three numbers as ``(3, 1, 1)`` float32, to multiply colour planes ``(3, H, W)`` by."""
    return np.asarray(values, np.float32)[:, None, None]


def smooth_noise(
    generator: np.random.Generator, shape: tuple[int, int], scale: float
) -> np.ndarray:
    """Random ``(H, W)`` float32, mean 0 and deviation near 1, with blobs of ``scale`` pixels."""
    step = max(1.0, scale / 3.0)
    small = (max(4, math.ceil(shape[0] / step)), max(4, math.ceil(shape[1] / step)))
    field: np.ndarray = generator.standard_normal(small, dtype=np.float32)
    field = cv2.GaussianBlur(field, (0, 0), max(0.4, 0.4 * scale / step))
    mean, deviation = cv2.meanStdDev(field)
    field = (field - np.float32(mean[0, 0])) / np.float32(max(deviation[0, 0], 1e-6))
    return cv2.resize(field, (shape[1], shape[0]), interpolation=cv2.INTER_CUBIC)


def skin_density(generator: np.random.Generator, shape: tuple[int, int], tone: float) -> np.ndarray:
    """Optical density of plain skin.

    Args:
        generator: source of randomness.
        shape: ``(H, W)`` in pixels.
        tone: melanin of the skin, 0 (very light) to 1 (very dark).

    Returns:
        ``(3, H, W)`` float32, relative to the lightest skin.
    """
    unit = min(shape) / 256.0
    melanin = 1.15 * tone**1.2 + (0.012 + 0.02 * tone) * smooth_noise(generator, shape, 30 * unit)
    blood = generator.uniform(0.0, 0.2) + 0.05 * smooth_noise(generator, shape, 45 * unit)
    relief = generator.uniform(0.008, 0.022) * smooth_noise(generator, shape, 5 * unit)
    relief += generator.uniform(0.004, 0.012) * smooth_noise(generator, shape, 1.5)
    if generator.random() < 0.5:
        melanin += _freckles(generator, shape, unit)
    if generator.random() < 0.3:
        blood += _vessels(generator, shape, unit)
    return planes(MELANIN) * melanin + planes(BLOOD) * blood + relief


def _freckles(generator: np.random.Generator, shape: tuple[int, int], unit: float) -> np.ndarray:
    """Small pale spots that are not the lesion, as melanin density."""
    field = smooth_noise(generator, shape, generator.uniform(5.0, 9.0) * unit)
    return generator.uniform(0.05, 0.16) * np.clip(field - 1.9, 0.0, 1.0)


def _vessels(generator: np.random.Generator, shape: tuple[int, int], unit: float) -> np.ndarray:
    """Faint branching lines of blood."""
    field = smooth_noise(generator, shape, 14 * unit)
    lines = np.exp(-((field / 0.12) ** 2))
    return generator.uniform(0.05, 0.2) * lines * (smooth_noise(generator, shape, 60 * unit) > 0.3)


def render(density: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Image optical density ``(3, H, W)``: exposure, white balance, uneven light.

    Returns:
        ``(3, H, W)`` float32 in [0, 255] or a little above.
    """
    height, width = density.shape[1:]
    gains = generator.normal(1.0, 0.05, 3) * generator.uniform(0.86, 1.08)
    slope = generator.normal(0.0, 0.05, 2).astype(np.float32)
    rows = np.linspace(-1.0, 1.0, height, dtype=np.float32)[:, None]
    columns = np.linspace(-1.0, 1.0, width, dtype=np.float32)[None, :]
    falloff = np.float32(generator.uniform(0.0, 0.16) / 2)
    light = 1.0 + slope[0] * rows + slope[1] * columns - falloff * (rows**2 + columns**2)
    return np.exp(-density) * light * planes(_LIGHTEST_SKIN * gains)
