"""What a file's header says: format, size and orientation, without decoding a pixel."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    ImageFile,
    Jpeg2KImagePlugin,
    JpegImagePlugin,
    TiffImagePlugin,
)

from cascade.errors import ImageError
from cascade.imaging.codecs.av1 import largest_stream
from cascade.imaging.codecs.boxes import coded_colour_warnings
from cascade.imaging.codecs.dicom import read_dicom_shape
from cascade.imaging.codecs.heif import read_heif_shape
from cascade.imaging.codecs.jpeg_2000 import file_stream_shape
from cascade.imaging.codecs.jpeg_xl import read_jxl_header
from cascade.imaging.damage import decoding
from cascade.imaging.formats import HEAD_BYTES, identify
from cascade.imaging.orientation import exif_orientation, stored_orientation

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_MOST_CHUNKS = 200_000
_MOST_OF_BOX = 2
"""Times the pixels of its box that an AV1 stream may have: parts of a grid may stand out."""
_EXIF = ("jpeg", "avif")  # of AVIF, Pillow puts what its own boxes say into the EXIF block
_PLUGINS: dict[str, type[ImageFile.ImageFile]] = {
    # the plugin classes are called directly: Image.open would warn or raise by its own global
    # limit, and would try formats that are not on our list
    "jpeg": JpegImagePlugin.JpegImageFile,
    "gif": GifImagePlugin.GifImageFile,
    "bmp": BmpImagePlugin.BmpImageFile,
    "tiff": TiffImagePlugin.TiffImageFile,
    "avif": AvifImagePlugin.AvifImageFile,
    "jpeg_2000": Jpeg2KImagePlugin.Jpeg2KImageFile,
}


@dataclass(frozen=True)
class Header:
    """What is known before decoding.

    Attributes:
        kind: one of the values of :data:`cascade.imaging.formats.SUFFIXES`.
        stored_shape: ``(H, W)`` as stored; of HEIC, which no decoder gives unturned, as displayed.
        orientation: 1..8, as EXIF numbers them.
        deep: a PNG of 16 bits per channel.
        warnings: what is odd about the header.
    """

    kind: str
    stored_shape: tuple[int, int]
    orientation: int = 1
    deep: bool = False
    warnings: tuple[str, ...] = ()


def read_header(file: BinaryIO, name: str) -> Header:
    """Read format, size and orientation from an open binary file.

    Raises:
        ImageError: the file is no image of a known format, or its header is damaged.
    """
    kind = identify(file.read(HEAD_BYTES), name)
    file.seek(0)
    with decoding(name):
        header = _read(file, kind, name)
    if min(header.stored_shape) < 1:
        raise ImageError(f"{name}: is damaged, its header says {header.stored_shape} pixels")
    return header


def _read(file: BinaryIO, kind: str, name: str) -> Header:
    if kind == "png":
        return read_png(file, name, verify=False)
    if kind == "webp":
        return _read_webp(file, name)
    if kind in ("dicom", "heic", "jpeg_xl"):
        return _read_whole(file.read(), kind, name)
    image = open_pillow(file, kind)
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return _tiff_header(image, name)
    shape = image.height, image.width
    if kind == "jpeg_2000":
        file.seek(0)
        if file_stream_shape(file.read()) != shape:
            raise ImageError(f"{name}: is damaged, its two headers differ")
    orientation, warnings = stored_orientation(image.info) if kind in _EXIF else (1, ())
    if kind == "avif":
        file.seek(0)
        warnings += _check_avif(file.read(), shape, name)
    return Header(kind, shape, orientation, warnings=warnings)


def _check_avif(data: bytes, shape: tuple[int, int], name: str) -> tuple[str, ...]:
    """Refuse what libavif would shrink to ``shape``; returns warnings of the colours."""
    if largest_stream(data) > _MOST_OF_BOX * shape[0] * shape[1]:
        raise ImageError(f"{name}: is damaged, its two headers differ")
    return coded_colour_warnings(data)


def _read_whole(data: bytes, kind: str, name: str) -> Header:
    """Of formats whose header may lie anywhere in the file."""
    if kind == "dicom":
        return Header(kind, read_dicom_shape(data, name))
    if kind == "heic":
        shape = read_heif_shape(data, name)
        return Header(kind, shape, warnings=coded_colour_warnings(data))
    shape, orientation = read_jxl_header(data)
    return Header(kind, shape, orientation)


def open_pillow(file: BinaryIO, kind: str) -> ImageFile.ImageFile:
    """Open a file with one Pillow plugin; nothing is decoded yet."""
    return _PLUGINS[kind](file)


def _tiff_header(image: TiffImagePlugin.TiffImageFile, name: str) -> Header:
    tags = image.tag_v2
    if 50706 in tags:
        raise ImageError(f"{name}: is a raw camera file (DNG); export it as JPEG or PNG")
    orientation = tags.get(274, 1)
    warnings: tuple[str, ...] = ()
    if orientation not in range(1, 9):
        warnings = (f"orientation {orientation!r} is unknown; taken as 1",) if orientation else ()
        orientation = 1
    return Header("tiff", (int(tags[257]), int(tags[256])), orientation, warnings=warnings)


def read_png(file: BinaryIO, name: str, *, verify: bool) -> Header:
    """Walk the chunks of a PNG, which may hold their EXIF anywhere.

    Args:
        file: the open file, at its start.
        name: for messages.
        verify: also check the checksum of each chunk, which the decoders leave out for pixels.

    Raises:
        ImageError: the file is cut, or with ``verify`` a checksum is wrong.
    """
    file.seek(len(PNG_SIGNATURE))
    start = b""
    orientation = 1
    warnings: tuple[str, ...] = ()
    for index, (kind, payload) in enumerate(_png_chunks(file, name, verify=verify)):
        if index == 0:
            if kind != b"IHDR" or len(payload) != 13:
                raise ImageError(f"{name}: is damaged, the PNG header is missing")
            start = payload
        elif kind == b"eXIf":
            orientation, warnings = exif_orientation(payload)
        elif kind == b"acTL":
            warnings += ("holds several frames or pages; only the first is used",)
    width, height, bits = struct.unpack(">IIB", start[:9])
    return Header("png", (height, width), orientation, bits == 16, warnings)


def _png_chunks(file: BinaryIO, name: str, *, verify: bool) -> Iterator[tuple[bytes, bytes]]:
    wanted = (b"IHDR", b"eXIf")
    for _ in range(_MOST_CHUNKS):
        head = file.read(8)
        if len(head) < 8:
            raise ImageError(f"{name}: is cut off, the end of the PNG is missing")
        length, kind = struct.unpack(">I4s", head)
        payload = b""
        if verify or (kind in wanted and length < 10_000_000):
            payload, checksum = file.read(length), file.read(4)
            if len(checksum) < 4:
                raise ImageError(f"{name}: is cut off inside its {kind!r} chunk")
            if zlib.crc32(payload, zlib.crc32(kind)) != int.from_bytes(checksum, "big"):
                raise ImageError(f"{name}: is damaged, a checksum of the PNG is wrong")
        else:
            file.seek(length + 4, 1)
        yield kind, payload if kind in wanted else b""
        if kind == b"IEND":
            return
    raise ImageError(f"{name}: is damaged, the PNG has more than {_MOST_CHUNKS} chunks")


def _read_webp(file: BinaryIO, name: str) -> Header:
    # by hand, because Pillow's plugin allocates the canvas before anyone can ask for its size
    file.seek(12)
    shape, orientation = None, 1
    warnings: tuple[str, ...] = ()
    for _ in range(_MOST_CHUNKS):
        head = file.read(8)
        if len(head) < 8:
            break
        kind, length = struct.unpack("<4sI", head)
        start = file.read(min(length, 10))
        if shape is None:
            shape = _webp_shape(kind, start)
        if kind == b"EXIF" and length < 10_000_000:
            orientation, warnings = exif_orientation(start + file.read(length - len(start)))
            start = b"\x00" * length
        file.seek(length - len(start) + length % 2, 1)
    if shape is None:
        raise ImageError(f"{name}: is damaged, the WebP header is missing")
    return Header("webp", shape, orientation, warnings=warnings)


def _webp_shape(kind: bytes, start: bytes) -> tuple[int, int] | None:
    if kind == b"VP8X" and len(start) == 10:
        width, height = int.from_bytes(start[4:7], "little"), int.from_bytes(start[7:10], "little")
        return height + 1, width + 1
    if kind == b"VP8L" and len(start) >= 5:
        bits = int.from_bytes(start[1:5], "little")
        return (bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1
    if kind == b"VP8 " and len(start) == 10:
        width, height = struct.unpack("<HH", start[6:10])
        return height & 0x3FFF, width & 0x3FFF
    return None
