"""Images and their files, drawn and encoded by hand where a library would not write them."""

from __future__ import annotations

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
