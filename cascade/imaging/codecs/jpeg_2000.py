"""What Pillow's JPEG 2000 plugin leaves out: the size of the code stream, and the ICC profile."""

from __future__ import annotations

import struct

from cascade.imaging.codecs.boxes import find_box

START = b"\xff\x4f\xff\x51"
"""First bytes of a code stream: SOC and SIZ markers."""


def stream_shape(stream: bytes, start: int = 0) -> tuple[int, int] | None:
    """``(H, W)`` as the code stream at ``start`` states it (ISO/IEC 15444-1, A.5.1).

    Returns:
        The shape; ``None`` where no image of one to four components starts there.
    """
    if stream[start : start + len(START)] != START:
        return None
    right, bottom, left, top = struct.unpack_from(">4I", stream, start + 8)
    (components,) = struct.unpack_from(">H", stream, start + 40)
    return (bottom - top, right - left) if 1 <= components <= 4 else None


def file_stream_shape(data: bytes) -> tuple[int, int] | None:
    """The same of a whole file, with or without boxes around the code stream."""
    if data.startswith(START):
        return stream_shape(data)
    return stream_shape(find_box(data, b"jp2c") or b"")


def embedded_profile(data: bytes) -> bytes | None:
    """The ICC profile of a file with boxes; Pillow's plugin does not read it."""
    if data.startswith(START):
        return None
    colours = find_box(data, b"jp2h", b"colr") or b""
    return colours[3:] if colours[:1] in (b"\x02", b"\x03") else None
