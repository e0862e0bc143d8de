"""derm7pt, the seven-point checklist: a dermoscopic and a clinical image of each case."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from cascade.data.sources.rows import (
    Label,
    Source,
    SourceTable,
    Split,
    attributes,
    classifying,
    found_row,
)
from cascade.data.sources.source_files import Layout, read_columns
from cascade.data.spreadsheet import listed
from cascade.errors import DataError

LABELS: Mapping[str, Label] = {
    "basal cell carcinoma": "malignant", "melanoma": "malignant",
    "melanoma (in situ)": "malignant", "melanoma (less than 0.76 mm)": "malignant",
    "melanoma (0.76 to 1.5 mm)": "malignant", "melanoma (more than 1.5 mm)": "malignant",
    "melanoma metastasis": "malignant", "blue nevus": "benign", "clark nevus": "benign",
    "combined nevus": "benign", "congenital nevus": "benign", "dermal nevus": "benign",
    "recurrent nevus": "benign", "reed or spitz nevus": "benign", "dermatofibroma": "benign",
    "lentigo": "benign", "melanosis": "benign", "seborrheic keratosis": "benign",
    "vascular lesion": "benign", "miscellaneous": "unknown",
}  # fmt: skip
_CHECKLIST = (
    "seven_point_score", "pigment_network", "streaks", "pigmentation", "regression_structures",
    "dots_and_globules", "blue_whitish_veil", "vascular_structures", "elevation",
)  # fmt: skip
_COLUMNS = {
    "diagnosis": "diagnosis", "sex": "sex", "site": "location",
    **{column: column for column in _CHECKLIST},
}  # fmt: skip
_PARTS: tuple[tuple[str, Split], ...] = (("train", "train"), ("valid", "train"), ("test", "test"))


def read_derm7pt(layout: Layout) -> SourceTable:
    """Read ``release_v0``: the dermoscopic images; the clinical ones are left out and counted.

    The seven points are kept as columns. Validation cases count as training.
    """
    path = layout.require("meta.csv")
    sheet = read_columns(
        path, "case_num", "diagnosis", "derm", "clinic", optional=_COLUMNS.values()
    )
    sides, files = _sides(layout, len(sheet.rows), path)
    rows, others = [], set()
    with classifying(LABELS) as classify:
        for (where, cells), side in zip(sheet.places(), sides, strict=True):
            stem = PurePosixPath(cells["derm"].strip()).stem
            others.add(PurePosixPath(cells["clinic"].strip()).stem)
            known = attributes(cells, _COLUMNS)
            known["lesion_id"] = f"DERM7PT_{cells['case_num'].strip()}"
            label = classify(cells["diagnosis"], where=where)
            rows.append(found_row(layout, stem, label, where, known, side))
    others -= {row.stem for row in rows}
    return SourceTable(
        tuple(rows),
        (path, *files),
        notes=(f"{len(rows)} dermoscopic images; {len(others)} clinical images left out",),
        left_out=frozenset(others),
    )


def _sides(layout: Layout, count: int, table: Path) -> tuple[list[Split], list[Path]]:
    """The side of each row; all are training where there is no file of indexes.

    Raises:
        DataError: one of the files is missing, or a row is in none or in two of them.
    """
    found = [(layout.find(f"{part}_indexes.csv"), split) for part, split in _PARTS]
    files = [path for path, _ in found if path]
    if not files:
        return ["train"] * count, []
    sides: dict[int, Split] = {}
    for (path, split), (part, _) in zip(found, _PARTS, strict=True):
        if path is None:
            raise DataError(f"{layout.root}: lacks {part}_indexes.csv; add it beside {files[0]}")
        for where, cells in read_columns(path, "indexes").places():
            text = cells["indexes"].strip()
            index = int(text) if text.isdecimal() else -1
            if not 0 <= index < count or index in sides:
                raise DataError(
                    f"{where}: index {text!r} is not one of the {count} rows of {table.name}, "
                    "or is there twice"
                )
            sides[index] = split
    if len(sides) < count:
        rest = listed(index for index in range(count) if index not in sides)
        raise DataError(f"{table}: {count - len(sides)} rows are in no file of indexes: {rest}")
    return [sides[index] for index in range(count)], files


DERM7PT = Source(
    "derm7pt",
    "derm7pt (seven-point checklist)",
    "for research only, see its terms",
    read_derm7pt,
    labels=LABELS,
    size="1,011 dermoscopic images, one of each case",
    ids="lesions",
)
