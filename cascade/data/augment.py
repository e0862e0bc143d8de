"""Augmentation of training images; the only module that knows albumentations.

Prediction never passes here: it needs no augmentation and must not need the library.
"""

from __future__ import annotations

import os
import random

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # it would look for updates on import

import albumentations
import cv2
import numpy as np

from cascade.config import Augmentation


class Augmenter:
    """Random changes to an image and its mask that leave the diagnosis as it is.

    The changes depend on the seed given to each call and on nothing else, so they are the same
    with any number of loader processes and after a resumed training.
    """

    def __init__(self, strength: Augmentation, *, geometry_only_rotates: bool = False) -> None:
        """Choose the transforms.

        Args:
            strength: ``none``, ``light`` (flips and quarter turns), ``standard`` (also rotation,
                scale, shift and colour) or ``strong`` (more colour, also white balance,
                blur, noise, JPEG, gamma and erased rectangles).
            geometry_only_rotates: leave scale and shift alone, for crops that were jittered when
                they were cut.
        """
        transforms: list[albumentations.BasicTransform] = []
        if strength != "none":
            transforms.append(albumentations.D4(p=1.0))
        if strength in ("standard", "strong"):
            transforms += _geometry(geometry_only_rotates) + _colour(strength)
        if strength == "strong":
            transforms += _degradation()
        self._compose = albumentations.Compose(transforms) if transforms else None

    def __call__(
        self, image: np.ndarray, mask: np.ndarray | None = None, *, seed: int
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Change one sample.

        Args:
            image: ``(S, S, 3)`` uint8 RGB.
            mask: ``(S, S)`` uint8 0 or 1, changed by the same geometry.
            seed: decides all random choices; 0 or more.
        """
        if self._compose is None:
            return image, mask
        # set_random_seed would give every transform a generator of the same seed, so that all of
        # them apply to an image or none does; with one generator they draw one after the other
        generator = np.random.default_rng(seed)
        self._compose.set_random_state(generator, random.Random(seed))
        if mask is None:
            return self._compose(image=image)["image"], None
        changed = self._compose(image=image, mask=mask)
        return changed["image"], changed["mask"]


def _geometry(only_rotates: bool) -> list[albumentations.BasicTransform]:
    return [
        albumentations.Affine(
            rotate=(-45, 45),
            scale=(1.0, 1.0) if only_rotates else (0.8, 1.25),
            translate_percent=(0.0, 0.0) if only_rotates else (-0.08, 0.08),
            interpolation=cv2.INTER_LINEAR,
            mask_interpolation=cv2.INTER_NEAREST,
            border_mode=cv2.BORDER_REFLECT_101,
            p=0.7,
        )
    ]


def _colour(strength: Augmentation) -> list[albumentations.BasicTransform]:
    amount = 1.2 if strength == "strong" else 1.0
    # another lamp or white balance multiplies the channels (von Kries), which no hue shift imitates
    illuminant = albumentations.MultiplicativeNoise(
        multiplier=(0.9, 1.1), per_channel=True, elementwise=False, p=0.5
    )
    return [
        *([illuminant] if strength == "strong" else []),
        albumentations.RandomBrightnessContrast(
            brightness_limit=0.2 * amount, contrast_limit=0.2 * amount, p=0.6
        ),
        albumentations.HueSaturationValue(
            hue_shift_limit=int(8 * amount),
            sat_shift_limit=int(25 * amount),
            val_shift_limit=int(10 * amount),
            p=0.6,
        ),
    ]


def _degradation() -> list[albumentations.BasicTransform]:
    return [
        albumentations.OneOf(
            [
                albumentations.GaussianBlur(blur_limit=(3, 5), p=1.0),
                albumentations.GaussNoise(std_range=(0.01, 0.05), p=1.0),
                albumentations.ImageCompression(quality_range=(40, 90), p=1.0),
            ],
            p=0.4,
        ),
        albumentations.RandomGamma(gamma_limit=(70, 140), p=0.3),
        albumentations.CoarseDropout(
            num_holes_range=(1, 4),
            hole_height_range=(0.04, 0.12),
            hole_width_range=(0.04, 0.12),
            fill_mask=None,
            p=0.3,
        ),
    ]
