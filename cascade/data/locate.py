"""Finding the files that a table names, without ever leaving their folder."""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from cascade.errors import DataError
from cascade.imaging.formats import SUFFIXES

IMAGE_SUFFIXES = tuple(SUFFIXES)
"""Endings that are taken off a name; anything else after a dot belongs to the name."""

MASK_ENDINGS = ("_segmentation", "_mask", "_lesion")
"""What the name of a mask's file may add to that of its image."""

MASK_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")


def match_stem(name: str) -> str:
    """The part by which images, masks and predictions are matched.

    >>> match_stem("ISIC_0000000_segmentation.png")
    'ISIC_0000000'
    """
    last = PurePosixPath(name).name
    stem, dot, suffix = last.rpartition(".")
    if dot and stem and f".{suffix.lower()}" in IMAGE_SUFFIXES:
        last = stem
    return last.removesuffix(MASK_ENDINGS[0]) or last


def unsafe_name(name: str) -> str | None:
    """Why a name may not be used as a path inside a folder, or ``None`` if it may."""
    if not name:
        return "is empty"
    if any(ord(letter) < 32 or ord(letter) == 127 for letter in name):
        return "holds control characters"
    for text in (name, unquote(name)):
        if "\\" in text:
            return "holds a backslash; write / between folders"
        if text.startswith("/") or re.match(r"[A-Za-z]:", text):
            return "is an absolute path; write it relative to the image folder"
        if ".." in PurePosixPath(text).parts:
            return "leads out of the image folder"
    if not PurePosixPath(name).name:
        return "names no file"
    return None


class FileFinder:
    """Looks names up in a folder that is listed once, not asked file by file."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._listings: dict[str, dict[str, list[str]]] = {}

    def image(self, name: str) -> Path | None:
        """Find ``name``, with or without its suffix, or ``None``.

        Raises:
            DataError: several files fit, or the file is a link that leads out of the folder.
        """
        parent, last = _divided(name)
        candidates = self._candidates(parent, last)
        if last in candidates:
            return self._inside(parent, last)
        stem = PurePosixPath(last).suffix.lower() not in IMAGE_SUFFIXES
        fitting = [
            file
            for file in candidates
            if (stem and file.startswith(f"{last}.")) or file.lower() == last.lower()
        ]
        return self._only(parent, name, fitting)

    def mask(self, name: str) -> Path | None:
        """Find the mask of an image's name, or ``None``.

        That is ``STEM.png`` or ``STEM_segmentation.png``, or else ``STEM`` with ``_segmentation``,
        ``_mask``, ``_lesion`` or nothing, as PNG, JPEG, BMP or TIFF.

        Raises:
            DataError: several files fit, or the file is a link that leads out of the folder.
        """
        parent, last = _divided(name)
        stem = match_stem(last)
        wanted = {stem, *(f"{stem}{ending}" for ending in MASK_ENDINGS)}
        for folder in dict.fromkeys((parent, ".")):
            found = sorted({file for word in wanted for file in self._candidates(folder, word)})
            usual = {f"{stem}.png", f"{stem}{MASK_ENDINGS[0]}.png"}
            fitting = [file for file in found if file in usual] or [
                file
                for file in found
                if (path := PurePosixPath(file)).stem in wanted
                and path.suffix.lower() in MASK_SUFFIXES
            ]
            if fitting:
                return self._only(folder, name, fitting)
        return None

    def names(self) -> list[str]:
        """All image files directly in the folder, sorted."""
        listing = self._listing(".")
        files = [file for group in listing.values() for file in group]
        return sorted(file for file in files if file.lower().endswith(IMAGE_SUFFIXES))

    def other_endings(self, name: str) -> list[str]:
        """Files that differ from ``name`` in the suffix only, as a hint in an error."""
        parent, last = _divided(name)
        return [file for file in self._candidates(parent, last) if file != last]

    def _candidates(self, parent: str, last: str) -> list[str]:
        return self._listing(parent).get(match_stem(last), [])

    def _listing(self, parent: str) -> dict[str, list[str]]:
        if parent not in self._listings:
            listing: dict[str, list[str]] = {}
            try:
                with os.scandir(self.root / parent) as entries:
                    for entry in entries:
                        if entry.is_file():
                            listing.setdefault(match_stem(entry.name), []).append(entry.name)
            except (FileNotFoundError, NotADirectoryError):
                pass  # nothing there: the caller reports each name as missing
            except OSError as error:
                raise DataError(
                    f"{self.root / parent}: cannot be read ({error.strerror})"
                ) from error
            self._listings[parent] = listing
        return self._listings[parent]

    def _only(self, parent: str, name: str, fitting: list[str]) -> Path | None:
        if len(fitting) > 1:
            raise DataError(
                f"{self.root / parent}: {name!r} could be {' or '.join(sorted(fitting))}; "
                "remove one or write the suffix in the table"
            )
        return self._inside(parent, fitting[0]) if fitting else None

    def _inside(self, parent: str, last: str) -> Path:
        path = self.root / parent / last
        # a link right in the folder was put there by its owner, for instance by prepare --link;
        # a folder in a name comes from the table, and must not lead anywhere else
        if parent != "." and not path.resolve().is_relative_to(self.root.resolve()):
            raise DataError(
                f"{path}: is a link that leads out of {self.root}; "
                "copy the file, or name the folder that the files are in"
            )
        return path


def _divided(name: str) -> tuple[str, str]:
    path = PurePosixPath(name)
    return str(path.parent), path.name
