"""Finding tables, images and masks in a folder that was unpacked in whatever way."""

from __future__ import annotations

import csv
import fnmatch
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from cascade.data.locate import IMAGE_SUFFIXES, MASK_ENDINGS, MASK_SUFFIXES
from cascade.data.spreadsheet import Sheet, listed, read_sheet
from cascade.errors import DataError

MASK_FOLDERS = {"masks", "mask", "masks_all", "segmentations", "segmentation"}
"""Folders in which all images are masks."""

_NOT_IMAGES = ("_superpixels", "_expert", "_roi", "_label")
_TABLES = {".csv", ".tsv", ".tab", ".txt", ".xlsx", ".npz", ".npy", ".hdf5"}
_ARCHIVES = (".zip", ".tar", ".tgz", ".gz", ".7z", ".rar")


class Layout:
    """The files below a folder, listed once; nothing is opened or changed."""

    def __init__(self, root: Path) -> None:
        """List the files.

        Raises:
            DataError: the folder does not exist, or is an archive.
        """
        if root.is_file() and root.name.lower().endswith(_ARCHIVES):
            raise DataError(f"{root}: is an archive; unpack it and name the folder")
        if not root.is_dir():
            raise DataError(f"{root}: this folder does not exist")
        self.root = root
        self._tables: list[Path] = []
        self._archives: list[Path] = []
        self._images: dict[str, list[Path]] = {}
        self._masks: dict[str, list[Path]] = {}
        for path in _walk(root):
            self._sort_in(path)

    def _sort_in(self, path: Path) -> None:
        stem, suffix = path.stem, path.suffix.lower()
        ending = next((word for word in MASK_ENDINGS if stem.lower().endswith(word)), "")
        if ending == "_lesion" and suffix in (".jpg", ".jpeg"):
            ending = ""  # an image of a lesion; masks of PH2 are bitmaps
        within = path.relative_to(self.root).parts[:-1]
        if suffix in MASK_SUFFIXES and (ending or MASK_FOLDERS & {part.lower() for part in within}):
            self._masks.setdefault(stem[: len(stem) - len(ending)], []).append(path)
        elif suffix in IMAGE_SUFFIXES and not stem.lower().endswith(_NOT_IMAGES):
            self._images.setdefault(stem, []).append(path)
        elif suffix in _ARCHIVES:
            self._archives.append(path)
        else:
            self._tables.append(path)

    def find(self, *patterns: str) -> Path | None:
        """The table that fits the first pattern that fits any, or ``None``.

        Args:
            patterns: file names with ``*``, upper or lower case, best first.

        Raises:
            DataError: several files fit one pattern.
        """
        for pattern in patterns:
            fitting = [
                path
                for path in self._tables
                if fnmatch.fnmatchcase(path.name.lower(), pattern.lower())
            ]
            if len(fitting) > 1:
                raise DataError(
                    f"{self.root}: {listed(fitting)} all fit {pattern}; keep one of them there"
                )
            if fitting:
                return fitting[0]
        return None

    def require(self, *patterns: str) -> Path:
        """Like :meth:`find`, but a table must be there.

        Raises:
            DataError: no file fits; archives that are still packed are named.
        """
        path = self.find(*patterns)
        if path is None:
            raise DataError(
                f"{self.root}: holds no {' or '.join(patterns)}{self._instead()}; "
                + (
                    self.packed()
                    or "name the folder that the data set was unpacked to, or another --source"
                )
            )
        return path

    def _instead(self) -> str:
        """The tables that are there, which tell what data set it is."""
        found = [path.name for path in self.tables() if path.suffix.lower() in _TABLES]
        return f", but {listed(found, limit=3)}" if found else ""

    def packed(self) -> str:
        """Advice to unpack the archives in the folder, or nothing."""
        return f"unpack {listed(self._archives, limit=3)} first" if self._archives else ""

    def image(self, stem: str) -> Path | None:
        """The image of this name, or ``None``.

        Raises:
            DataError: several different files have the name.
        """
        return same_file(self._images.get(stem, []))

    def mask(self, stem: str) -> Path | None:
        """The mask of this image, ``STEM_segmentation`` or ``STEM_lesion``, or ``None``.

        Raises:
            DataError: several different files have the name.
        """
        return same_file(self._masks.get(stem, []))

    def masks(self) -> list[tuple[str, Path]]:
        """Image stem and file of each mask, sorted by stem."""
        found = ((stem, same_file(paths)) for stem, paths in sorted(self._masks.items()))
        return [(stem, path) for stem, path in found if path]

    def tables(self) -> list[Path]:
        """Every file that is no image, mask or archive, sorted."""
        return sorted(self._tables)

    def all_images(self) -> list[Path]:
        """Every image, sorted; several may have one name."""
        return sorted(path for paths in self._images.values() for path in paths)

    def all_masks(self) -> list[tuple[str, Path]]:
        """Image stem and file of every mask, sorted; several may have one stem."""
        return sorted((stem, path) for stem, paths in self._masks.items() for path in paths)


def _walk(root: Path) -> Iterator[Path]:
    """All files below a folder in sorted order; linked folders are followed once."""
    seen: set[tuple[int, int]] = set()
    for folder, names, files in os.walk(root, followlinks=True):
        status = Path(folder).stat()
        if (status.st_dev, status.st_ino) in seen:
            names.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        names[:] = sorted(name for name in names if not name.startswith((".", "__MACOSX")))
        yield from (Path(folder, name) for name in sorted(files) if not name.startswith("."))


def same_file(paths: Sequence[Path]) -> Path | None:
    """The first path; the challenges ship some images twice, which must then be equal in size.

    Raises:
        DataError: they differ.
    """
    if len({path.stat().st_size for path in paths}) > 1:
        raise DataError(f"{listed(paths)} have one name but differ; keep the one that is meant")
    return paths[0] if paths else None


def read_headless(path: Path, columns: Sequence[str]) -> Sheet:
    """Read a CSV file without a header.

    Raises:
        DataError: the file cannot be read or a row has another number of cells.
    """
    rows = list(csv.reader(_lines(path)))
    for number, cells in enumerate(rows, start=1):
        if len(cells) != len(columns):
            raise DataError(
                f"{path}: row {number} has {len(cells)} cells; expected {', '.join(columns)}"
            )
    cells_by_column = tuple(dict(zip(columns, cells, strict=True)) for cells in rows)
    return Sheet(path, tuple(columns), cells_by_column, tuple(range(1, len(rows) + 1)))


def require_columns(sheet: Sheet, *columns: str) -> None:
    """Check that a table has these columns.

    Raises:
        DataError: one is missing; those found are listed.
    """
    missing = [column for column in columns if column not in sheet.columns]
    if missing:
        raise DataError(
            f"{sheet.path}: lacks the column {', '.join(missing)}; found "
            f"{', '.join(sheet.header or sheet.columns)}"
        )


def read_columns(path: Path, *required: str, optional: Iterable[str] = ()) -> Sheet:
    """Read some columns of a CSV file; a large table fits in memory so.

    Raises:
        DataError: the file cannot be read or a required column is missing.
    """
    sheet = read_sheet(path, columns={*required, *optional})
    require_columns(sheet, *required)
    return sheet


def _lines(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not UTF-8 text") from error
    return [line for line in text.splitlines() if line.strip()]
