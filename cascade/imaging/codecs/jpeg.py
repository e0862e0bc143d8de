"""Strict decoding of JPEG, where other decoders return half an image without a word.

Slow and exact settings of libjpeg-turbo (``fastdct`` and ``fastupsample`` off), which are also
Pillow's, so both give the same pixels.
"""

from __future__ import annotations

import numpy as np
import simplejpeg

from cascade.errors import ImageError
from cascade.imaging.limits import ImageLimits
from cascade.imaging.resize import reduction

_END = b"\xff\xd9"
_SCAN = b"\xff\xda"
_MOST_SCANS = 100

NO_END = "the end marker of the JPEG is missing; the image itself is whole"


def decode_jpeg(
    data: bytes,
    shape: tuple[int, int],
    *,
    limits: ImageLimits,
    name: str,
    gray: bool = False,
    short_side: int | None = None,
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Decode a JPEG and refuse one with damaged or missing data.

    Args:
        data: the whole file.
        shape: ``(H, W)`` that the header gave and the limits allowed.
        limits: with ``allow_truncated`` a damaged image is decoded as far as possible.
        name: for messages.
        gray: return ``(H, W)`` for an image without colour.
        short_side: decode at a half, a quarter or an eighth of the size, as long as the short side
            keeps at least this many pixels.

    Returns:
        ``(H, W, 3)`` uint8 RGB; ``(H, W)`` for a gray image if asked; ``(H, W, 4)`` stored
        (inverted) CMYK for a CMYK image. And the warnings.

    Raises:
        ImageError: the data are damaged, cut or of a kind that cannot be decoded.
    """
    colours = _inspect(data, shape, name)
    options: dict[str, object] = {"colorspace": "RGB", "fastdct": False, "fastupsample": False}
    if colours in ("CMYK", "YCCK"):
        options["colorspace"] = "CMYK"
    elif colours == "Gray" and gray:
        options["colorspace"] = "GRAY"
    divisor = reduction(shape, short_side)
    if divisor > 1:
        options |= {"min_height": -(-shape[0] // divisor), "min_width": -(-shape[1] // divisor)}
    pixels, warnings = _decode(data, options, limits=limits, name=name)
    return (pixels[..., 0] if options["colorspace"] == "GRAY" else pixels), warnings


def _inspect(data: bytes, shape: tuple[int, int], name: str) -> str:
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data, strict=False)
    except ValueError as error:
        raise ImageError(f"{name}: is a damaged JPEG ({error})") from error
    if (height, width) != shape:
        raise ImageError(f"{name}: is a damaged JPEG, it states two different sizes")
    if _count_scans(data) > _MOST_SCANS:
        raise ImageError(f"{name}: the JPEG has more than {_MOST_SCANS} scans; save it again")
    return str(colours)


def _count_scans(data: bytes) -> int:
    """Scans of the first image; a few bytes each can make a decoder pass over all its pixels."""
    position = 2
    while data[position : position + 1] == b"\xff" and data[position : position + 2] != _SCAN:
        if data[position + 1 : position + 2] == b"\xff":  # a fill byte
            position += 1
            continue
        position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    end = data.find(_END, position)
    return data.count(_SCAN, position, end if end >= 0 else len(data))


def _decode(
    data: bytes, options: dict[str, object], *, limits: ImageLimits, name: str
) -> tuple[np.ndarray, tuple[str, ...]]:
    try:
        return simplejpeg.decode_jpeg(data, strict=True, **options), ()
    except ValueError as error:
        problem = str(error)
    if not data.endswith(_END):
        try:
            mended = data.removesuffix(b"\xff") + _END
            return simplejpeg.decode_jpeg(mended, strict=True, **options), (NO_END,)
        except ValueError as error:
            problem = f"cut off: {error}"
    if not limits.allow_truncated:
        raise ImageError(
            f"{name}: is a damaged JPEG ({problem}). Get the image again, or pass "
            "allow_truncated to use what is left of it"
        )
    try:
        pixels = simplejpeg.decode_jpeg(data, strict=False, **options)
    except ValueError as error:
        raise ImageError(f"{name}: is a damaged JPEG, nothing of it decodes ({error})") from error
    return pixels, (f"damaged JPEG, decoded as far as possible ({problem})",)
