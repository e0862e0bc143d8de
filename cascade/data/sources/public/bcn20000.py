"""BCN20000, from its own release or from the ISIC archive."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from cascade.data.sources.public.isic_client import LABELS as ISIC_ARCHIVE
from cascade.data.sources.public.isic_client import read_metadata
from cascade.data.sources.public.isic_one_hot import DIAGNOSES, ISIC_2019_LABELS, named
from cascade.data.sources.rows import (
    Label,
    Source,
    SourceTable,
    attributes,
    classifying,
    found_row,
)
from cascade.data.sources.source_files import Layout, read_columns

LABELS: Mapping[str, Label] = {
    **{code: label for code, label in ISIC_2019_LABELS.items() if code != "unk"},
    **ISIC_ARCHIVE,
}
"""Codes of the release, and values of ``diagnosis_1`` in the archive."""

_COLUMNS = {
    "lesion_id": "lesion_id", "age": "age_approx", "sex": "sex", "site": "anatom_site_general",
    "capture_date": "capture_date",
}  # fmt: skip


def read_bcn20000(layout: Layout) -> SourceTable:
    """Read ``bcn_20k_train.csv``, or metadata of the archive; the test part has no diagnoses."""
    path = layout.find("bcn_20k_train.csv")
    if path:
        return _read_release(layout, path)
    return read_metadata(
        layout, layout.require("bcn_20k_train.csv", "bcn20000_metadata*.csv", "metadata*.csv")
    )


def _read_release(layout: Layout, path: Path) -> SourceTable:
    sheet = read_columns(path, "bcn_filename", "diagnosis", "lesion_id", optional=_COLUMNS.values())
    rows = []
    with classifying(LABELS) as classify:
        for where, cells in sheet.places():
            stem = PurePosixPath(cells["bcn_filename"].strip()).stem
            known = {**attributes(cells, _COLUMNS), "diagnosis": named(cells["diagnosis"])}
            label = classify(cells["diagnosis"], where=where)
            rows.append(found_row(layout, stem, label, where, known))
    return SourceTable(tuple(rows), (path,))


BCN20000 = Source(
    "bcn20000",
    "BCN20000",
    "CC-BY-NC-4.0",
    read_bcn20000,
    labels=LABELS,
    names={**DIAGNOSES, "": "no diagnosis"},
    size="12,413 images with a diagnosis, 18,946 in the archive",
    classes="8",
    ids="lesions",
)
