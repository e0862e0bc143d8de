"""EXIF orientation: read it, apply it, and find the way back to stored coordinates.

A camera stores the pixels as its sensor saw them and notes in one number, 1 to 8, how a viewer
has to turn them. cascade always works on the displayed image. Only EXIF (and TIFF's own tag) is
obeyed, as browsers do; XMP is not.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np

from cascade.errors import ConfigError, ShapeError

Box = tuple[int, int, int, int]

_TAG = 0x0112
# orientation: (transpose, then mirror top-bottom, then mirror left-right)
_STEPS = {
    1: (False, False, False),
    2: (False, False, True),
    3: (False, True, True),
    4: (False, True, False),
    5: (True, False, False),
    6: (True, False, True),
    7: (True, True, True),
    8: (True, True, False),
}
_INVERSE = {orientation: orientation for orientation in range(1, 9)} | {6: 8, 8: 6}


def _steps(orientation: int) -> tuple[bool, bool, bool]:
    if orientation not in _STEPS:
        raise ConfigError(f"orientation is {orientation!r}; EXIF knows 1 to 8")
    return _STEPS[orientation]


def displayed_shape(stored_shape: tuple[int, int], orientation: int) -> tuple[int, int]:
    """``(H, W)`` as displayed, from ``(H, W)`` as stored; also its own inverse."""
    height, width = stored_shape
    return (width, height) if _steps(orientation)[0] else (height, width)


def apply_orientation(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Turn stored ``(H, W, ...)`` pixels as a viewer displays them; the result is contiguous."""
    transpose, top_bottom, left_right = _steps(orientation)
    if pixels.dtype in (np.uint8, np.bool_):
        return _turn_bytes(np.ascontiguousarray(pixels), transpose, top_bottom, left_right)
    if transpose:
        pixels = pixels.swapaxes(0, 1)
    if top_bottom:
        pixels = pixels[::-1]
    if left_right:
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def _turn_bytes(
    pixels: np.ndarray, transpose: bool, top_bottom: bool, left_right: bool
) -> np.ndarray:
    """The same by OpenCV, which is several times as fast as numpy's strided copies."""
    turned: np.ndarray = pixels.view(np.uint8)
    if transpose:
        turned = cv2.transpose(turned)
    if top_bottom or left_right:
        turned = cv2.flip(turned, -1 if top_bottom and left_right else int(left_right))
    return np.asarray(turned).view(pixels.dtype)


def to_stored_mask(mask: np.ndarray, orientation: int) -> np.ndarray:
    """Turn a displayed ``(H, W)`` mask (or any pixels) back as the file stores its pixels."""
    _steps(orientation)
    return apply_orientation(mask, _INVERSE[orientation])


def to_stored_box(box: Box, orientation: int, displayed_shape: tuple[int, int]) -> Box:
    """Turn a box of the displayed image into the same box of the stored pixels.

    Args:
        box: ``(top, left, bottom, right)``, half-open, displayed pixels; it may reach over the
            border.
        orientation: EXIF orientation 1..8 of the file.
        displayed_shape: ``(H, W)`` of the displayed image.

    Returns:
        ``(top, left, bottom, right)``, half-open, stored pixels.

    Raises:
        ShapeError: the box is turned inside out.
    """
    top, left, bottom, right = box
    if bottom < top or right < left:
        raise ShapeError(
            f"box {box} ends before it starts", expected="(top, left, bottom, right)", actual=box
        )
    height, width = displayed_shape
    transpose, top_bottom, left_right = _steps(orientation)
    if left_right:
        left, right = width - right, width - left
    if top_bottom:
        top, bottom = height - bottom, height - top
    if transpose:
        top, left, bottom, right = left, top, right, bottom
    return top, left, bottom, right


def stored_orientation(info: Mapping[Any, Any]) -> tuple[int, tuple[str, ...]]:
    """EXIF orientation from the ``info`` of a Pillow image, with a warning if it is unusable."""
    block = info.get("exif")
    profile = info.get("Raw profile type exif")
    if block is None and isinstance(profile, str):
        block = _unhex(profile)
    return exif_orientation(block) if isinstance(block, bytes) else (1, ())


def _unhex(profile: str) -> bytes:
    try:
        return bytes.fromhex("".join(profile.split("\n")[3:]))
    except ValueError:
        return b"?"  # reported as unreadable by exif_orientation


def exif_orientation(block: bytes) -> tuple[int, tuple[str, ...]]:
    """Read the orientation out of an EXIF block, with or without its ``Exif`` prefix.

    Returns:
        The orientation 1..8, which is 1 where the block names none (0 means none too), and a
        warning where the block is unreadable or its value unknown.
    """
    block = block.removeprefix(b"Exif\x00\x00")
    order = {b"II*\x00": "<", b"MM\x00*": ">"}.get(block[:4])
    if order is None:
        return (
            (1, ("the EXIF block is unreadable; the orientation is taken as 1",))
            if block
            else (1, ())
        )
    try:
        value = _find_tag(block, order)
    except struct.error:
        return 1, ("the EXIF block is damaged; the orientation is taken as 1",)
    if value in _STEPS:
        return value, ()
    return 1, ((f"EXIF orientation {value} is unknown; taken as 1",) if value else ())


def _find_tag(block: bytes, order: str) -> int:
    (offset,) = struct.unpack_from(order + "I", block, 4)
    (count,) = struct.unpack_from(order + "H", block, offset)
    for index in range(count):
        tag, kind = struct.unpack_from(order + "HH", block, offset + 2 + 12 * index)
        if tag == _TAG:
            code = {1: "B", 3: "H", 4: "I"}.get(kind, "H")
            return int(struct.unpack_from(order + code, block, offset + 10 + 12 * index)[0])
    return 0
