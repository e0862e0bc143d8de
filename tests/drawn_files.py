"""Images and their files, drawn and encoded by hand where a library would not write them."""

import io
import struct
import zlib

import numpy as np
from PIL import Image


def scene(height=96, width=128):
    """A smooth RGB image without symmetry."""
    rows, columns = np.mgrid[:height, :width]
    red = 255 * columns / width
    green = 255 * rows / height
    blue = 127 + 100 * np.sin(columns / 9) * np.cos(rows / 7)
    return np.rint(np.dstack([red, green, blue])).astype(np.uint8)


def encode(pixels, kind, **options):
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(kind, payload):
    return (
        struct.pack(">I", len(payload))
        + kind
        + payload
        + struct.pack(">I", zlib.crc32(kind + payload))
    )


def png(width, height, *, bits=8, colour=0, data=b""):
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    return b"".join(
        [
            b"\x89PNG\r\n\x1a\n",
            chunk(b"IHDR", header),
            chunk(b"IDAT", data),
            chunk(b"IEND", b""),
        ]
    )


def lab_by_hand(pixels):
    """``(N, 3)`` uint8 sRGB to CIELAB under D65, from the definitions."""
    srgb = pixels / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    matrix = [
        [0.412453, 0.357580, 0.180423],
        [0.212671, 0.715160, 0.072169],
        [0.019334, 0.119193, 0.950227],
    ]
    ratio = linear @ np.array(matrix).T / [0.950456, 1.0, 1.088754]
    f = np.where(ratio > (6 / 29) ** 3, np.cbrt(ratio), ratio / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.stack(
        [116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], axis=1
    )
