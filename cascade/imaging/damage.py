"""What decoders raise on a damaged file, turned into one error that names it."""

from __future__ import annotations

import contextlib
import struct
import zlib
from collections.abc import Iterator

import cv2
from PIL.Image import DecompressionBombError

from cascade.errors import CascadeError, ImageError

DECODER_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    EOFError,
    RuntimeError,
    struct.error,
    zlib.error,
    cv2.error,
    DecompressionBombError,
)


@contextlib.contextmanager
def decoding(name: str) -> Iterator[None]:
    """Turn whatever a decoder raises on a damaged file into an ``ImageError`` with its name."""
    try:
        yield
    except CascadeError:
        raise
    except MemoryError as error:
        raise ImageError(f"{name}: there is not enough memory to decode it") from error
    except DECODER_ERRORS as error:
        detail = " ".join(str(error).split())[:200] or type(error).__name__
        raise ImageError(f"{name}: is damaged or not decodable ({detail})") from error
