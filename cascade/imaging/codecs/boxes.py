"""The boxes of which HEIC, AVIF, JPEG 2000 and JPEG XL files are made (ISO/IEC 14496-12, 4.2)."""

from __future__ import annotations

import struct
from collections.abc import Iterator

CODED_COLOURS = (
    "the file states HDR or wide-gamut colours by a number, not by a profile; they were taken as "
    "sRGB and may look pale"
)
_MOST_BOXES = 100_000
_WIDE_PRIMARIES = (9, 11, 12)  # BT.2020, DCI P3, Display P3 in ITU-T H.273
_HDR_TRANSFER = (16, 18)  # PQ, HLG


def iter_boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Kind and content of each box, one level deep.

    Raises:
        ValueError: a box ends before its head or after the data.
    """
    position = 0
    for _ in range(_MOST_BOXES):
        if position >= len(data):
            return
        size, kind = struct.unpack_from(">I4s", data, position)
        start = position + 8
        if size == 1:
            (size,) = struct.unpack_from(">Q", data, start)
            start += 8
        end = position + size if size else len(data)
        if not start <= end <= len(data):
            raise ValueError(f"the box {kind!r} does not fit into the file")
        yield kind, data[start:end]
        position = end
    raise ValueError(f"more than {_MOST_BOXES} boxes")


def find_box(data: bytes, *path: bytes) -> bytes | None:
    """Content of the first box at ``path``, such as ``(b"jp2h", b"ihdr")``."""
    content: bytes | None = data
    for wanted in path:
        content = next(
            (inner for kind, inner in iter_boxes(content or b"") if kind == wanted), None
        )
        if content is None:
            return None
    return content


def coded_colour_warnings(data: bytes) -> tuple[str, ...]:
    """Say so when a HEIC or AVIF file has HDR or wide-gamut colours without a profile."""
    meta = find_box(data, b"meta") or b""
    properties = find_box(meta[4:], b"iprp", b"ipco") or b""
    colours = [inner for kind, inner in iter_boxes(properties) if kind == b"colr"]
    if any(inner[:4] in (b"prof", b"rICC") for inner in colours):
        return ()
    for inner in colours:
        if inner[:4] == b"nclx" and len(inner) >= 8:
            primaries, transfer = struct.unpack_from(">HH", inner, 4)
            if primaries in _WIDE_PRIMARIES or transfer in _HDR_TRANSFER:
                return (CODED_COLOURS,)
    return ()
