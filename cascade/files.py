"""Writing results so that a crash, a full disk or a hostile cell harms nobody."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from cascade.errors import DataError

_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


@contextlib.contextmanager
def atomic_path(
    path: str | os.PathLike[str], *, previous: str | os.PathLike[str] | None = None
) -> Iterator[Path]:
    """Give a temporary path in the target's folder that replaces ``path`` if the block succeeds.

    The file is flushed to disk before the rename and gets mode 0644, so a reader sees either the
    old file or the whole new one. On an error the old file stays as it was. ``previous`` is where
    the old file goes, once the new one is whole; by default it is lost.

    Raises:
        DataError: the folder cannot be written to, or the disk is full.
    """
    target = Path(path)
    if target.is_symlink():
        target = target.resolve()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(
            dir=target.parent, prefix=f".{target.name[:32]}.", suffix=".tmp"
        )
    except OSError as error:
        raise DataError(f"{target.parent}: cannot write here ({error.strerror})") from error
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        if previous is not None and target.exists():
            target.replace(previous)
        temporary.replace(target)
        _sync_folder(target.parent)
    except OSError as error:
        raise DataError(f"{target}: could not be written ({error.strerror or error})") from error
    finally:
        temporary.unlink(missing_ok=True)


def claim(file: IO[Any], path: str | os.PathLike[str]) -> None:
    """Be the only process that writes a file, until it is closed or the process ends.

    Nothing is refused on Windows, and on file systems without locks.

    Args:
        file: open.
        path: of the file, for the message.

    Raises:
        DataError: another process, or another part of this one, is writing the file.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise DataError(
            f"{path}: another run is writing this file; wait until it ends, or choose another place"
        ) from error
    except OSError:
        return


@contextlib.contextmanager
def atomic_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary folder beside the target that takes its place if the block succeeds.

    All files in it are flushed to disk first and get mode 0644. On an error what was there before
    stays as it was, and nothing half-written is left.

    Raises:
        DataError: the folder cannot be written to, or the disk is full.
    """
    target = Path(path).resolve()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(
            tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name[:32]}.", suffix=".tmp")
        )
    except OSError as error:
        raise DataError(f"{target.parent}: cannot write here ({error.strerror})") from error
    old = temporary.with_suffix(".old")
    try:
        yield temporary
        for file in temporary.iterdir():
            with file.open("rb+") as opened:
                os.fsync(opened.fileno())
            file.chmod(0o644)
        temporary.chmod(0o755)
        if target.exists():
            target.rename(old)
        temporary.rename(target)
        _sync_folder(target.parent)
    except OSError as error:
        raise DataError(f"{target}: could not be written ({error.strerror or error})") from error
    finally:
        if old.exists() and not target.exists():
            old.rename(target)
        for left in (temporary, old):
            shutil.rmtree(left, ignore_errors=True)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:  # some network file systems refuse to sync a folder; the file itself is safe
        return
    finally:
        os.close(descriptor)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write UTF-8 text atomically; broken bytes of a file name are escaped."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace", newline="\n")


def write_json(path: str | os.PathLike[str], document: Any, *, indent: int | None = 2) -> None:
    """Write a JSON document atomically; not-a-number and infinity become ``null``."""
    text = json.dumps(_finite(document), indent=indent, ensure_ascii=False, allow_nan=False)
    write_text(path, text + "\n")


def read_json(path: str | os.PathLike[str]) -> Any:
    """Read a JSON document.

    Raises:
        DataError: the file is missing or is not JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise DataError(f"{path}: is not valid JSON ({error})") from error


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if hasattr(value, "tolist"):  # numpy scalars and arrays
        return _finite(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def csv_cell(value: Any) -> Any:
    """Make one cell safe to open in a spreadsheet: text that looks like a formula gets a quote.

    Text that has such quotes already gets one more, so that taking one off gives it back.
    """
    if hasattr(value, "item"):  # numpy scalars
        value = value.item()
    if isinstance(value, str) and value.lstrip("'").startswith(_FORMULA_STARTS):
        return "'" + value
    if isinstance(value, float):
        return f"{value:.9g}" if math.isfinite(value) else ""
    return "" if value is None else value


def csv_line(values: Iterable[Any]) -> str:
    """One CSV line with safe cells, ending in a newline."""
    buffer = io.StringIO()
    # with "\n" alone csv would leave a carriage return unquoted, and a reader see two rows
    csv.writer(buffer, lineterminator="\r\n").writerow([csv_cell(value) for value in values])
    return buffer.getvalue().removesuffix("\r\n") + "\n"


def write_csv(
    path: str | os.PathLike[str], columns: Sequence[str], rows: Iterable[Mapping[str, Any]]
) -> None:
    """Write rows under the given columns atomically; a missing key is an empty cell."""
    with (
        atomic_path(path) as temporary,
        temporary.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file,
    ):
        file.write(csv_line(columns))
        for row in rows:
            file.write(csv_line(row.get(column) for column in columns))


def file_digest(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file's bytes, as hexadecimal text."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
