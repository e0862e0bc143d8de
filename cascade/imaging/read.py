"""Reading images: the one entrance for files, bytes, Pillow images, arrays and tensors.

The same image gives the same pixels in whatever form it comes, unless it is read at a fraction of
its size: a JPEG's decoder computes the smaller image, while pixels from memory are averaged. The
limits of that promise lie with Pillow, not here: a loaded Pillow image of a PNG with 16 bits per
colour channel has lost its low bytes (a difference of at most 1); one of a damaged JPEG no longer
shows it; one of JPEG 2000 has lost its profile; and one of JPEG XL keeps an EXIF orientation that
the format ignores. A Pillow image that was opened but not yet loaded is read from its own file by
our decoders, strictly, as far as its plugin has not decoded it already (HEIC, JPEG XL).
"""

from __future__ import annotations

import io
import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import numpy as np
from PIL import Image, ImageFile

from cascade.errors import ImageError
from cascade.imaging.checks import check_image
from cascade.imaging.colour import to_rgb
from cascade.imaging.damage import decoding
from cascade.imaging.decode import Decoded, decode
from cascade.imaging.formats import suffix_warning
from cascade.imaging.header import Header, read_header
from cascade.imaging.limits import ImageLimits, LoadedImage
from cascade.imaging.orientation import apply_orientation, displayed_shape, stored_orientation
from cascade.imaging.paths import describe_node, printable
from cascade.imaging.resize import reduce_pixels, reduction


@dataclass(frozen=True)
class NamedBytes:
    """A file's content that was fetched already, under the name that it has where it came from.

    Attributes:
        data: all bytes of the file.
        name: its path or URI, for messages and warnings.
    """

    data: bytes = field(repr=False)
    name: str


ImageSource: TypeAlias = str | os.PathLike[str] | bytes | NamedBytes | Image.Image | np.ndarray
"""What :func:`read_image` takes; torch tensors too, without torch being imported."""

FROM_MEMORY = "image"
_LIMITS = ImageLimits()
_PILLOW_FORMATS = (
    "JPEG", "MPO", "PNG", "GIF", "BMP", "DIB", "TIFF", "WEBP", "AVIF", "JPEG2000"
)  # fmt: skip


def read_image(
    source: ImageSource,
    *,
    limits: ImageLimits = _LIMITS,
    short_side: int | None = None,
    bgr: bool = False,
) -> LoadedImage:
    """Read one image as the viewer sees it: oriented, RGB, 8 bit.

    Args:
        source: a path, the bytes of a file (with a name, if they have one), a Pillow image, a uint8
            array ``(H, W, 3)``, or a uint8 tensor ``(H, W, 3)`` or ``(3, H, W)``.
        limits: checked from the header, before decoding.
        short_side: read a half, a quarter or an eighth of the size, as long as the short side keeps
            at least this many pixels. A JPEG is decoded at that size, other images are averaged
            after decoding. ``stored_shape`` and ``full_shape`` stay the true ones.
        bgr: an array or tensor holds blue first. Files and Pillow images know their own order,
            so for them this changes nothing.

    Raises:
        ImageError: the file is missing, no regular file, no image, damaged or over the limits.
        ShapeError: an array or tensor is not uint8 RGB.
        MissingExtraError: the package that the format needs is not installed.
    """
    if isinstance(source, (str, os.PathLike, NamedBytes)):
        return _read_file(source, limits, short_side)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _read_bytes(bytes(source), FROM_MEMORY, limits, short_side)
    if isinstance(source, Image.Image):
        return _read_pillow(source, limits, short_side)
    if isinstance(source, np.ndarray):
        return _read_array(source, limits, short_side, bgr=bgr)
    if hasattr(source, "detach") and hasattr(source, "cpu"):
        return _read_array(_tensor_pixels(source), limits, short_side, bgr=bgr)
    raise ImageError(
        f"an image cannot be a {type(source).__name__}; give a path, bytes, a Pillow image, or a "
        "uint8 RGB array or tensor"
    )


def read_shape(path: str | os.PathLike[str]) -> tuple[int, int]:
    """``(H, W)`` of an image as displayed, from its header alone.

    Raises:
        ImageError: the file cannot be read or is no image.
    """
    name = printable(path)
    with open_regular(path, name) as file, decoding(name):
        header = read_header(file, name)
    return displayed_shape(header.stored_shape, header.orientation)


def open_regular(path: str | os.PathLike[str], name: str) -> BinaryIO:
    """Open a regular file; a pipe or a device would block, so it is refused before opening.

    Raises:
        ImageError: the path is missing, no regular file or not readable.
    """
    try:
        problem = describe_node(Path(path).stat())
        if problem is None:
            return Path(path).open("rb")
    except OSError as error:
        problem = f"cannot be read ({error.strerror or error})"
    except ValueError as error:
        problem = f"is not a path ({error})"
    raise ImageError(f"{name}: {problem}")


def load_encoded(
    source: str | os.PathLike[str] | NamedBytes, limits: ImageLimits
) -> tuple[bytes, Header, tuple[str, ...]]:
    """A whole file, its header and warnings, once its size and header have passed the limits."""
    label = file_label(source)
    if isinstance(source, NamedBytes):
        limits.check_bytes(len(source.data), label)
        header = read_header(io.BytesIO(source.data), label)
        limits.check_shape(header.stored_shape, label)
        return source.data, header, _warnings(source.name, header)
    with open_regular(source, label) as file:
        try:
            limits.check_bytes(os.fstat(file.fileno()).st_size, label)
            header = read_header(file, label)
            limits.check_shape(header.stored_shape, label)
            file.seek(0)
            data = file.read(limits.max_bytes + 1)
        except OSError as error:
            raise ImageError(f"{label}: cannot be read ({error.strerror or error})") from error
    return data, header, _warnings(os.fspath(source), header)


