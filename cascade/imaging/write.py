"""Writing images and masks, whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import simplejpeg

from cascade.errors import ImageError
from cascade.files import atomic_path
from cascade.imaging.checks import check_image, check_mask

JPEG_QUALITY = 95


def write_mask(path: str | os.PathLike[str], mask: np.ndarray) -> None:
    """Write a ``(H, W)`` bool mask as a gray PNG with the values 0 and 255.

    Raises:
        ShapeError: the mask is not bool.
        ImageError: the name does not end in ``.png``.
        DataError: the folder or disk does not take the file.
    """
    if Path(path).suffix.lower() != ".png":
        raise ImageError(f"{path}: masks are written as PNG; let the name end in .png")
    _write(path, encode_mask(mask))


def write_image(path: str | os.PathLike[str], pixels: np.ndarray) -> None:
    """Write ``(H, W, 3)`` uint8 RGB as PNG or, without colour subsampling, as JPEG.

    Raises:
        ShapeError: the pixels are not uint8 RGB.
        ImageError: the name ends in neither ``.png`` nor ``.jpg``.
        DataError: the folder or disk does not take the file.
    """
    suffix = Path(path).suffix.lower()
    if suffix == ".png":
        _write(path, encode_image(pixels))
    elif suffix in (".jpg", ".jpeg"):
        _write(path, encode_jpeg(pixels))
    else:
        raise ImageError(f"{path}: images are written as PNG or JPEG; end the name in .png or .jpg")


def encode_mask(mask: np.ndarray) -> bytes:
    """A ``(H, W)`` bool mask as the bytes of a gray PNG with the values 0 and 255.

    Raises:
        ShapeError: the mask is not bool.
    """
    check_mask(mask)
    return _png(mask.astype(np.uint8) * 255)


def encode_image(pixels: np.ndarray) -> bytes:
    """A ``(H, W, 3)`` uint8 RGB image as the bytes of a PNG.

    Raises:
        ShapeError: the pixels are not uint8 RGB.
    """
    check_image(pixels)
    return _png(cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))


def encode_jpeg(pixels: np.ndarray) -> bytes:
    """A ``(H, W, 3)`` uint8 RGB image as the bytes of a JPEG without colour subsampling.

    Raises:
        ShapeError: the pixels are not uint8 RGB.
    """
    check_image(pixels)
    contiguous = np.ascontiguousarray(pixels)
    return bytes(simplejpeg.encode_jpeg(contiguous, JPEG_QUALITY, "RGB", "444"))


def _png(values: np.ndarray) -> bytes:
    done, encoded = cv2.imencode(".png", values)
    if not done:
        raise ImageError(f"an image of {values.shape} could not be encoded as PNG")
    return encoded.tobytes()


def _write(path: str | os.PathLike[str], data: bytes) -> None:
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)
