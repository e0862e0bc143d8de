"""A look into an ONNX file without any library: does it name other files?

ONNX lets a tensor say that its numbers lie in another file, and runtimes then open that path, some
of them wherever it leads. A graph of cascade is whole, so one that names files is refused before a
runtime sees it.
"""

from __future__ import annotations

from cascade.errors import ModelFileError

_VARINT, _EIGHT_BYTES, _MESSAGE, _FOUR_BYTES = 0, 1, 2, 5
_PARTS = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse tensor"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {
        5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse tensor",
        23: "sparse tensor",
    },
    "sparse tensor": {1: "tensor", 2: "tensor"},
    "tensor": {},
}  # fmt: skip
"""Field numbers of onnx.proto behind which tensors can be."""
_EXTERNAL_DATA, _DATA_LOCATION = 13, 14


def require_whole(content: bytes, source: str) -> None:
    """Raise unless all numbers of an ONNX model are in it.

    Args:
        content: the model file.
        source: what error messages call it.

    Raises:
        ModelFileError: a tensor lies in another file, or this is no ONNX model.
    """
    waiting = [("model", 0, len(content))]
    try:
        while waiting:
            kind, place, end = waiting.pop()
            while place < end:
                key, place = _varint(content, place)
                field, wire = key >> 3, key & 7
                start, place = _skipped(content, place, wire)
                if place > end:
                    raise IndexError
                if kind == "tensor" and field in (_EXTERNAL_DATA, _DATA_LOCATION):
                    if field == _EXTERNAL_DATA or _varint(content, start)[0]:
                        raise ModelFileError(
                            f"{source}: keeps weights in other files, which is refused; write it "
                            "with: cascade export"
                        )
                elif wire == _MESSAGE and field in _PARTS[kind]:
                    waiting.append((_PARTS[kind][field], start, place))
    except IndexError as error:
        raise ModelFileError(f"{source}: is no ONNX model, or is damaged") from error


def _varint(content: bytes, place: int) -> tuple[int, int]:
    """A number of seven bits a byte, and the place behind it."""
    value = shift = 0
    while True:
        byte = content[place]
        place += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, place
        shift += 7
        if shift > 63:
            raise IndexError


def _skipped(content: bytes, place: int, wire: int) -> tuple[int, int]:
    """Where the value of a field starts and ends."""
    if wire == _VARINT:
        return place, _varint(content, place)[1]
    if wire == _MESSAGE:
        length, place = _varint(content, place)
        return place, place + length
    if wire in (_EIGHT_BYTES, _FOUR_BYTES):
        return place, place + (8 if wire == _EIGHT_BYTES else 4)
    raise IndexError
