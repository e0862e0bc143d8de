"""HEIC and HEIF, as telephones save them, behind the extra ``heif``.

libheif turns the image as the file's own boxes say (``irot``, ``imir``, ``clap``). The EXIF block
repeats that orientation and is ignored, as ISO/IEC 23008-12 asks, so nothing is turned twice.
"""

from __future__ import annotations

import io
from typing import Any

import cv2
import numpy as np
from PIL import Image

from cascade.errors import MissingExtraError


def read_heif_shape(data: bytes, name: str) -> tuple[int, int]:
    """``(H, W)`` of the main image as displayed.

    Raises:
        MissingExtraError: pillow-heif is not installed.
    """
    image, _ = _main_image(data, name)
    width, height = image.size
    return int(height), int(width)


def decode_heif(data: bytes, name: str) -> tuple[np.ndarray | Image.Image, bytes | None, int]:
    """Decode the main image of a file whose size has passed the limits.

    Returns:
        ``(H, W)`` or ``(H, W, 3)`` or ``(H, W, 4)`` uint8 as displayed, or a Pillow image where
        the colours are multiplied by the transparency already; the ICC profile; and how many
        images the file holds. More than 8 bits are scaled by the largest value and rounded.

    Raises:
        MissingExtraError: pillow-heif is not installed.
    """
    image, count = _main_image(data, name)
    pixels = np.asarray(image)
    if pixels.dtype == np.uint16:
        pixels = cv2.convertScaleAbs(pixels, alpha=255 / (2 ** int(image.info["bit_depth"]) - 1))
    profile = image.info.get("icc_profile")
    if image.premultiplied_alpha:
        size = pixels.shape[1], pixels.shape[0]
        return Image.frombytes("RGBa", size, pixels.tobytes()), profile, count
    return pixels, profile, count


def _main_image(data: bytes, name: str) -> tuple[Any, int]:
    try:
        import pillow_heif
    except ImportError as error:
        raise MissingExtraError(
            f"{name}: reading HEIC needs more packages; run: pip install 'cascade[heif]'"
        ) from error
    file = pillow_heif.open_heif(io.BytesIO(data), convert_hdr_to_8bit=False, hdr_to_16bit=False)
    return file[file.primary_index], len(file)
