"""Reading masks: whatever way a mask was saved, to bool, or an error where that is a guess."""

from __future__ import annotations

import os

import cv2
import numpy as np
from PIL import Image

from cascade.errors import ImageError
from cascade.imaging.colour import reduce_depth
from cascade.imaging.damage import decoding
from cascade.imaging.decode import decode
from cascade.imaging.limits import ImageLimits
from cascade.imaging.orientation import apply_orientation
from cascade.imaging.read import NamedBytes, file_label, load_encoded

_LIMITS = ImageLimits(min_side=1, max_aspect=1e9)
_GRAY_TOLERANCE = 8
_MIDDLE = (64, 191)
_EDGE_PX = 8
"""How far from an edge the ringing of a JPEG (one block) or a soft edge may reach."""


def read_mask(
    path: str | os.PathLike[str] | NamedBytes,
    *,
    shape: tuple[int, int] | None = None,
    resize: bool = False,
    predicted: bool = False,
) -> np.ndarray:
    """Read a mask whose lesion is 1 of 0/1 or white of black/white.

    Accepted are 1, 8 and 16 bits, gray, palettes and colour files that hold only grays, and the
    gray ringing and soft edges that JPEG and resizing leave within 8 pixels of an outline. Values
    above 128 of 255 belong to the lesion. An EXIF orientation is applied as for images; colour
    profiles are not, because a mask holds labels.

    Args:
        path: the mask's file, or its bytes with a name.
        shape: ``(H, W)`` of the displayed image that the mask belongs to.
        resize: scale a mask of another size to ``shape``, by nearest neighbour.
        predicted: a network made the mask, so gray areas are cut at 128 and any form is taken as
            it is. A human mask like that is a mistake and refused.

    Returns:
        ``(H, W)`` bool.

    Raises:
        ImageError: the file is not readable; the mask is coloured, transparent, has several or
            middle gray levels, or looks inverted; or its size is another and ``resize`` is off.
    """
    name = file_label(path)
    data, header, _ = load_encoded(path, _LIMITS)
    decoded = decode(data, header, limits=_LIMITS, name=name)
    with decoding(name):
        values = _gray_values(decoded.content, name)
    mask = _binarise(values, name, check_levels=not predicted)
    if not decoded.oriented:
        mask = apply_orientation(mask, header.orientation)
    if not predicted:
        _refuse_inverted(mask, name)
    return mask if shape is None else _fit(mask, shape, resize=resize, name=name)


def _gray_values(content: np.ndarray | Image.Image, name: str) -> np.ndarray:
    """To ``(H, W)`` integers; colours and transparency have no agreed meaning."""
    if isinstance(content, Image.Image):
        content = _plain_array(content, name)
    if content.dtype.kind not in "bui":
        raise ImageError(f"{name}: the mask holds {content.dtype} values; save it as 0/255 PNG")
    if content.ndim == 2:
        return content
    if content.shape[2] in (2, 4):
        if content[..., -1].min() != content[..., -1].max() or not content[..., -1].any():
            raise ImageError(f"{name}: the mask is partly transparent; save it as 0/255 gray PNG")
        content = content[..., :-1]
    darkest, brightest = content.min(axis=2), content.max(axis=2)
    if int((brightest - darkest).max()) > _GRAY_TOLERANCE * (257 if content.itemsize > 1 else 1):
        raise ImageError(
            f"{name}: the mask is coloured, so which colour is the lesion would be a guess; "
            "save it as 0/255 gray PNG"
        )
    return np.ascontiguousarray(content[..., content.shape[2] // 2])


def _plain_array(image: Image.Image, name: str) -> np.ndarray:
    if image.mode == "P" or image.info.get("transparency") is not None:
        image = image.convert("RGBA")
    if image.mode == "1":
        image = image.convert("L")
    if image.mode in ("CMYK", "YCbCr", "LAB", "HSV"):
        raise ImageError(f"{name}: the mask is in the colour space {image.mode}; save it as gray")
    return np.asarray(image)


def _binarise(values: np.ndarray, name: str, *, check_levels: bool) -> np.ndarray:
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 65535:
        raise ImageError(f"{name}: the mask has values from {low} to {high}; save it as 0/255")
    if high <= 1:
        return values.astype(bool)
    levels = reduce_depth(values) if high > 255 else values.astype(np.uint8)
    mask = np.asarray(levels > 128)
    if not check_levels:
        return mask
    if int(levels.max()) <= _MIDDLE[1]:
        raise ImageError(
            f"{name}: the brightest value of the mask is {high}, neither 1 nor white, so what "
            "it means would be a guess; save it as 0/255"
        )
    if _has_middle_levels(levels, mask):
        raise ImageError(
            f"{name}: the mask has gray areas, so it is a probability map or has more than two "
            "classes; cut it and save it as 0/255"
        )
    return mask


def _has_middle_levels(levels: np.ndarray, mask: np.ndarray) -> bool:
    """Whether grays lie beyond the reach of an edge between lesion and skin."""
    middle = (levels >= _MIDDLE[0]) & (levels <= _MIDDLE[1])
    if not middle.any():
        return False
    side = 2 * _EDGE_PX + 1
    kernel = np.ones((side, side), np.uint8)
    inside = mask.astype(np.uint8)
    near_edge = cv2.dilate(inside, kernel) != cv2.erode(inside, kernel)
    return bool((middle & ~near_edge).any())


def _refuse_inverted(mask: np.ndarray, name: str) -> None:
    border = (mask[0], mask[-1], mask[:, 0], mask[:, -1])
    if not mask.all() and all(side.all() for side in border):
        raise ImageError(
            f"{name}: the whole border of the mask is lesion and something inside is not, so it "
            "looks inverted; white must be the lesion, black the skin"
        )


def _fit(mask: np.ndarray, shape: tuple[int, int], *, resize: bool, name: str) -> np.ndarray:
    height, width = mask.shape
    if (height, width) == tuple(shape):
        return mask
    what = f"{name}: the mask is {width} x {height} pixels but its image {shape[1]} x {shape[0]}"
    if (height > width) != (shape[0] > shape[1]) and abs(
        height * shape[0] / (width * shape[1]) - 1
    ) < 0.02:
        raise ImageError(
            f"{what}. It seems to be drawn on the image before its EXIF orientation was applied; "
            "turn the mask"
        )
    if not resize:
        raise ImageError(f"{what}; give masks of the same size (in Python, resize=True)")
    resized = cv2.resize(
        mask.astype(np.uint8), (shape[1], shape[0]), interpolation=cv2.INTER_NEAREST_EXACT
    )
    return np.asarray(resized, dtype=bool)
