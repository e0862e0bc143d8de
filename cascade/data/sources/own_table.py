"""A table of one's own beside a folder of images."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from cascade.data.sources.annotations import DrawnMask, cell_mask
from cascade.data.sources.class_folders import SPLITS
from cascade.data.sources.own_columns import Columns, find_columns
from cascade.data.sources.own_data import PLAIN, OwnData, class_key, class_meaning, told
from cascade.data.sources.own_files import OwnFiles, left_out_warnings, own_path
from cascade.data.sources.rows import ATTRIBUTES, Label, Source, SourceRow, SourceTable, cleaned
from cascade.data.sources.source_files import Layout
from cascade.data.sources.table_files import TABLE_SUFFIXES, read_any_sheet
from cascade.data.spreadsheet import Sheet, listed
from cascade.errors import DataError

_OWN_COLUMNS = {"name", "class", "source", *ATTRIBUTES}


def read_own_table(layout: Layout, choices: OwnData | None = None) -> SourceTable:
    """Read a table whose columns are named by ``choices``, or found where only one can be meant.

    Raises:
        DataError: a column, image or class could be two, or is not there.
    """
    choices = choices or OwnData()
    files = OwnFiles(layout, choices.masks)
    sheet = read_any_sheet(_table_path(layout, choices))
    columns = find_columns(sheet, choices, files.fitting)
    meaning: dict[str, Label] = {}
    classes = ""
    if columns.label:
        words = {row[columns.label] for row in sheet.rows}
        place = f"{sheet.path}: column {columns.label}"
        meaning = class_meaning(words, choices.malignant, place=place)
        classes = told(words, meaning)
    images = [
        (where, cells, files.image(cells[columns.image], where=where))
        for where, cells in sheet.places()
    ]
    names = files.names(list(dict.fromkeys(path for _, _, path in images if path)))
    rows = []
    for where, cells, path in images:
        side = SPLITS[cells[columns.split].strip().casefold()] if columns.split else "train"
        rows.append(
            SourceRow(
                stem=names[path] if path else _bare_name(cells[columns.image], where),
                label=meaning[class_key(cells[columns.label])] if columns.label else "unknown",
                split=side,
                where=where,
                image=path,
                mask=_mask(files, path, cells, columns, where) if path else None,
                attributes=_attributes(cells, columns),
            )
        )
    return SourceTable(
        tuple(rows),
        (sheet.path,),
        has_labels=columns.label is not None,
        why_no_labels=columns.no_label,
        warnings=(*_unlisted(files, [path for _, _, path in images]), *left_out_warnings(files)),
        mask_files=files.mask_files,
        notes=_notes(sheet, columns, classes),
    )


def _mask(
    files: OwnFiles, image: Path, cells: Mapping[str, str], columns: Columns, where: str
) -> Path | DrawnMask | None:
    """The mask in the row or beside the image.

    Raises:
        DataError: there are both.
    """
    drawn = cell_mask(cells[columns.mask], where) if columns.mask else None
    saved = files.mask(image)
    if drawn and saved:
        other = saved.where if isinstance(saved, DrawnMask) else saved
        raise DataError(f"{where}: has a mask in the column {columns.mask}, and {other} is another")
    return drawn or saved


def _table_path(layout: Layout, choices: OwnData) -> Path:
    if choices.table:
        return own_path(layout.root, choices.table, flag="table")
    found = [path for path in layout.tables() if path.suffix.lower() in TABLE_SUFFIXES]
    if len(found) != 1:
        names = f": {listed(path.relative_to(layout.root) for path in found)}" if found else ""
        raise DataError(
            f"{layout.root}: holds {'several tables' if found else 'no table'}{names}; "
            "name one with --table" + (f"; or {layout.packed()}" if layout.packed() else "")
        )
    return found[0]


def _bare_name(cell: str, where: str) -> str:
    """The name of an image that is not there."""
    name = re.split(r"[/\\]", cell.strip())[-1]
    if not name:
        raise DataError(f"{where}: names no image; fill in the cell or remove the row")
    return Path(name).stem if Path(name).suffix.lower() in (".jpg", ".jpeg", ".png") else name


def _attributes(cells: Mapping[str, str], columns: Columns) -> dict[str, str]:
    """All cells under the names of the project; columns of other names keep theirs."""
    named = {**columns.attributes}
    named |= {"patient_id": columns.patient} if columns.patient else {}
    named |= {"lesion_id": columns.lesion} if columns.lesion else {}
    found = {name: cleaned(cells[column]) for name, column in named.items()}
    found["age"] = re.sub(r"^(\d+),(\d+)$", r"\1.\2", found.get("age", ""))
    if columns.label and class_key(cells[columns.label]) not in PLAIN:
        found.setdefault("diagnosis", cleaned(cells[columns.label]))
    used = {columns.image, columns.label, columns.mask, *named.values()}
    for column in cells:
        if column not in used:
            found[f"table_{column}" if column in _OWN_COLUMNS else column] = cells[column]
    return found


def _unlisted(files: OwnFiles, listed_images: list[Path | None]) -> tuple[str, ...]:
    extra = sorted(set(files.images).difference(filter(None, listed_images)))
    if not extra:
        return ()
    names = listed(path.relative_to(files.root) for path in extra)
    return (f"images that are in no row of the table, left out ({len(extra)}): {names}",)


def _notes(sheet: Sheet, columns: Columns, classes: str) -> tuple[str, ...]:
    notes = [f"{sheet.path.name}: {len(sheet.rows)} rows, images in the column {columns.image}"]
    if columns.label:
        notes.append(f"classes in the column {columns.label}, {classes}")
    for what, column in (("patients", columns.patient), ("lesions", columns.lesion)):
        notes.append(f"{what} in the column {column}" if column else f"no column of {what}")
    if columns.mask:
        notes.append(f"masks in the column {columns.mask}, pairs as on Kaggle column by column")
    if columns.split:
        counts = Counter(row[columns.split] for row in sheet.rows)
        parts = ", ".join(f"{word} ({n})" for word, n in sorted(counts.items()))
        notes.append(f"parts in the column {columns.split}: {parts}")
    renamed = [
        f"{column} as {name}" for name, column in columns.attributes.items() if name != column
    ]
    if renamed:
        notes.append(f"kept under another name: {', '.join(renamed)}")
    return tuple(notes)


TABLE = Source(
    "table",
    "a table and a folder of images",
    "of the data set",
    read_own_table,
    takes=(
        "malignant", "table", "image_column", "class_column", "patient_column", "lesion_column",
        "masks", "mask_column",
    ),
    labels=PLAIN,
    size="yours",
    classes="yours",
    masks="if present",
    ids="patients, lesions",
)  # fmt: skip
