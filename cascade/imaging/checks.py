"""Guards at public entrances: refuse a wrong array by name instead of computing nonsense."""

from __future__ import annotations

from typing import Any

import numpy as np

from cascade.errors import ShapeError

_IMAGE = "(H, W, 3) uint8 RGB"
_MASK = "(H, W) bool"


def check_image(image: Any) -> None:
    """Refuse anything but ``(H, W, 3)`` uint8.

    Raises:
        ShapeError: the message says what was got and how to convert it.
    """
    if not isinstance(image, np.ndarray):
        raise ShapeError(
            f"image is a {type(image).__name__}; give a numpy array {_IMAGE}",
            expected=_IMAGE,
            actual=type(image).__name__,
        )
    actual = f"{image.shape} {image.dtype}"
    advice = _image_advice(image)
    if advice:
        raise ShapeError(f"image is {actual}; {advice}", expected=_IMAGE, actual=actual)


def _image_advice(image: np.ndarray) -> str | None:
    shape_advice = _image_shape_advice(image)
    if shape_advice:
        return shape_advice
    if image.dtype == np.uint8:
        return None
    if np.issubdtype(image.dtype, np.floating):
        scale = _float_range(image)
        return f"it must be {_IMAGE}. It looks like floats in {scale}"
    if image.dtype == np.uint16:
        return f"it must be {_IMAGE}; divide 16 bit values by 257 and round"
    return f"it must be {_IMAGE}"


def _image_shape_advice(image: np.ndarray) -> str | None:
    if image.ndim == 2:
        return f"it must be {_IMAGE}; repeat a gray image with np.dstack([gray] * 3)"
    if image.ndim == 4:
        return f"it must be one image, {_IMAGE}; pass the images of a batch one by one"
    if image.ndim != 3:
        return f"it must be {_IMAGE}"
    if image.shape[2] != 3:
        four = "; drop or blend the fourth channel" if image.shape[2] == 4 else ""
        return f"it must be {_IMAGE}" + (
            "; move the channels last" if image.shape[0] == 3 else four
        )
    return "it has no pixels" if 0 in image.shape else None


def _float_range(image: np.ndarray) -> str:
    if not np.isfinite(image).all():
        return "which not all are finite numbers"
    if image.min() < 0:
        return "a normalised range; networks normalise themselves, pass the raw pixels"
    if image.max() <= 1:
        return "[0, 1]; use (image * 255).round().astype(np.uint8)"
    return "[0, 255]; use image.round().astype(np.uint8)"


def check_mask(mask: Any, like: np.ndarray | None = None) -> None:
    """Refuse anything but ``(H, W)`` bool, of the same ``H, W`` as ``like`` if that is given.

    Raises:
        ShapeError: the message says what was got and how to convert it.
    """
    if not isinstance(mask, np.ndarray):
        raise ShapeError(
            f"mask is a {type(mask).__name__}; give a numpy array {_MASK}",
            expected=_MASK,
            actual=type(mask).__name__,
        )
    actual = f"{mask.shape} {mask.dtype}"
    if mask.ndim != 2 or 0 in mask.shape:
        raise ShapeError(f"mask is {actual}; it must be {_MASK}", expected=_MASK, actual=actual)
    if mask.dtype != np.bool_:
        raise ShapeError(
            f"mask is {actual}; it must be {_MASK}. {_mask_advice(mask)}",
            expected=_MASK,
            actual=actual,
        )
    if like is not None and mask.shape != like.shape[:2]:
        raise ShapeError(
            f"mask is {mask.shape} but the image is {like.shape[:2]}; they must agree",
            expected=like.shape[:2],
            actual=mask.shape,
        )


def _mask_advice(mask: np.ndarray) -> str:
    if np.issubdtype(mask.dtype, np.floating):
        return "It looks like probabilities; cut them with mask >= threshold"
    if mask.max() > 1:
        return "It looks like 0/255; use mask > 127"
    return "It looks like 0/1; use mask.astype(bool)"
