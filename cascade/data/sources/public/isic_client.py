"""A folder written by ``isic image download``: images beside ``metadata.csv``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from cascade.data.sources.rows import (
    Label,
    Source,
    SourceTable,
    attributes,
    classifying,
    cleaned,
    found_row,
)
from cascade.data.sources.source_files import Layout
from cascade.data.spreadsheet import Sheet, read_sheet
from cascade.errors import DataError

LABELS: Mapping[str, Label] = {
    "benign": "benign", "malignant": "malignant", "indeterminate": "indeterminate",
    "indeterminate/benign": "indeterminate", "indeterminate/malignant": "indeterminate",
    "": "unknown",
}  # fmt: skip
"""Values of ``diagnosis_1``, or of ``benign_malignant`` in older downloads."""

_COLUMNS = {
    "patient_id": "patient_id", "lesion_id": "lesion_id", "sex": "sex",
    "site": "anatom_site_general", "license": "copyright_license", "attribution": "attribution",
}  # fmt: skip


def read_client(layout: Layout) -> SourceTable:
    """Read a download folder of the official client."""
    return read_metadata(layout, layout.require("metadata.csv", "metadata*.csv"))


def read_metadata(layout: Layout, path: Path) -> SourceTable:
    """Read a metadata table of the ISIC archive.

    Raises:
        DataError: the table has no column of names or of diagnoses, or an unknown diagnosis.
    """
    sheet = read_sheet(path)
    name_column = _first(sheet, "isic_id", "isic_ids", "image_name", "image")
    class_column = _first(sheet, "diagnosis_1", "benign_malignant")
    rows = []
    with classifying(LABELS) as classify:
        for where, cells in sheet.places():
            known = attributes(cells, _COLUMNS)
            known["age"] = cleaned(cells.get("age_approx", cells.get("age", "")))
            known["diagnosis"] = deepest(cells)
            label = classify(cleaned(cells[class_column]), where=where)
            rows.append(found_row(layout, cells[name_column].strip(), label, where, known))
    return SourceTable(tuple(rows), (path,))


def _first(sheet: Sheet, *columns: str) -> str:
    for column in columns:
        if column in sheet.columns:
            return column
    raise DataError(
        f"{sheet.path}: has none of the columns {', '.join(columns)}; "
        f"found {', '.join(sheet.columns)}"
    )


def deepest(cells: Mapping[str, str], prefix: str = "diagnosis") -> str:
    """The most detailed of five levels of a diagnosis that is filled in."""
    columns = (*(f"{prefix}_{level}" for level in (5, 4, 3, 2, 1)), prefix)
    return next((text for column in columns if (text := cleaned(cells.get(column)))), "")


ISIC_CLIENT = Source(
    "isic_client",
    "ISIC archive, downloaded with the isic client",
    "per image",
    read_client,
    labels=LABELS,
    names={"": "no diagnosis"},
    size="as downloaded",
    classes="those of the archive",
    ids="patients, lesions",
)
