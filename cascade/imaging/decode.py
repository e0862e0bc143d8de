"""One encoded image to pixels, by the decoder that is strict about its format."""

from __future__ import annotations

import io
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image, ImageFile, PngImagePlugin, WebPImagePlugin

from cascade.errors import ImageError
from cascade.imaging.codecs.dicom import decode_dicom
from cascade.imaging.codecs.heif import decode_heif
from cascade.imaging.codecs.jpeg import decode_jpeg
from cascade.imaging.codecs.jpeg_2000 import embedded_profile
from cascade.imaging.codecs.jpeg_xl import decode_jxl
from cascade.imaging.damage import decoding
from cascade.imaging.header import Header, open_pillow, read_png
from cascade.imaging.limits import ImageLimits
from cascade.imaging.orientation import displayed_shape

MANY_FRAMES = "holds several frames or pages; only the first is used"


@dataclass(frozen=True, eq=False)
class Decoded:
    """Pixels as the file holds them, before orientation and colour.

    Attributes:
        content: a loaded Pillow image, or ``(H, W)`` gray, ``(H, W, 3)`` RGB, ``(H, W, 4)`` RGBA
            of uint8 or uint16.
        profile: embedded ICC profile.
        oriented: the orientation is applied already.
        warnings: in words.
    """

    content: np.ndarray | Image.Image
    profile: bytes | None = None
    oriented: bool = False
    warnings: tuple[str, ...] = ()


def decode(
    data: bytes,
    header: Header,
    *,
    limits: ImageLimits,
    name: str,
    short_side: int | None = None,
) -> Decoded:
    """Decode a whole file whose header has passed the limits.

    Raises:
        ImageError: the file is damaged, or not of the size that its header said.
    """
    with decoding(name):
        if header.kind == "jpeg_xl":
            content, profile = decode_jxl(data, name)
            if isinstance(content, np.ndarray):
                shown = displayed_shape(header.stored_shape, header.orientation)
                _check_shape(content.shape, shown, name)
                return Decoded(content, profile, oriented=True)
            data = content  # the JPEG that it was made from
        if header.kind in ("jpeg", "jpeg_xl"):
            return _decode_jpeg(data, header, limits=limits, name=name, short_side=short_side)
        if header.kind == "dicom":
            return Decoded(*decode_dicom(data, name))
        if header.kind == "heic":
            return _decode_heif(data, header, name)
        if header.kind == "png":
            read_png(io.BytesIO(data), name, verify=True)
            if header.deep:
                return _decode_deep_png(data, header, name)
        return _decode_pillow(data, header, name)


def _decode_jpeg(
    data: bytes, header: Header, *, limits: ImageLimits, name: str, short_side: int | None
) -> Decoded:
    profile = open_pillow(io.BytesIO(data), "jpeg").info.get("icc_profile")
    pixels, warnings = decode_jpeg(
        data,
        header.stored_shape,
        limits=limits,
        name=name,
        gray=profile is not None,
        short_side=short_side,
    )
    if pixels.ndim == 3 and pixels.shape[2] == 4:
        size = pixels.shape[1], pixels.shape[0]
        # Adobe stores ink as 255 - ink, and everyone follows
        image = Image.frombytes("CMYK", size, pixels.tobytes(), "raw", "CMYK;I")
        return Decoded(image, profile, warnings=warnings)
    return Decoded(pixels, profile, warnings=warnings)


def _decode_heif(data: bytes, header: Header, name: str) -> Decoded:
    content, profile, count = decode_heif(data, name)
    size = content.size[::-1] if isinstance(content, Image.Image) else content.shape[:2]
    _check_shape(size, header.stored_shape, name)
    return Decoded(content, profile, warnings=(MANY_FRAMES,) if count > 1 else ())


def _check_shape(shape: tuple[int, ...], expected: tuple[int, int], name: str) -> None:
    if shape[:2] != expected:
        raise ImageError(f"{name}: is damaged, its size is not what its header says")


def _decode_deep_png(data: bytes, header: Header, name: str) -> Decoded:
    # Pillow drops the low byte of 16-bit colours
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.dtype != np.uint16:
        raise ImageError(f"{name}: is a damaged PNG")
    if pixels.shape[:2] != header.stored_shape:
        raise ImageError(f"{name}: is a damaged PNG, its size is not what its header says")
    if pixels.ndim == 3:
        blue = pixels[..., 0].copy()  # swapped in place: these images are large
        pixels[..., 0] = pixels[..., 2]
        pixels[..., 2] = blue
    profile = PngImagePlugin.PngImageFile(io.BytesIO(data)).info.get("icc_profile")
    return Decoded(pixels, profile)


def _decode_pillow(data: bytes, header: Header, name: str) -> Decoded:
    file = io.BytesIO(data)
    image: ImageFile.ImageFile
    if header.kind == "png":
        image = PngImagePlugin.PngImageFile(file)
    elif header.kind == "webp":
        image = WebPImagePlugin.WebPImageFile(file)
    else:
        image = open_pillow(file, header.kind)
    warnings: tuple[str, ...] = ()
    if header.kind != "png" and getattr(image, "is_animated", False):
        warnings = (MANY_FRAMES,)
    image.info.pop("xmp", None)  # Pillow would turn a TIFF by it, see orientation.py
    image.load()
    profile = image.info.get("icc_profile")
    if header.kind == "jpeg_2000":
        profile = embedded_profile(data)
    height, width = header.stored_shape
    if sorted(image.size) != sorted((height, width)):
        raise ImageError(f"{name}: is damaged, its size is not what its header says")
    return Decoded(image, profile, oriented=header.kind == "tiff", warnings=warnings)
