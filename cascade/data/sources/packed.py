"""Images that are no files of their own: members of an HDF5 file, rows of a NumPy array."""

from __future__ import annotations

import contextlib
import math
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np

from cascade.errors import DataError, MissingExtraError
from cascade.imaging.limits import ImageLimits
from cascade.imaging.write import encode_image

_JPEG = b"\xff\xd8\xff"
_DAMAGED = (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error)


class Container(Protocol):
    """A file of many images; a ``with`` block keeps it open."""

    path: Path
    suffix: str

    def __enter__(self) -> Container: ...
    def __exit__(self, *problem: object) -> None: ...
    def encoded(self, key: str) -> bytes:
        """The bytes of one image as those of a file with this suffix."""


@dataclass(frozen=True)
class PackedImage:
    """One image of a container."""

    container: Container
    key: str

    @property
    def suffix(self) -> str:
        """What the file's name ends in."""
        return self.container.suffix


class Hdf5Images:
    """An HDF5 file whose members are JPEG files, named after the images."""

    suffix = ".jpg"

    def __init__(self, path: Path) -> None:
        """List the members.

        Raises:
            DataError: the file cannot be read.
            MissingExtraError: h5py is not installed.
        """
        self.path = path
        self._file: Any
        with self:
            self.names: frozenset[str] = frozenset(self._file.keys())

    def __enter__(self) -> Hdf5Images:
        """Open the file."""
        try:
            import h5py
        except ImportError as error:
            raise MissingExtraError(
                f"{self.path}: reading HDF5 needs the extra 'hdf5': pip install 'cascade[hdf5]'"
            ) from error
        try:
            self._file = h5py.File(self.path, "r")
        except OSError as error:
            raise DataError(
                f"{self.path}: is no HDF5 file that can be read, or is cut off ({error})"
            ) from error
        return self

    def __exit__(self, *problem: object) -> None:
        """Close the file."""
        self._file.close()

    def encoded(self, key: str) -> bytes:
        """The bytes of a member, as they are.

        Raises:
            DataError: it cannot be read, leads to another file, is too large or is no JPEG.
        """
        import h5py

        try:
            link, member = self._file.get(key, getlink=True), None
            if isinstance(link, h5py.HardLink):  # the others may lead out of the file
                member = self._file[key]
            if not isinstance(member, h5py.Dataset) or member.external or member.is_virtual:
                raise DataError(f"{self.path}: {key} is not stored in the file as an image")
            if member.nbytes > ImageLimits.max_bytes:
                raise DataError(f"{self.path}: {key} has {member.nbytes} bytes, too many")
            value = member[()]
        except (OSError, KeyError, TypeError) as error:
            raise DataError(f"{self.path}: {key} cannot be read ({error})") from error
        data = value if isinstance(value, bytes) else np.asarray(value).tobytes()
        if not data.startswith(_JPEG):
            raise DataError(f"{self.path}: {key} is no JPEG")
        return data


