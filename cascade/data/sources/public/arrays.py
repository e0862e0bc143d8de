"""Data sets of reduced images in NumPy arrays: DermaMNIST and SIIM-ISIC."""

from __future__ import annotations

from collections.abc import Mapping

from cascade.data.sources.packed import ArrayImages, PackedImage, read_labels
from cascade.data.sources.public.isic_challenges import LABELS_2020, NAMES_2020, rows_2020
from cascade.data.sources.public.isic_one_hot import DIAGNOSES, HAM10000_LABELS
from cascade.data.sources.rows import (
    Label,
    Source,
    SourceRow,
    SourceTable,
    Split,
    classifying,
)
from cascade.data.sources.source_files import Layout
from cascade.errors import DataError

_CODES = ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")
"""Codes of HAM10000 in the order of DermaMNIST's numbers."""

DERMAMNIST_LABELS: Mapping[str, Label] = {
    str(number): HAM10000_LABELS[code] for number, code in enumerate(_CODES)
}
DERMAMNIST_DIAGNOSES = {str(number): DIAGNOSES[code] for number, code in enumerate(_CODES)}
_PARTS: tuple[tuple[str, Split], ...] = (("train", "train"), ("val", "train"), ("test", "test"))
_NO_LESIONS = (
    "images of one lesion are on both sides of the parts of DermaMNIST, which does not say which; "
    "HAM10000 does"
)


def read_dermamnist(layout: Layout) -> SourceTable:
    """Read ``dermamnist.npz`` or ``dermamnist_64.npz`` and the like; validation is training."""
    path = layout.require("dermamnist*.npz")
    rows: list[SourceRow] = []
    notes: dict[str, None] = {}
    with classifying(DERMAMNIST_LABELS) as classify:
        for part, split in _PARTS:
            images = ArrayImages(path, f"{part}_images")
            notes[images.note] = None
            labels = read_labels(path, f"{part}_labels", images.count)
            for index, number in enumerate(labels.tolist()):
                stem = f"dermamnist_{part}_{index:05d}"
                code, where = str(number), f"{path.name} {part}_labels[{index}]"
                known = {"diagnosis": DERMAMNIST_DIAGNOSES.get(code, "")}
                label = classify(code, where=where)
                image = PackedImage(images, str(index))
                rows.append(SourceRow(stem, label, split, where, image, None, known))
    return SourceTable(tuple(rows), (path,), warnings=(_NO_LESIONS,), notes=tuple(notes))


def read_siim_arrays(layout: Layout) -> SourceTable:
    """Read ``x_train_N.npy``, whose images are in the order of the competition's ``train.csv``."""
    path, table = layout.require("x_train_*.npy"), layout.require("train.csv")
    images, found = ArrayImages(path), rows_2020(table)
    if images.count != len(found):
        raise DataError(
            f"{path}: holds {images.count} images, but {table.name} has {len(found)} rows; they "
            "belong together in this order, so take both complete and unsorted"
        )
    rows = [
        SourceRow(stem, label, "train", where, PackedImage(images, str(index)), None, known)
        for index, (stem, label, where, known) in enumerate(found)
    ]
    return SourceTable(tuple(rows), (table, path), notes=(images.note,))


DERMAMNIST = Source(
    "dermamnist",
    "DermaMNIST (MedMNIST)",
    "CC-BY-NC-4.0",
    read_dermamnist,
    labels=DERMAMNIST_LABELS,
    names=DERMAMNIST_DIAGNOSES,
    size="10,015 images of 28, 64, 128 or 224 pixels",
)
SIIM_ARRAYS = Source(
    "siim_arrays",
    "SIIM-ISIC 2020, reduced to arrays",
    "CC-BY-NC-4.0",
    read_siim_arrays,
    labels=LABELS_2020,
    names=NAMES_2020,
    size="33,126 images of 32 to 512 pixels",
    ids="patients, lesions",
)
