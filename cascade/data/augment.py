"""Augmentation of training images; the only module that knows albumentations.

Prediction never passes here: it needs no augmentation and must not need the library.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Sequence
from typing import Any

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # it would look for updates on import

import albumentations
import cv2
import numpy as np

from cascade.config import Augmentation, ExtraAugmentation
from cascade.data.corruptions import CORRUPTIONS
from cascade.data.surroundings import amid_skin
from cascade.data.synthetic.artefacts import hair, on_planes

_EXTRA_SHARE = 0.5
"""How often a further change is made."""

_DEGRADATIONS = [
    (one.change, one.amounts)
    for one in CORRUPTIONS
    if one.change is not None and one.name in ("blur", "JPEG", "noise", "colour cast")
]


class Augmenter:
    """Random changes to an image and its mask that leave the diagnosis as it is.

    The changes depend on the seed given to each call and on nothing else, so they are the same
    with any number of loader processes and after a resumed training.
    """

    def __init__(
        self,
        strength: Augmentation,
        *,
        geometry_only_rotates: bool = False,
        extra: Sequence[ExtraAugmentation] = (),
    ) -> None:
        """Choose the transforms.

        Args:
            strength: ``none``, ``light`` (flips and quarter turns), ``standard`` (also rotation,
                scale, shift and colour) or ``strong`` (more colour, also white balance,
                blur, noise, JPEG, gamma and erased rectangles).
            geometry_only_rotates: leave scale and shift alone, for crops that were jittered when
                they were cut.
            extra: further changes, each of every second image on average: ``hair`` draws some,
                ``colour_constancy`` makes the light neutral by shades of grey, ``cut`` shows a part
                of the image, so that its border may cut the lesion, and ``scale`` shrinks or
                enlarges it by 0.6 to 1.6, with skin around it or its border repeated or mirrored,
                ``degradation`` blurs it, adds noise, stores it as a coarse JPEG, or casts a colour
                on it, as :mod:`cascade.data.corruptions` does.
        """
        transforms: list[albumentations.BasicTransform] = [_EXTRA[name]() for name in extra]
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


class _Drawn(albumentations.ImageOnlyTransform):
    """A change of the pixels by a function of the image and a generator."""

    def __init__(self, change: Callable[[np.ndarray, np.random.Generator], np.ndarray]) -> None:
        super().__init__(p=_EXTRA_SHARE)
        self._change = change

    def apply(self, img: np.ndarray, **_: Any) -> np.ndarray:
        return self._change(img, self.random_generator)


def _with_hair(image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    return on_planes(image, lambda planes: hair(planes, generator))


def _degraded(image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """One of the degradations, of a strength between the benchmark's mild and strong."""
    change, (mild, _, strong) = _DEGRADATIONS[generator.integers(len(_DEGRADATIONS))]
    return change(image, mild + generator.random() * (strong - mild), generator)


def neutral_light(image: np.ndarray) -> np.ndarray:
    """An image as if its light were white, by shades of grey with the Minkowski norm of 6.

    The light's colour is the norm of each channel (Finlayson and Trezzi 2004, Shades of Gray and
    Colour Constancy); the channels are divided by it so that their norms are equal and the image is
    as bright as before.

    Args:
        image: ``(H, W, 3)`` uint8 RGB.
    """
    norms = np.power(np.power(image.reshape(-1, 3) / 255, 6).mean(axis=0), 1 / 6)
    if norms.min() <= 0:
        return image
    gains = norms.mean() / norms
    return np.clip(np.rint(image * gains), 0, 255).astype(np.uint8)


class _Part(albumentations.DualTransform):
    """A random part, 35 to 100 % of image and mask, enlarged to the size that they had."""

    def get_params_dependent_on_data(self, params: Any, data: Any) -> dict[str, Any]:
        del data
        height, width = params["shape"][:2]
        scale = np.sqrt(self.random_generator.uniform(0.35, 1.0))
        tall, wide = max(1, round(height * scale)), max(1, round(width * scale))
        top = int(self.random_generator.integers(height - tall + 1))
        left = int(self.random_generator.integers(width - wide + 1))
        return {"window": (top, left, top + tall, left + wide)}

    def apply(self, img: np.ndarray, window: tuple[int, ...] = (), **_: Any) -> np.ndarray:
        return _enlarged(img, window, cv2.INTER_LINEAR)

    def apply_to_mask(self, mask: np.ndarray, window: tuple[int, ...] = (), **_: Any) -> np.ndarray:
        return _enlarged(mask, window, cv2.INTER_NEAREST)


def _enlarged(values: np.ndarray, window: tuple[int, ...], how: int) -> np.ndarray:
    top, left, bottom, right = window
    part = np.ascontiguousarray(values[top:bottom, left:right])
    return cv2.resize(part, values.shape[1::-1], interpolation=how)


class _Scaled(albumentations.DualTransform):
    """Image and mask from nearer or farther away, in the size that they had.

    Beyond the border of the image then lies plain skin, or its edge goes on or is mirrored there.
    """

    def get_params_dependent_on_data(self, params: Any, data: Any) -> dict[str, Any]:
        del data
        height, width = params["shape"][:2]
        scale = self.random_generator.uniform(0.6, 1.6)
        # what is cut off each side, or is added where it is below 0
        tall, wide = (round(length * (1 - 1 / scale) / 2) for length in (height, width))
        return {"cut": (tall, wide), "beyond": int(self.random_generator.integers(3))}

    def apply(
        self, img: np.ndarray, cut: tuple[int, int] = (0, 0), beyond: int = 0, **_: Any
    ) -> np.ndarray:
        tall, wide = cut
        if tall >= 0:
            return _enlarged(img, _inside(img, cut), cv2.INTER_LINEAR)
        if beyond == 0:
            wider = amid_skin(img, -tall, -wide, self.random_generator)
        else:
            border = cv2.BORDER_REPLICATE if beyond == 1 else cv2.BORDER_REFLECT_101
            wider = cv2.copyMakeBorder(img, -tall, -tall, -wide, -wide, border)
        return cv2.resize(wider, img.shape[1::-1], interpolation=cv2.INTER_AREA)

    def apply_to_mask(
        self, mask: np.ndarray, cut: tuple[int, int] = (0, 0), **_: Any
    ) -> np.ndarray:
        tall, wide = cut
        if tall >= 0:
            return _enlarged(mask, _inside(mask, cut), cv2.INTER_NEAREST)
        wider = cv2.copyMakeBorder(mask, -tall, -tall, -wide, -wide, cv2.BORDER_CONSTANT, value=0)
        return cv2.resize(wider, mask.shape[1::-1], interpolation=cv2.INTER_NEAREST)


def _inside(values: np.ndarray, cut: tuple[int, int]) -> tuple[int, ...]:
    tall, wide = cut
    return tall, wide, values.shape[0] - tall, values.shape[1] - wide


_EXTRA: dict[ExtraAugmentation, Callable[[], albumentations.BasicTransform]] = {
    "hair": lambda: _Drawn(_with_hair),
    "colour_constancy": lambda: _Drawn(lambda image, _: neutral_light(image)),
    "degradation": lambda: _Drawn(_degraded),
    "cut": lambda: _Part(p=_EXTRA_SHARE),
    "scale": lambda: _Scaled(p=_EXTRA_SHARE),
}


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
