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


def _s15(values):
    return b"".join(struct.pack(">i", round(value * 65536)) for value in values)


def make_profile(primaries, *, space=b"RGB "):
    """A small ICC profile: three D50 primaries (rows R, G, B) and the sRGB curve."""
    numbers = _s15((2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045))
    curve = b"para" + bytes(4) + struct.pack(">HH", 3, 0) + numbers
    tags = {b"wtpt": b"XYZ " + bytes(4) + _s15((0.9642, 1.0, 0.8249))}
    for letter, xyz in zip((b"r", b"g", b"b"), primaries, strict=True):
        tags[letter + b"XYZ"] = b"XYZ " + bytes(4) + _s15(xyz)
        tags[letter + b"TRC"] = curve
    table, body = struct.pack(">I", len(tags)), b""
    start = 128 + 4 + 12 * len(tags)
    for tag, value in tags.items():
        table += tag + struct.pack(">II", start + len(body), len(value))
        body += value
    kinds = (0, b"", 0x04000000, b"mntr", space, b"XYZ ", bytes(12), b"acsp", b"")
    head = struct.pack(">I4sI4s4s4s12s4s4sIIIII", *kinds, *[0] * 5)
    head += _s15((0.9642, 1.0, 0.8249))
    profile = head.ljust(128, b"\0") + table + body
    return struct.pack(">I", len(profile)) + profile[4:]


P3 = np.array(
    [(0.51512, 0.2412, -0.00105), (0.29198, 0.69225, 0.04189), (0.1571, 0.06657, 0.78407)]
)
SRGB = np.array(
    [(0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.7141)]
)


def p3_to_srgb(pixels):
    """The same conversion from the definition: curve, matrices, curve."""
    encoded = pixels / 255
    linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    other = np.clip(linear @ P3 @ np.linalg.inv(SRGB), 0, 1)
    curved = np.where(other <= 0.0031308, other * 12.92, 1.055 * other ** (1 / 2.4) - 0.055)
    return 255 * curved
