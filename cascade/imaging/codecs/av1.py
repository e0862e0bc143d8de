"""What libavif does not compare: the size that the AV1 stream of an AVIF file states itself.

libavif decodes a stream of up to 16,384 pixels a side and scales it to the size in the file's
boxes, so that a small header can hide a picture of 268 megapixels.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from cascade.imaging.codecs.boxes import find_box, iter_boxes

_SEQUENCE_HEADER = 1
_MOST = 1000
"""Parts of images in a file, and units in a stream: a bound of the time that this takes."""


class _Bits:
    """Reads big-endian bits."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0

    def __call__(self, count: int) -> int:
        start, self._position = self._position, self._position + count
        end = -(-self._position // 8)
        if end > len(self._data):
            raise ValueError("a table or sequence header is cut off")
        value = int.from_bytes(self._data[start // 8 : end], "big")
        return value >> (8 * end - self._position) & ((1 << count) - 1)


def largest_stream(data: bytes) -> int:
    """Pixels of the largest AV1 stream of an AVIF file: its images, and the first of each track.

    Returns:
        The number of pixels; 0 where no stream was found.

    Raises:
        ValueError: the boxes or a stream are damaged.
    """
    streams = itertools.chain(_images(data), _first_of_tracks(data))
    return max(map(stream_pixels, streams), default=0)


def stream_pixels(stream: bytes) -> int:
    """Pixels of the largest sequence header of a stream (AV1 specification, 5.3 and 5.5)."""
    position = largest = 0
    for _ in range(_MOST):
        if position >= len(stream):
            return largest
        head = stream[position]
        position += 1 + (head >> 2 & 1)
        size = len(stream) - position
        if head >> 1 & 1:
            size, position = _leb128(stream, position)
        if head >> 3 & 15 == _SEQUENCE_HEADER:
            largest = max(largest, _sequence_pixels(_Bits(stream[position : position + size])))
        position += size
    raise ValueError(f"an AV1 stream of more than {_MOST} units")


def _leb128(data: bytes, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(8):
        if position >= len(data):
            break
        byte = data[position]
        position += 1
        value |= (byte & 127) << 7 * shift
        if not byte & 128:
            return value, position
    raise ValueError("a length in the AV1 stream is damaged")


def _sequence_pixels(bits: _Bits) -> int:
    bits(3 + 1)  # profile, still picture
    if bits(1):  # reduced header
        bits(5)
    else:
        model = _skip_timing(bits)
        delays = bits(1)
        for _ in range(bits(5) + 1):
            bits(12)
            if bits(5) > 7:
                bits(1)
            if model and bits(1):
                bits(2 * model + 1)
            if delays and bits(1):
                bits(4)
    wide, high = bits(4) + 1, bits(4) + 1
    return (bits(wide) + 1) * (bits(high) + 1)


def _skip_timing(bits: _Bits) -> int:
    """Pass over the timing information; returns the bits of a delay, 0 without a model."""
    if not bits(1):
        return 0
    bits(64)
    if bits(1):  # a number of variable length
        zeros = 0
        while not bits(1):
            zeros += 1
        bits(zeros if zeros < 32 else 0)
    if not bits(1):
        return 0
    delay = bits(5) + 1
    bits(32 + 5 + 5)
    return delay


def _images(data: bytes) -> Iterator[bytes]:
    """The stream of each AV1 image (ISO/IEC 14496-12, 8.11.3 and 8.11.6)."""
    meta = (find_box(data, b"meta") or b"")[4:]
    kinds = dict(_kinds(find_box(meta, b"iinf") or b""))
    inside = find_box(meta, b"idat") or b""
    table = _Bits(find_box(meta, b"iloc") or bytes(8))
    version = table(8)
    table(24)
    offset_size, length_size, base_size, index_size = (8 * table(4) for _ in range(4))
    long = 32 if version == 2 else 16
    found = 0
    for _ in range(table(long)):
        item = table(long)
        source = inside if version and table(16) & 15 == 1 else data
        table(16)
        base = table(base_size)
        parts = []
        count = table(16)
        found += count
        if found > _MOST:
            raise ValueError(f"images in more than {_MOST} parts")
        for _ in range(count):
            table(index_size if version else 0)
            offset, length = base + table(offset_size), table(length_size)
            parts.append((offset, offset + length if length else len(source)))
        if kinds.get(item) == b"av01":
            if sum(end - start for start, end in parts) > len(source):
                raise ValueError("the parts of an image overlap or lie outside the file")
            yield b"".join(source[start:end] for start, end in parts)


def _kinds(content: bytes) -> Iterator[tuple[int, bytes]]:
    """Number and kind of each item."""
    for kind, entry in iter_boxes(content[6 if content[:1] == b"\0" else 8 :]):
        if kind == b"infe" and entry[:1] in (b"\2", b"\3"):
            end = 6 if entry[:1] == b"\2" else 8
            yield int.from_bytes(entry[4:end], "big"), entry[end + 2 : end + 6]


def _first_of_tracks(data: bytes) -> Iterator[bytes]:
    """The first sample of each track, which is decoded of a sequence (8.7.3 and 8.7.5)."""
    for kind, track in iter_boxes(find_box(data, b"moov") or b""):
        table = find_box(track, b"mdia", b"minf", b"stbl") if kind == b"trak" else None
        sizes, places = (find_box(table or b"", name) or b"" for name in (b"stsz", b"stco"))
        if len(sizes) < 12 or len(places) < 12:
            continue
        size = int.from_bytes(sizes[4:8], "big") or int.from_bytes(sizes[12:16], "big")
        start = int.from_bytes(places[8:12], "big")
        yield data[start : start + size]
