"""HAM10000 (ISIC 2018 task 3) and ISIC 2019: one diagnosis per image."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from cascade.data.sources.rows import (
    Label,
    Source,
    SourceRow,
    SourceTable,
    Split,
    attributes,
    classifying,
    found_row,
)
from cascade.data.sources.source_files import Layout, require_columns
from cascade.data.spreadsheet import Sheet, read_sheet
from cascade.errors import DataError

HAM10000_LABELS: Mapping[str, Label] = {
    "mel": "malignant", "bcc": "malignant", "akiec": "indeterminate", "nv": "benign",
    "bkl": "benign", "df": "benign", "vasc": "benign",
}  # fmt: skip
ISIC_2019_LABELS: Mapping[str, Label] = {
    "mel": "malignant", "bcc": "malignant", "scc": "malignant", "ak": "indeterminate",
    "nv": "benign", "bkl": "benign", "df": "benign", "vasc": "benign", "unk": "unknown",
}  # fmt: skip
DIAGNOSES = {
    "mel": "melanoma", "bcc": "basal cell carcinoma", "scc": "squamous cell carcinoma",
    "akiec": "actinic keratosis or intraepithelial carcinoma", "ak": "actinic keratosis",
    "nv": "nevus", "bkl": "benign keratosis", "df": "dermatofibroma", "vasc": "vascular lesion",
    "unk": "none of the others",
}  # fmt: skip
_HAM_COLUMNS = {"lesion_id": "lesion_id", "age": "age", "sex": "sex", "site": "localization"}
_2019_COLUMNS = {
    "lesion_id": "lesion_id",
    "age": "age_approx",
    "sex": "sex",
    "site": "anatom_site_general",
}
_NO_LESIONS = (
    "lesions cannot be kept on one side of a split: {} is missing, and this data set "
    "holds several images of one lesion"
)


def read_ham10000(layout: Layout) -> SourceTable:
    """Read HAM10000 with either its metadata or the tables of ISIC 2018 task 3."""
    training = layout.require(
        "HAM10000_metadata", "HAM10000_metadata.*", "ISIC2018_Task3_Training_GroundTruth.*"
    )
    others: tuple[tuple[str, Split], ...] = (
        ("ISIC2018_Task3_Validation_GroundTruth.*", "train"),
        ("ISIC2018_Task3_Test_GroundTruth.*", "test"),
    )
    parts: list[tuple[Path, Split]] = [(training, "train")]
    parts += [(path, split) for pattern, split in others if (path := layout.find(pattern))]
    groupings = layout.find("ISIC2018_Task3_Training_LesionGroupings.csv")
    lesions = {}
    if groupings:
        sheet = read_sheet(groupings)
        require_columns(sheet, "image", "lesion_id")
        lesions = {row["image"]: {"lesion_id": row["lesion_id"]} for row in sheet.rows}
    rows: list[SourceRow] = []
    for path, split in parts:
        sheet = read_sheet(path)
        if "dx" in sheet.columns:
            rows += _coded_rows(layout, sheet, split)
        else:
            rows += _one_hot_rows(layout, sheet, HAM10000_LABELS, split, lesions)
    name = "ISIC2018_Task3_Training_LesionGroupings.csv"
    return SourceTable(
        tuple(rows),
        tuple([path for path, _ in parts] + ([groupings] if groupings else [])),
        warnings=_lesion_warning(rows, name),
    )


def read_2019(layout: Layout) -> SourceTable:
    """Read ISIC 2019."""
    rows: list[SourceRow] = []
    files: list[Path] = []
    splits: tuple[tuple[str, Split], ...] = (("Training", "train"), ("Test", "test"))
    for word, split in splits:
        pattern = f"ISIC_2019_{word}_GroundTruth.csv"
        path = layout.require(pattern) if split == "train" else layout.find(pattern)
        if path is None:
            continue
        files.append(path)
        known = {}
        metadata = layout.find(f"ISIC_2019_{word}_Metadata.csv")
        if metadata:
            files.append(metadata)
            sheet = read_sheet(metadata)
            require_columns(sheet, "image")
            known = {row["image"]: attributes(row, _2019_COLUMNS) for row in sheet.rows}
        rows += _one_hot_rows(layout, read_sheet(path), ISIC_2019_LABELS, split, known)
    warnings = _lesion_warning(rows, "ISIC_2019_Training_Metadata.csv")
    return SourceTable(tuple(rows), tuple(files), warnings=warnings)


def _lesion_warning(rows: Iterable[SourceRow], name: str) -> tuple[str, ...]:
    training = [row for row in rows if row.split == "train"]
    known = any(row.attributes.get("lesion_id") for row in training)
    return () if known else (_NO_LESIONS.format(name),)


def _coded_rows(layout: Layout, sheet: Sheet, split: Split) -> list[SourceRow]:
    """Rows of a table with one code in the column ``dx``."""
    require_columns(sheet, "image_id", "lesion_id", "dx")
    rows = []
    with classifying(HAM10000_LABELS) as classify:
        for where, cells in sheet.places():
            stem, known = cells["image_id"].strip(), attributes(cells, _HAM_COLUMNS)
            known["diagnosis"] = named(cells["dx"])
            label = classify(cells["dx"], where=where)
            rows.append(found_row(layout, stem, label, where, known, split))
    return rows


def _one_hot_rows(
    layout: Layout,
    sheet: Sheet,
    labels: Mapping[str, Label],
    split: Split,
    known: Mapping[str, Mapping[str, str]],
) -> list[SourceRow]:
    """Rows of a table with one column per diagnosis."""
    codes = [column for column in sheet.columns if column.casefold() in labels]
    required = {code.upper() for code in labels if code != "unk"}
    require_columns(sheet, "image", *sorted(required))
    rows = []
    for where, cells in sheet.places():
        stem = cells["image"].strip()
        code = hot(cells, codes, where)
        label, own = labels[code.casefold()], {**known.get(stem, {}), "diagnosis": named(code)}
        rows.append(found_row(layout, stem, label, where, own, split))
    return rows


def hot(cells: Mapping[str, str], codes: Sequence[str], where: str) -> str:
    """The one column that holds 1.

    Raises:
        DataError: none or several do, or a cell holds something else.
    """
    values = {"0": 0, "0.0": 0, "1": 1, "1.0": 1}
    numbers = [values.get(cells[code].strip(), -1) for code in codes]
    if -1 in numbers or sum(numbers) != 1:
        found = ", ".join(f"{code} {cells[code]}" for code in codes)
        raise DataError(f"{where}: expected one 1 and else 0, got {found}")
    return codes[numbers.index(1)]


def named(code: str) -> str:
    """The diagnosis that a code of the challenges means, or the code itself."""
    return DIAGNOSES.get(code.strip().casefold(), code)


HAM10000 = Source(
    "ham10000",
    "HAM10000, also ISIC 2018 challenge task 3",
    "CC-BY-NC-4.0",
    read_ham10000,
    aliases=("isic2018_task3",),
    labels=HAM10000_LABELS,
    names=DIAGNOSES,
    size="10,015 images, 11,720 with those of task 3",
    masks="if present",
    ids="lesions",
)
ISIC_2019 = Source(
    "isic2019",
    "ISIC 2019 challenge",
    "CC-BY-NC-4.0",
    read_2019,
    labels=ISIC_2019_LABELS,
    names=DIAGNOSES,
    size="25,331 images, 33,569 with the test part",
    ids="lesions",
)
