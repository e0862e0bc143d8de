"""Archives as input: unpacked for the time of reading, and only what is harmless."""

from __future__ import annotations

import contextlib
import lzma
import shutil
import stat
import struct
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from cascade.data.locate import unsafe_name
from cascade.errors import CascadeError, DataError

MOST_FILES = 2_000_000
MOST_RATIO = 100
"""How many times its own size an archive may unpack to; images hardly shrink when packed."""

_ALWAYS = 100 * 2**20
"""Bytes that a small archive may unpack to in any case."""

_TAR_ENDINGS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
_CHUNK = 2**20
_DAMAGED = (
    zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, struct.error,
    UnicodeDecodeError, OverflowError,
)  # fmt: skip
_Entry = tuple[str, int, IO[bytes]]
"""Name, size and contents of a file."""


@contextlib.contextmanager
def unpacked(source: Path, beside: Path) -> Iterator[Path]:
    """The folder itself, or one that a ZIP or tar archive was unpacked to until the block ends.

    Args:
        source: a folder or an archive; only these kinds of file count as one.
        beside: the temporary folder is made in the nearest folder that exists above this one, so
            that it is on the disk that has to hold the data set anyway.

    Raises:
        DataError: the archive is damaged or encrypted, holds a link, a device, two files of one
            name or a path that leads out of it, or unpacks to too many files or bytes. Nothing
            stays behind.
    """
    name = source.name.lower()
    if not source.is_file() or not name.endswith((".zip", *_TAR_ENDINGS)):
        yield source
        return
    parent = next(folder for folder in beside.resolve().parents if folder.is_dir())
    try:
        folder = Path(tempfile.mkdtemp(dir=parent, prefix=".unpacked-"))
    except OSError as error:
        raise DataError(f"{source}: cannot be unpacked in {parent} ({error.strerror})") from error
    try:
        _unpack(source, folder)
        yield folder
    except CascadeError as error:  # nobody knows the temporary folder
        error.args = tuple(str(part).replace(str(folder), str(source)) for part in error.args)
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _unpack(source: Path, folder: Path) -> None:
    allowed = max(_ALWAYS, MOST_RATIO * source.stat().st_size)
    room = min(allowed, shutil.disk_usage(folder).free)
    entries = _zip_entries if source.name.lower().endswith(".zip") else _tar_entries
    total = 0
    try:
        for name, size, content in entries(source):
            if total + size > room:
                what = "the disk has room for" if room < allowed else f"{MOST_RATIO} times its size"
                raise DataError(f"{source}: would unpack to more than {what}; unpack it yourself")
            total += _write(folder / name, content, size, source)
    except _DAMAGED as error:
        raise DataError(f"{source}: is damaged or not an archive ({error})") from error
    except (OSError, RuntimeError) as error:
        raise DataError(f"{source}: cannot be unpacked ({error})") from error


def _write(path: Path, content: IO[bytes], size: int, source: Path) -> int:
    """Write one file of at most ``size`` bytes; gives how many it has."""
    path.parent.mkdir(parents=True, exist_ok=True)
    written = 0
    try:
        with path.open("xb") as file:
            while chunk := content.read(_CHUNK):
                written += len(chunk)
                if written > size:
                    raise DataError(f"{source}: {path.name} is longer than the archive says")
                file.write(chunk)
    except FileExistsError as error:
        raise DataError(f"{source}: holds two files named {path.name} in one folder") from error
    return written


def _zip_entries(source: Path) -> Iterator[_Entry]:
    with zipfile.ZipFile(source) as archive:
        infos = archive.infolist()
        _require_few(len(infos), source)
        for info in infos:
            kind = stat.S_IFMT(info.external_attr >> 16)
            name = _checked_name(info.filename, source)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise DataError(f"{source}: {name} is a link or device; only files are unpacked")
            if info.flag_bits & 1:
                raise DataError(f"{source}: is encrypted; unpack it yourself")
            if not info.is_dir() and not _is_junk(name):
                with archive.open(info) as content:
                    yield name, info.file_size, content


def _tar_entries(source: Path) -> Iterator[_Entry]:
    with tarfile.open(source, "r:*") as archive:
        for number, member in enumerate(archive, start=1):
            _require_few(number, source)
            name = _checked_name(member.name, source)
            if not (member.isreg() or member.isdir()):
                raise DataError(f"{source}: {name} is a link or device; only files are unpacked")
            content = archive.extractfile(member) if member.isreg() else None
            if content and not _is_junk(name):
                with content:
                    yield name, member.size, content


def _require_few(count: int, source: Path) -> None:
    if count > MOST_FILES:
        raise DataError(f"{source}: holds more than {MOST_FILES:,} files; unpack it yourself")


def _checked_name(name: str, source: Path) -> str:
    """The path of an entry with ``/`` between folders, within the archive.

    Raises:
        DataError: it leads out.
    """
    path = name.replace("\\", "/").rstrip("/")
    problem = unsafe_name(path) if path not in ("", ".") else None
    if problem:
        raise DataError(f"{source}: the path {name!r} {problem.partition(';')[0]}")
    return path


def _is_junk(name: str) -> bool:
    """Whether a file was left by a system, so that no source would read it."""
    parts = PurePosixPath(name).parts
    return not parts or any(part.startswith((".", "__MACOSX")) for part in parts)
