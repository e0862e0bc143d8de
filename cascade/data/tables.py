"""Tables of images: CSV in, checked records out.

A table has the columns ``name`` and ``class`` and any others. Images lie in ``images_all`` and
masks in ``masks_all`` beside it. Nothing is guessed: an unknown class, an unsafe name or a missing
file is an error that lists the rows.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import overload

import numpy as np

from cascade.config import CLASSES, did_you_mean
from cascade.data.class_column import ClassColumn
from cascade.data.grouping import check_id_columns, group_names, grouping_warnings
from cascade.data.locate import FileFinder, match_stem, unsafe_name
from cascade.data.spreadsheet import Sheet, listed, read_csv, read_sheet
from cascade.errors import DataError
from cascade.files import file_digest

__all__ = ["Record", "Table", "match_stem", "read_csv", "read_table"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Record:
    """One image.

    Attributes:
        name: as written in the table, always text.
        label: ``benign`` or ``malignant``; ``None`` where the table has no class column.
        group: name of the group that must stay on one side of a split.
        image_path: the image's file.
        mask_path: the mask's file, or ``None`` if there is none.
        attributes: all other columns as text.
    """

    name: str
    label: str | None
    group: str
    image_path: Path
    mask_path: Path | None
    attributes: Mapping[str, str]

    @property
    def stem(self) -> str:
        """The name without folder, suffix and ``_segmentation``."""
        return match_stem(self.name)


@dataclass(frozen=True)
class Table(Sequence[Record]):
    """Checked records in the order of their rows.

    Attributes:
        path: the CSV file.
        records: one per image.
        warnings: what was accepted but should be known; logged when the table was read.
    """

    path: Path
    records: tuple[Record, ...]
    warnings: tuple[str, ...] = ()

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Record]: ...
    def __getitem__(self, index: int | slice) -> Record | Sequence[Record]:
        return self.records[index]

    def __len__(self) -> int:
        return len(self.records)

    def labels(self) -> np.ndarray:
        """``(N,)`` int64: 0 for benign, 1 for malignant.

        Raises:
            DataError: the table has no class column.
        """
        if not self.labelled:
            raise DataError(f"{self.path}: has no column 'class', which is needed here")
        return np.array([CLASSES.index(str(record.label)) for record in self], dtype=np.int64)

    @property
    def labelled(self) -> bool:
        """Whether each record has a label."""
        return all(record.label is not None for record in self.records)

    def groups(self) -> list[str]:
        """The name of each record's group."""
        return [record.group for record in self.records]

    def names(self) -> list[str]:
        """The name of each record."""
        return [record.name for record in self.records]

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the sorted names, labels and groups, as hexadecimal text."""
        rows = sorted((record.name, record.label or "", record.group) for record in self.records)
        return hashlib.sha256(json.dumps(rows).encode()).hexdigest()

    @cached_property
    def mask_digest(self) -> str:
        """SHA-256 over the names and the files of all masks, as hexadecimal text."""
        masks = sorted(
            (record.name, file_digest(record.mask_path)) for record in self if record.mask_path
        )
        return hashlib.sha256(json.dumps(masks).encode()).hexdigest()

    def subset(self, names: Iterable[str]) -> Table:
        """The records with these names, in the table's order.

        Raises:
            DataError: a name is not in the table.
        """
        wanted = set(names)
        unknown = wanted.difference(self.names())
        if unknown:
            raise DataError(f"{self.path}: has no row for {listed(sorted(unknown))}")
        return replace(self, records=tuple(item for item in self.records if item.name in wanted))

    def with_mask(self) -> Table:
        """The records that have a mask."""
        return replace(self, records=tuple(item for item in self.records if item.mask_path))

    def with_masks_from(self, folder: str | os.PathLike[str]) -> Table:
        """Take the masks from another folder, as ``STEM.png``; predicted masks for instance.

        Raises:
            DataError: masks are missing (listed).
        """
        found = self.with_masks_found_in(folder)
        there = set(found.names())
        missing = [name for name in self.names() if name not in there]
        if missing:
            raise DataError(f"{folder}: {len(missing)} masks are missing: {listed(missing)}")
        return found

    def with_masks_found_in(self, folder: str | os.PathLike[str]) -> Table:
        """The records that have a mask ``STEM.png`` in another folder, with that one.

        Raises:
            DataError: the folder is missing.
        """
        finder = FileFinder(_folder(folder, what="mask"))
        pairs = [(record, finder.mask(record.name)) for record in self.records]
        records = [replace(record, mask_path=path) for record, path in pairs if path]
        return replace(self, records=tuple(records))


def read_table(
    path: str | os.PathLike[str],
    *,
    images: str | os.PathLike[str] | None = None,
    masks: str | os.PathLike[str] | None = None,
    label_map: Mapping[str, str] | None = None,
    classes: ClassColumn | None = None,
    require_labels: bool = True,
    require_masks: bool = False,
    skip_missing: bool = False,
    check_files: bool = True,
) -> Table:
    """Read and check a table.

    Args:
        path: CSV file with the columns ``name`` and ``class``.
        images: folder of images; by default ``images_all`` beside the table.
        masks: folder of masks; by default ``masks_all`` beside the table.
        label_map: what other words in the class column mean, such as ``{"yes": "malignant"}``.
        classes: the column of classes of any names, which become the diagnoses.
        require_labels: refuse a table without a class column.
        require_masks: a missing mask counts as a missing file.
        skip_missing: leave out rows whose files are missing, and count them in the warnings.
        check_files: look whether the files exist.

    Raises:
        DataError: the file cannot be read, a column is missing, a column of ids is called by
            another name than the one that is read, a name is unsafe, a class is unknown or
            contradicts another row, or files are missing. Rows are numbered as a spreadsheet
            shows them.
    """
    sheet = read_sheet(path) if classes is None else classes.applied(read_sheet(path))
    _require_columns(sheet, ("name", "class") if require_labels else ("name",))
    check_id_columns(sheet.path, sheet.columns)
    names = _checked_names(sheet)
    labels = _checked_labels(sheet, label_map or {})
    stems = [match_stem(name) for name in names]
    groups = group_names(sheet.rows, stems)
    kept, warnings = _without_repeats(sheet, names, labels)
    warnings += grouping_warnings([sheet.rows[index] for index in kept])
    beside = sheet.path.parent
    image_finder = FileFinder(_folder(images or beside / "images_all", check=check_files))
    mask_finder = FileFinder(
        _folder(masks or beside / "masks_all", what="mask", check=masks is not None)
    )
    image_paths = {index: image_finder.image(names[index]) for index in kept}
    mask_paths = {index: mask_finder.mask(names[index]) for index in kept}
    for finder, paths, what, needed in (
        (image_finder, image_paths, "image", check_files),
        (mask_finder, mask_paths, "mask", require_masks),
    ):
        missing = [index for index in kept if paths[index] is None] if needed else []
        if missing:
            text = _missing_files(finder, [names[index] for index in missing], what)
            if not skip_missing or len(missing) == len(kept):
                raise DataError(f"{sheet.path}: {text}; add them, or --skip_missing")
            warnings.append(f"rows left out, {text}")
            kept = [index for index in kept if paths[index] is not None]
    jpegs = sum(str(mask_paths[index]).lower().endswith((".jpg", ".jpeg")) for index in kept)
    if jpegs:
        warnings.append(f"{jpegs} masks are JPEG files, whose values are cut at the middle")
    records = tuple(
        Record(
            name=names[index],
            label=labels[index],
            group=groups[index],
            image_path=image_paths[index] or image_finder.root / names[index],
            mask_path=mask_paths[index],
            attributes={
                column: cell
                for column, cell in sheet.rows[index].items()
                if column not in ("name", "class")
            },
        )
        for index in kept
    )
    for warning in warnings:
        log.warning("%s: %s", sheet.path, warning)
    return Table(sheet.path, records, tuple(warnings))


def _folder(path: str | os.PathLike[str], *, what: str = "image", check: bool = True) -> Path:
    folder = Path(path)
    if check and not folder.is_dir():
        raise DataError(f"{folder}: this folder of {what}s does not exist")
    return folder


def _require_columns(sheet: Sheet, needed: Iterable[str]) -> None:
    for column in needed:
        if column not in sheet.columns:
            count = len(sheet.columns)
            raise DataError(
                f"{sheet.path}: column {column!r} is missing; found {count} "
                f"column{'s' if count > 1 else ''}: {', '.join(sheet.columns)}"
                f"{did_you_mean(column, [name for name in sheet.columns if name not in needed])}"
            )


def _checked_names(sheet: Sheet) -> list[str]:
    names = [row["name"].strip() for row in sheet.rows]
    problems = [
        f"row {number}: name {name!r} {reason}"
        for number, name in zip(sheet.numbers, names, strict=True)
        if (reason := unsafe_name(name))
    ]
    if problems:
        raise DataError(f"{sheet.path}: {listed(problems, limit=5)}")
    return names


def _checked_labels(sheet: Sheet, label_map: Mapping[str, str]) -> list[str | None]:
    meaning = {name: name for name in CLASSES}
    for word, label in label_map.items():
        if label not in CLASSES:
            raise DataError(f"label_map: {word!r} means {label!r}; use {' or '.join(CLASSES)}")
        meaning[word.strip().casefold()] = label
    if "class" not in sheet.columns:
        return [None] * len(sheet.rows)
    words = [row["class"].strip() for row in sheet.rows]
    unknown: dict[str, list[int]] = {}
    for number, word in zip(sheet.numbers, words, strict=True):
        if word.casefold() not in meaning:
            unknown.setdefault(word, []).append(number)
    if unknown:
        found = [
            f"{word!r} (row{'s' if len(rows) > 1 else ''} {listed(rows)})"
            for word, rows in unknown.items()
        ]
        raise DataError(
            f"{sheet.path}: class is {listed(found, limit=5)}; use {' or '.join(CLASSES)}, or say "
            f"what it means: label_map={{{next(iter(unknown))!r}: {CLASSES[1]!r}}}"
        )
    return [meaning[word.casefold()] for word in words]


def _without_repeats(
    sheet: Sheet, names: Sequence[str], labels: Sequence[str | None]
) -> tuple[list[int], list[str]]:
    """Keep the first row of each image.

    Raises:
        DataError: two rows of one image differ in class, or two images have the same stem, so that
            their masks could not be told apart.
    """
    first: dict[str, int] = {}
    repeats = []
    for index, name in enumerate(names):
        earlier = first.setdefault(match_stem(name), index)
        if earlier == index:
            continue
        rows = f"{sheet.path}: rows {sheet.numbers[earlier]} and {sheet.numbers[index]}"
        if not _same_image(names[earlier], name):
            raise DataError(
                f"{rows}: {names[earlier]!r} and {name!r} differ in folder or suffix only, so "
                "their masks cannot be told apart; rename one"
            )
        if labels[earlier] != labels[index]:
            raise DataError(
                f"{rows}: {name!r} is {labels[earlier]} and {labels[index]}; remove the wrong row"
            )
        repeats.append(sheet.numbers[index])
    warnings = [f"{len(repeats)} repeated rows left out: {listed(repeats)}"] if repeats else []
    return list(first.values()), warnings


def _same_image(first: str, second: str) -> bool:
    """Whether two names with one stem mean one file; a suffix may be left out."""
    one, other = PurePosixPath(first), PurePosixPath(second)
    bare = match_stem(first) in (one.name, other.name)
    return one.parent == other.parent and (one.name == other.name or bare)


def _missing_files(finder: FileFinder, names: Sequence[str], what: str) -> str:
    near = finder.other_endings(names[0]) if what == "image" else []
    hint = f" (there is {near[0]})" if near else ""
    count = f"{len(names)} {what} file{'s are' if len(names) > 1 else ' is'}"
    return f"{count} missing in {finder.root}: {listed(names)}{hint}"
