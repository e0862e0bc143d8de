"""Masks that are written as numbers: polygons and the run lengths of COCO, Kaggle, Label Studio.

Those of COCO and Label Studio are also written here.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cascade.errors import DataError
from cascade.imaging.run_lengths import mask_from_run_lengths, run_lengths

_BRUSH_WIDTHS = (3, 4, 8, 16)
"""Bits of a run's length that a brush may choose from, as Label Studio's own converter has them."""
_OPACITY_BITS = 8

Shape = tuple[int, int]
"""``(H, W)`` in pixels."""


def polygon_mask(points: np.ndarray, shape: Shape) -> np.ndarray:
    """The pixels whose centre lies within a polygon, by the even-odd rule.

    Args:
        points: ``(N, 2)`` float, x and y from the left upper corner of the image; pixel ``i`` lies
            between ``i`` and ``i + 1``.
        shape: ``(H, W)`` of the mask; what lies outside is cut off.

    Returns:
        ``(H, W)`` bool.

    Raises:
        DataError: there are fewer than three points, or one is not finite.
    """
    if points.ndim != 2 or points.shape[1:] != (2,) or len(points) < 3:
        raise DataError("a polygon has at least three points of x and y")
    if not np.isfinite(points).all():
        raise DataError("a polygon has a point that is not a number")
    (x, y), (next_x, next_y) = points.T, np.roll(points, -1, axis=0).T
    mask = np.zeros(shape, bool)
    first, last = np.clip([np.floor(y.min()), np.ceil(y.max())], 0, shape[0]).astype(int)
    for row in range(first, last):
        middle = row + 0.5
        cut = (y <= middle) != (next_y <= middle)
        share = (middle - y[cut]) / (next_y[cut] - y[cut])
        at = np.sort(x[cut] + share * (next_x[cut] - x[cut]))
        borders = np.ceil(np.clip(at, 0, shape[1]) - 0.5).astype(int)
        for start, end in zip(borders[::2], borders[1::2], strict=True):
            mask[row, start:end] = True
    return mask


def coco_counts(text: str) -> list[int]:
    """The run lengths of COCO's compressed ``counts``.

    Raises:
        DataError: the text is cut off or holds other characters.
    """
    counts: list[int] = []
    value = bits = 0
    for letter in text:
        code = ord(letter) - 48
        if not 0 <= code < 64 or bits > 35:
            raise DataError("its counts are not those of COCO")
        value |= (code & 0x1F) << bits
        bits += 5
        if code & 0x20:  # the number goes on
            continue
        if code & 0x10:
            value -= 1 << bits
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
        value = bits = 0
    if bits:
        raise DataError("its counts are cut off")
    return counts


def coco_text(counts: Sequence[int]) -> str:
    """The compressed ``counts`` of run lengths, the inverse of :func:`coco_counts`."""
    letters = []
    for place, count in enumerate(counts):
        value, more = int(count) - (int(counts[place - 2]) if place > 2 else 0), True
        while more:
            code, value = value & 0x1F, value >> 5
            more = value != (-1 if code & 0x10 else 0)
            letters.append(chr(code + (0x20 if more else 0) + 48))
    return "".join(letters)


def coco_mask(counts: str | Sequence[int], shape: Shape) -> np.ndarray:
    """The ``(H, W)`` bool mask of COCO's ``counts``, compressed or not.

    Raises:
        DataError: the counts are none or do not fill the shape.
    """
    try:
        lengths = coco_counts(counts) if isinstance(counts, str) else [int(n) for n in counts]
    except DataError:
        raise
    except (TypeError, ValueError) as error:
        raise DataError("its counts are not whole numbers") from error
    if any(not 0 <= length <= shape[0] * shape[1] for length in lengths):
        raise DataError(f"its counts do not fit {shape[1]} x {shape[0]} pixels")
    return mask_from_run_lengths(lengths, shape)


def pairs_mask(numbers: Sequence[int], shape: Shape) -> np.ndarray:
    """The mask of pairs of start and length, as on Kaggle: pixel 1 first, column by column.

    Raises:
        DataError: the runs overlap or leave the image, or the mask makes much more sense when it
            is read row by row, so that the order would be a guess.
    """
    starts, lengths = np.asarray(numbers[::2], np.int64) - 1, np.asarray(numbers[1::2], np.int64)
    if len(starts) != len(lengths):
        raise DataError("run lengths are pairs of start and length, but their number is odd")
    ends, size = starts + lengths, shape[0] * shape[1]
    order = np.argsort(starts, kind="stable")
    starts, ends = starts[order], ends[order]
    inside = starts.size and starts[0] >= 0 and ends.max() <= size and (lengths > 0).all()
    if starts.size and (not inside or (starts[1:] < ends[:-1]).any()):
        raise DataError(
            f"its runs overlap or leave the image of {shape[1]} x {shape[0]} pixels; expected "
            "pairs of start and length, pixel 1 first, column by column"
        )
    flat = np.zeros(size, bool)
    for start, end in zip(starts, ends, strict=True):
        flat[start:end] = True
    by_columns, by_rows = flat.reshape(shape[1], shape[0]).T, flat.reshape(shape)
    if 2 * _border(by_rows) < _border(by_columns):
        raise DataError(
            "its runs may go column by column, as on Kaggle, or row by row, which gives a mask "
            "with far less border; write them as COCO's size and counts, or save masks as PNG"
        )
    return by_columns


def _border(mask: np.ndarray) -> int:
    """How many neighbouring pixels differ."""
    down, right = mask[1:] != mask[:-1], mask[:, 1:] != mask[:, :-1]
    return int(np.count_nonzero(down) + np.count_nonzero(right))


def brush_mask(code: Sequence[int], shape: Shape) -> np.ndarray:
    """The mask of Label Studio's brush: the opacity of a picture in its own run lengths.

    Args:
        code: the bytes, each from 0 to 255.
        shape: ``(H, W)`` of the mask.

    Raises:
        DataError: the code is damaged or of another shape.
    """
    size = 4 * shape[0] * shape[1]
    try:
        bits = _Bits(bytes(code))
        count, word = bits.read(32), bits.read(5) + 1
        widths = [bits.read(4) + 1 for _ in range(4)]
        if count != size:
            raise ValueError(f"it covers {count // 4} pixels, not {size // 4}")
        values, place = np.zeros(size, np.uint8), 0
        while place < size:
            repeated = bits.read(1)
            end = place + 1 + bits.read(widths[bits.read(2)])
            if end > size:
                raise ValueError("a run leaves the image")
            if repeated:
                values[place:end] = bits.read(word) & 255
            else:
                values[place:end] = [bits.read(word) & 255 for _ in range(end - place)]
            place = end
    except (TypeError, ValueError, IndexError) as error:
        raise DataError(f"its brush cannot be read ({error})") from error
    return np.asarray(values.reshape(*shape, 4)[..., 3] > 127)


def brush_code(mask: np.ndarray) -> list[int]:
    """The bytes of Label Studio's brush, the inverse of :func:`brush_mask`.

    Args:
        mask: ``(H, W)`` bool; all four channels of the picture are 255 on it, else 0.
    """
    bits = [f"{4 * mask.size:032b}{_OPACITY_BITS - 1:05b}"]
    bits += [f"{width - 1:04b}" for width in _BRUSH_WIDTHS]
    for place, pixels in enumerate(run_lengths(mask.T).tolist()):
        value, left = 255 * (place % 2), 4 * pixels
        while left:
            run = min(left, 1 << _BRUSH_WIDTHS[-1])
            kind = next(kind for kind, width in enumerate(_BRUSH_WIDTHS) if run <= 1 << width)
            bits.append(f"1{kind:02b}{run - 1:0{_BRUSH_WIDTHS[kind]}b}{value:0{_OPACITY_BITS}b}")
            left -= run
    text = "".join(bits)
    text += "0" * (-len(text) % 8)
    return list(int(text, 2).to_bytes(len(text) // 8, "big"))


class _Bits:
    """Numbers of any width, the highest bit first."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._place = 0

    def read(self, width: int) -> int:
        start, end = self._place, self._place + width
        piece = self._data[start // 8 : (end + 7) // 8]
        if end > 8 * len(self._data):
            raise ValueError("it is cut off")
        self._place = end
        return int.from_bytes(piece, "big") >> (-end % 8) & ((1 << width) - 1)