def file_label(source: str | os.PathLike[str] | NamedBytes) -> str:
    """What messages call a file."""
    return printable(source.name if isinstance(source, NamedBytes) else source)


def _warnings(name: str, header: Header) -> tuple[str, ...]:
    mismatch = suffix_warning(name, header.kind)
    return header.warnings + ((mismatch,) if mismatch else ())


def _again(image: LoadedImage, source: str | os.PathLike[str] | bytes | NamedBytes) -> LoadedImage:
    return replace(image, source=source)


def reduced(image: LoadedImage, short_side: int | None) -> LoadedImage:
    """An image averaged as far as :func:`cascade.imaging.resize.reduction` allows; see there."""
    divisor = reduction(image.full_shape, short_side) // image.divisor
    if divisor <= 1:
        return image
    return replace(image, pixels=reduce_pixels(image.pixels, divisor))


def _read_file(
    source: str | os.PathLike[str] | NamedBytes, limits: ImageLimits, short_side: int | None
) -> LoadedImage:
    label = file_label(source)
    data, header, warnings = load_encoded(source, limits)
    decoded = decode(data, header, limits=limits, name=label, short_side=short_side)
    name = Path(source.name if isinstance(source, NamedBytes) else source).name
    image = _finish(decoded, header, warnings, name=name, label=label)
    return _again(reduced(image, short_side), source)


def _read_bytes(data: bytes, name: str, limits: ImageLimits, short_side: int | None) -> LoadedImage:
    limits.check_bytes(len(data), name)
    header = read_header(io.BytesIO(data), name)
    limits.check_shape(header.stored_shape, name)
    decoded = decode(data, header, limits=limits, name=name, short_side=short_side)
    image = _finish(decoded, header, header.warnings, name=name, label=name)
    return _again(reduced(image, short_side), data)


def _finish(
    decoded: Decoded, header: Header, warnings: tuple[str, ...], *, name: str, label: str
) -> LoadedImage:
    with decoding(label):
        pixels, colour_warnings = to_rgb(decoded.content, decoded.profile, label)
    if not decoded.oriented:
        pixels = apply_orientation(pixels, header.orientation)
    return LoadedImage(
        pixels,
        header.orientation,
        header.stored_shape,
        warnings + decoded.warnings + colour_warnings,
        name,
    )


def _read_pillow(image: Image.Image, limits: ImageLimits, short_side: int | None) -> LoadedImage:
    path = getattr(image, "filename", "") or ""
    name = Path(os.fsdecode(path)).name or FROM_MEMORY
    label = printable(name)
    limits.check_shape((image.height, image.width), label)
    data = _unread_bytes(image, limits, label)
    if data is not None:
        return _read_bytes(data, name, limits, short_side)
    with decoding(label):
        image.load()
    orientation, warnings = stored_orientation(image.info)
    decoded = Decoded(image, image.info.get("icc_profile"))
    header = Header("pillow", (image.height, image.width), orientation)
    return reduced(_finish(decoded, header, warnings, name=name, label=label), short_side)


def _unread_bytes(image: Image.Image, limits: ImageLimits, name: str) -> bytes | None:
    """The file behind an opened Pillow image whose pixels are not decoded yet."""
    if not isinstance(image, ImageFile.ImageFile) or not image.tile:
        return None
    if image.format not in _PILLOW_FORMATS:  # Pillow would start other programs for some
        raise ImageError(f"{name}: Pillow images of format {image.format} are not supported")
    file: Any = image.fp
    if file is None or file.closed or image.tell() != 0 or image.format == "DIB":
        return None
    with decoding(name):
        position = file.tell()
        file.seek(0)
        data = bytes(file.read(limits.max_bytes + 1))
        file.seek(position)
        header = read_header(io.BytesIO(data), name)
    as_opened = image.height, image.width
    shapes = (header.stored_shape, displayed_shape(header.stored_shape, header.orientation))
    # another size means that Image.draft was called: then the caller's choice stands
    return data if as_opened in shapes else None


def _read_array(
    pixels: np.ndarray, limits: ImageLimits, short_side: int | None, *, bgr: bool
) -> LoadedImage:
    check_image(pixels)
    shape = pixels.shape[0], pixels.shape[1]
    limits.check_shape(shape, FROM_MEMORY)
    small = reduce_pixels(pixels, reduction(shape, short_side))
    ordered = np.array(small[..., ::-1] if bgr else small, order="C")
    return LoadedImage(ordered, 1, shape, (), FROM_MEMORY)


def _tensor_pixels(tensor: Any) -> np.ndarray:
    try:
        values = np.asarray(tensor.detach().cpu().numpy())
    except (TypeError, RuntimeError) as error:
        raise ImageError(f"the tensor cannot become a uint8 image ({error})") from error
    channels_first = values.ndim == 3 and values.shape[0] == 3 and values.shape[2] != 3
    return values.transpose(1, 2, 0) if channels_first else values
