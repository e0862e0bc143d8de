"""Decoded samples on disk, so that an image is decoded and shrunk once and not in every epoch.

Each sample is one small file. Its name is a digest of everything that decides its content: paths,
sizes and times of image and mask, and how they are shrunk. A changed image therefore has another
name and an entry is never out of date. Files are written beside their place and renamed, so
any number of processes may share a folder; a checksum finds damaged ones, which are made anew.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import shutil
import struct
import tempfile
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from cascade.lesion.masking import Box
from cascade.version import __version__

log = logging.getLogger(__name__)

FOLDER_VARIABLE = "CASCADE_CACHE"
_MAKER = f"1 {__version__} {cv2.__version__}"
"""What makes the samples; raise the first number when the same files are to give other pixels."""
_HEADER = struct.Struct("<4sIII??iiii")
_MAGIC = b"CSC1"
_SUFFIX = ".sample"
_KEPT = 0.9
_ABANDONED_S = 3600
_RECOUNT = 1 / 64
"""Share of the limit that a process adds before it counts what other processes have added."""


@dataclass(frozen=True)
class Sample:
    """An image at the size from which augmentation starts.

    Attributes:
        pixels: ``(H, W, 3)`` uint8 RGB.
        mask: ``(H, W)`` uint8, 0 or 1, where the sample needs one.
        box: the lesion's bounding box in these pixels, where there is one.
    """

    pixels: np.ndarray
    mask: np.ndarray | None = None
    box: Box | None = None


def cache_folder() -> Path:
    """Where samples are kept: ``$CASCADE_CACHE``, else ``cascade/samples`` in the user's cache."""
    chosen = os.environ.get(FOLDER_VARIABLE)
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cascade" / "samples"


class SampleCache:
    """A folder of samples with a limit on its size.

    When the limit is reached, samples that were last used before this cache was opened are deleted,
    those unused for longest first; if that does not suffice, no more are added, because replacing
    samples that the next epoch needs would cost more than it saves. Several processes may exceed
    the limit by 1/64 each. The folder never takes more than half of what is free on its disk.
    """

    def __init__(self, gigabytes: float, folder: Path | None = None) -> None:
        """Open a folder, which is made when the first sample is written.

        Args:
            gigabytes: largest size of the folder in 10^9 bytes; 0 neither reads nor writes.
            folder: by default :func:`cache_folder`.
        """
        self.limit = int(gigabytes * 1e9)
        self.folder = folder or cache_folder()
        self._started = time.time()
        self._room = 0.0  # bytes that may be added before the folder is counted again
        self._full = self.limit == 0

    def get(self, key: str, make: Callable[[], Sample]) -> Sample:
        """The sample of a key from :func:`sample_key`, made and kept if it is not there."""
        if self.limit == 0:
            return make()
        path = self.folder / key[:2] / (key + _SUFFIX)
        found = self._read(path)
        if found is not None:
            return found
        sample = make()
        if not self._full:
            self._write(path, sample)
        return sample

    def _read(self, path: Path) -> Sample | None:
        try:
            with path.open("rb", buffering=0) as file:
                status = os.fstat(file.fileno())
                data = bytearray(status.st_size)
                length = file.readinto(data)
        except OSError:
            return None
        sample = decode_sample(data) if length == len(data) else None
        if sample is None:
            log.warning("%s: a cached sample is damaged and is made anew", path)
        elif status.st_mtime < self._started:
            with contextlib.suppress(OSError):  # another process may have deleted it
                os.utime(path)
        return sample

    def _write(self, path: Path, sample: Sample) -> None:
        data = encode_sample(sample)
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            if self._room < len(data) and not self._make_room(len(data)):
                self._full = True
                log.warning(
                    "%s: the cache is full; the other images are decoded in every epoch "
                    "(--cache_gigabytes is %g)", self.folder, self.limit / 1e9,
                )  # fmt: skip
                return
            _write_whole(path, data)
        except OSError as error:
            self._full = True
            log.warning(
                "%s: the cache cannot be written (%s); images are decoded in every epoch",
                self.folder, error.strerror or error,
            )  # fmt: skip
            return
        self._room -= len(data)

    def _make_room(self, needed: int) -> bool:
        """Count the folder, delete old samples if it is over its limit, and say if all fits."""
        entries = []
        for path in self.folder.glob("*/*"):
            with contextlib.suppress(OSError):  # another process may have deleted it
                status = path.stat()
                entries.append((status.st_mtime, status.st_size, path))
        used = sum(size for _, size, _ in entries)
        limit = min(self.limit, used + shutil.disk_usage(self.folder).free // 2)
        target = used if used + needed <= limit else limit * _KEPT - needed
        for modified, size, path in sorted(entries):
            abandoned = path.suffix == ".tmp" and modified < self._started - _ABANDONED_S
            old = path.suffix == _SUFFIX and modified < self._started and used > target
            if abandoned or old:
                with contextlib.suppress(OSError):
                    path.unlink(missing_ok=True)
                    used -= size
        self._room = min(float(limit - used), max(limit * _RECOUNT, needed))
        return self._room >= needed


def _write_whole(path: Path, data: bytes) -> None:
    """Write a file that appears whole or not at all; after a power cut the checksum tells."""
    handle, name = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        Path(name).replace(path)
    finally:
        Path(name).unlink(missing_ok=True)


def sample_key(files: Sequence[Path], recipe: str) -> str:
    """Name of the sample that is made from files in one way.

    Args:
        files: the image, then the mask if the sample needs it.
        recipe: what else decides the sample, such as size and mask policy.
    """
    parts = [_MAKER, recipe]
    for path in files:
        try:
            status = path.stat()
            parts += [str(path.absolute()), str(status.st_size), str(status.st_mtime_ns)]
        except OSError:  # reading it will say what is wrong, by name
            parts += [str(path), "missing", str(time.time_ns())]
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogateescape")).hexdigest()


def encode_sample(sample: Sample) -> bytes:
    """A sample as bytes: magic, checksum of the rest, size, what it has, box, pixels, mask."""
    height, width = sample.pixels.shape[:2]
    fields = (height, width, sample.mask is not None, sample.box is not None)
    header = _HEADER.pack(_MAGIC, 0, *fields, *(sample.box or (0, 0, 0, 0)))
    mask = b"" if sample.mask is None else np.ascontiguousarray(sample.mask).tobytes()
    rest = header[8:] + np.ascontiguousarray(sample.pixels).tobytes() + mask
    return header[:4] + struct.pack("<I", zlib.crc32(rest)) + rest


def decode_sample(data: bytearray) -> Sample | None:
    """A sample from its bytes, or ``None`` if they are damaged. The arrays are views of them."""
    if len(data) < _HEADER.size:
        return None
    magic, checksum, height, width, masked, boxed, *box = _HEADER.unpack_from(data)
    area = height * width
    if (
        magic != _MAGIC
        or len(data) != _HEADER.size + area * (4 if masked else 3)
        or zlib.crc32(memoryview(data)[8:]) != checksum
    ):
        return None
    values = np.frombuffer(data, np.uint8, offset=_HEADER.size)
    pixels = values[: 3 * area].reshape(height, width, 3)
    mask = values[3 * area :].reshape(height, width) if masked else None
    top, left, bottom, right = box
    return Sample(pixels, mask, (top, left, bottom, right) if boxed else None)
