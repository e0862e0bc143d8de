"""ISIC 2024 (SLICE-3D): tiles of total body photography, as files or in one HDF5 file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from cascade.data.sources.packed import Hdf5Images, PackedImage
from cascade.data.sources.public.isic_client import deepest
from cascade.data.sources.rows import (
    Label,
    Source,
    SourceRow,
    SourceTable,
    attributes,
    classifying,
    cleaned,
)
from cascade.data.sources.source_files import Layout, read_columns
from cascade.data.spreadsheet import Sheet, listed
from cascade.errors import DataError

LABELS: Mapping[str, Label] = {
    "malignant": "malignant", "1": "malignant", "1.0": "malignant", "benign": "benign",
    "0": "benign", "0.0": "benign", "indeterminate": "indeterminate",
}  # fmt: skip
"""Values of ``iddx_1``, or of the target where that column is not there."""

NAMES = {"1": "malignant", "1.0": "malignant", "0": "benign", "0.0": "benign"}
_TARGETS = ("target", "malignant")
_COLUMNS = {
    "patient_id": "patient_id", "lesion_id": "lesion_id", "age": "age_approx", "sex": "sex",
    "site": "anatom_site_general", "license": "copyright_license", "attribution": "attribution",
}  # fmt: skip
_LEVELS = tuple(f"iddx_{level}" for level in (1, 2, 3, 4, 5))


def read_2024(layout: Layout) -> SourceTable:
    """Read the table of Kaggle, or those of the challenge's own page, and find the tiles.

    A tile is a file, or else a member of ``train-image.hdf5``.
    """
    first = layout.require("train-metadata.csv", "ISIC_2024_*Training_GroundTruth.csv")
    sheets = [_read(first)]
    if first.name.lower() != "train-metadata.csv":
        others = (layout.find("ISIC_2024_*Training_Supplement.csv"), layout.find("metadata.csv"))
        sheets += [_read(path) for path in others if path]
    joined: dict[str, dict[str, str]] = {}
    for sheet in sheets[1:]:
        for cells in sheet.rows:
            joined.setdefault(cells["isic_id"].strip(), {}).update(cells)
    rows: list[SourceRow] = []
    with classifying(LABELS) as classify:
        for where, own in sheets[0].places():
            stem = own["isic_id"].strip()
            cells = {**joined.get(stem, {}), **own}
            words = (cleaned(cells.get(name)) for name in ("iddx_1", *_TARGETS))
            label = classify(next(filter(None, words), ""), where=where)
            _check_agreement(cells, label, where)
            known = {**attributes(cells, _COLUMNS), "diagnosis": deepest(cells, "iddx")}
            image = layout.image(stem)
            rows.append(SourceRow(stem, label, "train", where, image, layout.mask(stem), known))
    rows, packed, warnings = _with_members(layout, rows)
    files = (*(sheet.path for sheet in sheets), *packed)
    return SourceTable(tuple(rows), files, warnings=warnings)


def _read(path: Path) -> Sheet:
    wanted = (*_COLUMNS.values(), *_LEVELS, *_TARGETS)
    return read_columns(path, "isic_id", optional=wanted)


def _check_agreement(cells: Mapping[str, str], label: Label, where: str) -> None:
    """Check that target and diagnosis say the same; the challenge counts indeterminate as 0."""
    official = "malignant" if label == "malignant" else "benign"
    for column in _TARGETS:
        target = cells.get(column, "").strip()
        if label != "unknown" and target and LABELS.get(target.casefold()) != official:
            raise DataError(
                f"{where}: diagnosis {cells.get('iddx_1', '')!r} and {column} {target!r} "
                "contradict each other"
            )


def _with_members(
    layout: Layout, rows: list[SourceRow]
) -> tuple[list[SourceRow], tuple[Path, ...], tuple[str, ...]]:
    """Take the tiles that are no files from the HDF5 file, if there is one."""
    path = layout.find("train-image.hdf5", "train-image.h5")
    if path is None or all(row.image for row in rows):
        return rows, (), ()
    images = Hdf5Images(path)
    found = [
        row
        if row.image or row.stem not in images.names
        else SourceRow(
            row.stem, row.label, row.split, row.where, PackedImage(images, row.stem), row.mask,
            row.attributes,
        )
        for row in rows
    ]  # fmt: skip
    extra = sorted(images.names.difference(row.stem for row in rows))
    warning = f"images of {path.name} that are in no row of the tables ({len(extra)}): "
    return found, (path,), (warning + listed(extra),) if extra else ()


ISIC_2024 = Source(
    "isic2024",
    "ISIC 2024 challenge (SLICE-3D)",
    "CC-BY-NC-4.0, per image",
    read_2024,
    aliases=("slice3d",),
    labels=LABELS,
    names=NAMES,
    size="401,059 tiles of 1,042 patients, from total body photography",
    classes="52",
    ids="patients, lesions",
)
