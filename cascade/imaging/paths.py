"""Finding image files and naming results, whatever people call their files."""

from __future__ import annotations

import glob
import hashlib
import os
import re
import stat
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from cascade.errors import ImageError
from cascade.imaging.formats import HEAD_BYTES, SUFFIXES, identify

_LONGEST_STEM = 120
_KINDS = (
    (stat.S_ISDIR, "is a folder, not an image file"),
    (stat.S_ISFIFO, "is a named pipe, not a regular file"),
    (stat.S_ISCHR, "is a device, not a regular file"),
    (stat.S_ISBLK, "is a device, not a regular file"),
    (stat.S_ISSOCK, "is a socket, not a regular file"),
)
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)


@dataclass(frozen=True)
class FoundFile:
    """One input: a file to read, or a path that cannot be one and why.

    Attributes:
        path: where it is.
        problem: ``None`` for a regular file, else the reason to skip it, in words.
    """

    path: Path
    problem: str | None = None


def printable(name: str | os.PathLike[str]) -> str:
    """A file name for messages and logs: control characters and broken bytes are escaped."""
    text = os.fsdecode(name)
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text) or "''"


def describe_node(status: os.stat_result) -> str | None:
    """What is wrong with a path as an image file, from its status; nothing for a regular file."""
    if stat.S_ISREG(status.st_mode):
        return None
    for test, words in _KINDS:
        if test(status.st_mode):
            return words
    return "is not a regular file"


def expand_sources(
    inputs: Iterable[str | os.PathLike[str]], *, recursive: bool = True
) -> Iterator[FoundFile]:
    """Find the files behind files, folders and patterns, one at a time.

    A named file is always given back, whatever it is. A folder or pattern gives the files with a
    image's suffix, and those without a suffix that start like an image; names that begin with
    a dot are left out. Links, pipes and devices that are no regular file come with their problem,
    so that each input can have its row. Only the names of one folder are held at a time.

    Args:
        inputs: paths of files and folders, and patterns such as ``photos/*.jpg`` or
            ``photos/**/*.png``. A path that exists is never taken for a pattern.
        recursive: also search the folders within a folder.

    Yields:
        Files in the order of the inputs, sorted by name within a folder.
    """
    for item in inputs:
        path = Path(item)
        text = os.fspath(item)
        if glob.has_magic(text) and not os.path.lexists(text):
            yield from _match(text, recursive=recursive)
            continue
        found = _look(path)
        if found.problem != _KINDS[0][1]:
            yield found
            continue
        empty = True
        for found in iter_image_paths(path, recursive=recursive):
            empty = False
            yield found
        if empty:
            yield FoundFile(path, "is a folder without images")


def _match(pattern: str, *, recursive: bool) -> Iterator[FoundFile]:
    empty = True
    for name in sorted(glob.iglob(pattern, recursive=recursive)):  # noqa: PTH207 - absolute too
        found = _look(Path(name))
        if found.problem == _KINDS[0][1] or not _is_wanted(found):
            continue
        empty = False
        yield found
    if empty:
        yield FoundFile(Path(pattern), "matches no image file")


def iter_image_paths(
    folder: str | os.PathLike[str], *, recursive: bool = True
) -> Iterator[FoundFile]:
    """Walk one folder as :func:`expand_sources` does; links to folders are followed once."""
    yield from _walk(Path(folder), recursive=recursive, above=())


def _walk(
    folder: Path, *, recursive: bool, above: tuple[tuple[int, int], ...]
) -> Iterator[FoundFile]:
    try:
        status = folder.stat()
        names = sorted(os.listdir(folder))  # noqa: PTH208 - a million Path objects are too many
    except OSError as error:
        yield FoundFile(folder, _reason(error))
        return
    identity = status.st_dev, status.st_ino
    if identity in above:
        yield FoundFile(folder, "is a link back to a folder above it")
        return
    for name in names:
        if name.startswith("."):
            continue
        found = _look(folder / name)
        if found.problem == _KINDS[0][1]:
            if recursive:
                yield from _walk(found.path, recursive=True, above=(*above, identity))
        elif _is_wanted(found):
            yield found


def _look(path: Path) -> FoundFile:
    try:
        return FoundFile(path, describe_node(path.stat()))
    except OSError as error:
        if path.is_symlink() and isinstance(error, FileNotFoundError):
            return FoundFile(path, "is a link to a file that does not exist")
        return FoundFile(path, _reason(error))
    except ValueError as error:
        return FoundFile(path, f"is not a path ({error})")


def _reason(error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return "does not exist"
    return f"cannot be read ({error.strerror or error})"


def _is_wanted(found: FoundFile) -> bool:
    if found.problem or found.path.suffix.lower() in SUFFIXES:
        return True
    if found.path.suffix:
        return False
    try:
        with found.path.open("rb") as file:
            identify(file.read(HEAD_BYTES), found.path.name)
    except (OSError, ImageError):
        return False
    return True


def safe_stem(name: str | os.PathLike[str]) -> str:
    """A harmless file name, without folder and suffix, for results that belong to ``name``.

    Letters and digits of any script, ``-``, ``_``, ``.`` and single blanks stay; all else becomes
    ``_``. Leading dots and dashes, reserved names and names over 120 bytes are changed too. A
    changed name ends in eight digits of a hash of the original name, so that two names do not
    become one by being cleaned.

    >>> safe_stem("photos/mole 1.jpg")
    'mole 1'
    """
    text = os.fsdecode(name)
    base = re.split(r"[/\\]", text.rstrip("/\\"))[-1]
    stem = base[: base.rfind(".")] if base.rfind(".") > 0 else base
    kept = "".join(
        c if c.isalnum() or c in "-_. " else "_" for c in unicodedata.normalize("NFC", stem)
    )
    kept = re.sub(r"\s+", " ", kept).strip(" ").rstrip(". ")
    if kept.startswith((".", "-")) or _RESERVED.fullmatch(kept):
        kept = "_" + kept.lstrip(".-")
    short = kept.encode("utf-8", "ignore")[:_LONGEST_STEM].decode("utf-8", "ignore")
    if short == unicodedata.normalize("NFC", stem) and short:
        return short
    digest = hashlib.sha256(base.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{short or 'image'}_{digest}"
