"""JPEG XL, behind the extra ``jxl``.

libjxl turns the image as its code stream says; an EXIF block is ignored, as ISO/IEC 18181-2 asks.
Size and orientation are read here by hand, because the library decodes all pixels to tell them.
"""

from __future__ import annotations

import numpy as np

from cascade.errors import ImageError, MissingExtraError
from cascade.imaging.codecs.boxes import iter_boxes

START = b"\xff\x0a"
_HEAD_BYTES = 64
_RATIOS = {1: (1, 1), 2: (12, 10), 3: (4, 3), 4: (3, 2), 5: (16, 9), 6: (5, 4), 7: (2, 1)}
_CHANNELS = {"L": 1, "LA": 2, "RGB": 3, "RGBA": 4}


class _Bits:
    """Numbers of any count of bits, the lowest bit first (ISO/IEC 18181-1, B.2)."""

    def __init__(self, data: bytes) -> None:
        self._value = int.from_bytes(data, "little")
        self._left = 8 * len(data)

    def take(self, count: int) -> int:
        self._left -= count
        if self._left < 0:
            raise ValueError("the header is cut off")
        result = self._value & ((1 << count) - 1)
        self._value >>= count
        return result


def read_jxl_header(data: bytes) -> tuple[tuple[int, int], int]:
    """``(H, W)`` as stored, and the orientation 1 to 8, of a whole file.

    Raises:
        ValueError: the header is cut off.
    """
    stream = data if data.startswith(START) else _joined_stream(data)
    if not stream.startswith(START):
        raise ValueError("the code stream is missing")
    bits = _Bits(stream[len(START) : _HEAD_BYTES])
    small = bool(bits.take(1))
    height = _side(bits, small)
    ratio = bits.take(3)
    width = height * _RATIOS[ratio][0] // _RATIOS[ratio][1] if ratio else _side(bits, small)
    plain = bits.take(1)
    orientation = 1 + bits.take(3) if not plain and bits.take(1) else 1
    return (height, width), orientation


def _side(bits: _Bits, small: bool) -> int:
    if small:
        return 8 * (1 + bits.take(5))
    return 1 + bits.take((9, 13, 18, 30)[bits.take(2)])


def _joined_stream(data: bytes) -> bytes:
    """The code stream's start; it may be cut into boxes that each begin with a number."""
    stream = b""
    for kind, content in iter_boxes(data):
        if kind == b"jxlc":
            return content
        if kind == b"jxlp":
            stream += content[4:]
            if len(stream) >= _HEAD_BYTES:
                break
    return stream


def decode_jxl(data: bytes, name: str) -> tuple[np.ndarray | bytes, bytes | None]:
    """Decode a file whose size has passed the limits.

    Returns:
        ``(H, W)``, ``(H, W, 3)`` or ``(H, W, 4)`` uint8 or uint16 as displayed, or the bytes of
        the JPEG from which the file was made without loss; and the ICC profile.

    Raises:
        ImageError: the file is damaged, or its pixels are floats.
        MissingExtraError: pillow-jxl-plugin is not installed.
    """
    try:
        from pillow_jxl import Decoder
    except ImportError as error:
        raise MissingExtraError(
            f"{name}: reading JPEG XL needs more packages; run: pip install 'cascade[jxl]'"
        ) from error
    try:
        is_jpeg, info, content, profile, _ = Decoder(num_threads=1)(data)
    except RuntimeError as error:  # its message speaks to those who built libjxl
        raise ImageError(f"{name}: is a damaged or cut JPEG XL file") from error
    if is_jpeg:
        return bytes(content), None
    return _to_array(bytes(content), info, name), profile


def _to_array(content: bytes, info: object, name: str) -> np.ndarray:
    mode = str(info.mode)  # type: ignore[attr-defined]
    width, height = int(info.width), int(info.height)  # type: ignore[attr-defined]
    kind, _, _ = mode.partition(";")
    channels = 1 if kind == "I" else _CHANNELS.get(kind)
    if channels is None:
        raise ImageError(f"{name}: holds pixels of the kind {mode}; export it with 8 or 16 bits")
    depth = np.uint16 if len(content) == 2 * width * height * channels else np.uint8
    shape = (height, width, channels) if channels > 1 else (height, width)
    pixels = np.frombuffer(content, depth).reshape(shape)
    if channels == 2:  # gray with transparency
        pixels = np.dstack([pixels[..., :1]] * 3 + [pixels[..., 1:]])
    return pixels