def read_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether columns come first, and type of the NumPy array that begins here.

    Raises:
        ValueError: no array begins here.
    """
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    version = np.lib.format.read_magic(file)
    if version not in readers:
        raise ValueError(f"version {version} of the format is not known")
    return readers[version](file)


class ArrayImages:
    """``(N, H, W, 3)`` uint8 RGB in a ``.npy`` file or in a member of an ``.npz`` file.

    One image is read at a time; the keys are the places, counted from 0. Where they are too small
    for :class:`cascade.imaging.limits.ImageLimits`, each pixel is repeated, which loses nothing;
    ``note`` says so.
    """

    suffix = ".png"

    def __init__(self, path: Path, member: str | None = None) -> None:
        """Read the header.

        Raises:
            DataError: the file cannot be read, is cut off or holds something else.
        """
        self.path, self._member = path, member
        self._name = f"{path}: {member}" if member else str(path)
        self._file: IO[bytes]
        self._length = 0
        self._stack = contextlib.ExitStack()
        with self:
            shape = self._header()
            self._start = self._file.tell()
        self.count, self._shape = shape[0], tuple(shape[1:])
        self._size = math.prod(self._shape)
        self._repeat = -(-ImageLimits.min_side // max(min(self._shape[:2]), 1))
        height, width = self._shape[:2]
        if height * width > ImageLimits.max_pixels:
            raise DataError(
                f"{self._name}: holds images of {width} x {height} pixels; the limit is "
                f"{ImageLimits.max_pixels / 1e6:g} megapixels"
            )
        self.note = f"images of {width} x {height} pixels" + (
            f", each pixel repeated {self._repeat} x {self._repeat} times, as images have at least "
            f"{ImageLimits.min_side}"
            if self._repeat > 1
            else ""
        )
        there = max(self._length - self._start, 0) // max(self._size, 1)
        if there < self.count:
            raise DataError(f"{self._name}: is cut off, it holds {there} of {self.count} images")

    def _header(self) -> Sequence[int]:
        """The shape."""
        try:
            shape, column_major, kind = read_header(self._file)
        except _DAMAGED as error:
            raise DataError(f"{self._name}: is no NumPy array, or cut off ({error})") from error
        fits = len(shape) == 4 and shape[3] == 3 and shape[0] >= 0 and min(shape[1:]) > 0
        if kind != np.uint8 or not fits or column_major:
            raise DataError(
                f"{self._name}: holds {kind} of the shape {shape}"
                f"{', columns first' if column_major else ''}; expected uint8 images, (N, H, W, 3)"
                f"{', rows first (np.ascontiguousarray)' if column_major else ''}"
            )
        return shape

    def __enter__(self) -> ArrayImages:
        """Open the file."""
        try:
            if self._member is None:
                self._file = self._stack.enter_context(self.path.open("rb"))
                self._length = self.path.stat().st_size
            else:
                archive = self._stack.enter_context(zipfile.ZipFile(self.path))
                self._file = self._stack.enter_context(archive.open(f"{self._member}.npy"))
                self._length = archive.getinfo(f"{self._member}.npy").file_size
        except KeyError as error:
            raise DataError(f"{self.path}: lacks the array {self._member}") from error
        except _DAMAGED as error:
            raise DataError(f"{self.path}: is damaged or cut off ({error})") from error
        return self

    def __exit__(self, *problem: object) -> None:
        """Close the file."""
        self._stack.close()

    def encoded(self, key: str) -> bytes:
        """One image as PNG.

        Raises:
            DataError: the file is damaged.
        """
        try:
            self._file.seek(self._start + int(key) * self._size)
            data = self._file.read(self._size)
            pixels = np.frombuffer(data, np.uint8).reshape(self._shape)
        except _DAMAGED as error:
            raise DataError(f"{self._name}: image {key} is damaged ({error})") from error
        return encode_image(pixels.repeat(self._repeat, axis=0).repeat(self._repeat, axis=1))


def read_labels(path: Path, member: str, count: int) -> np.ndarray:
    """The labels in an ``.npz`` file, one for each image.

    The size is looked at before the values are read, and nothing is unpickled.

    Returns:
        ``(count,)`` of whole numbers.

    Raises:
        DataError: they are not there, cannot be read, or are something else.
    """
    try:
        with zipfile.ZipFile(path) as archive, archive.open(f"{member}.npy") as file:
            shape, _, kind = read_header(file)
            if shape not in ((count,), (count, 1)) or kind.kind not in "iu":
                raise DataError(
                    f"{path}: {member} holds {kind} of the shape {shape}; expected a whole number "
                    f"for each of the {count} images"
                )
            values = np.frombuffer(file.read(count * kind.itemsize), kind)
    except KeyError as error:
        raise DataError(f"{path}: lacks the array {member}") from error
    except _DAMAGED as error:
        raise DataError(f"{path}: {member} is damaged or cut off ({error})") from error
    if len(values) < count:
        raise DataError(f"{path}: {member} is cut off, it holds {len(values)} of {count} labels")
    return values
