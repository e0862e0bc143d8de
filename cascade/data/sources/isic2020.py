"""ISIC 2020 (SIIM-ISIC), from the challenge site or from Kaggle."""

from __future__ import annotations

from collections.abc import Mapping

from cascade.data.grouping import connected
from cascade.data.sources.layout import Layout, read_delimited, require_columns
from cascade.data.sources.rows import Label, Source, SourceRow, SourceTable, attributes, classify
from cascade.errors import DataError

LABELS: Mapping[str, Label] = {
    "melanoma": "malignant",
    "atypical melanocytic proliferation": "indeterminate",
    "nevus": "benign",
    "seborrheic keratosis": "benign",
    "lentigo nos": "benign",
    "lichenoid keratosis": "benign",
    "solar lentigo": "benign",
    "cafe-au-lait macule": "benign",
    "unknown": "benign",
}
"""``unknown`` is the diagnosis of images without a biopsy, which the challenge counts as benign."""

_COLUMNS = {
    "patient_id": "patient_id",
    "lesion_id": "lesion_id",
    "diagnosis": "diagnosis",
    "age": "age_approx",
    "sex": "sex",
    "site": "anatom_site_general_challenge",
}
_TARGETS = {"0": "benign", "1": "malignant", "0.0": "benign", "1.0": "malignant"}


def read_2020(layout: Layout) -> SourceTable:
    """Read the training table; the challenge's test images have no public labels."""
    path = layout.require(
        "ISIC_2020_Training_GroundTruth_v2.csv", "ISIC_2020_Training_GroundTruth.csv", "train.csv"
    )
    sheet = read_delimited(path)
    require_columns(sheet, "image_name", "patient_id", "diagnosis", "benign_malignant", "target")
    copies = _copies(layout)
    rows = []
    for number, cells in zip(sheet.numbers, sheet.rows, strict=True):
        where, stem = f"{path.name} row {number}", cells["image_name"].strip()
        label = classify(cells["diagnosis"], LABELS, where=where)
        _check_agreement(cells, label, where)
        known = {**attributes(cells, _COLUMNS), "group_id": copies.get(stem, "")}
        image, mask = layout.image(stem), layout.mask(stem)
        rows.append(SourceRow(stem, label, "train", where, image, mask, known))
    return SourceTable(tuple(rows), (path,))


def _check_agreement(cells: Mapping[str, str], label: Label, where: str) -> None:
    """Check that the three columns that state the class say the same."""
    word, target = cells["benign_malignant"].strip(), cells["target"].strip()
    official = "benign" if label == "indeterminate" else label
    if not official == word == _TARGETS.get(target):
        raise DataError(
            f"{where}: diagnosis {cells['diagnosis']!r}, benign_malignant {word!r} and target "
            f"{target!r} contradict each other"
        )


def _copies(layout: Layout) -> dict[str, str]:
    """A group for the images that the challenge's own list calls duplicates of each other."""
    path = layout.find("ISIC_2020_Training_Duplicates.csv")
    if path is None:
        return {}
    sheet = read_delimited(path)
    require_columns(sheet, "image_name_1", "image_name_2")
    pairs = [(row["image_name_1"].strip(), row["image_name_2"].strip()) for row in sheet.rows]
    groups: dict[str, str] = {}
    for members in connected(pairs):
        names = {name for member in members for name in pairs[member]}
        groups.update({name: f"duplicate_{min(names)}" for name in names})
    return groups


ISIC_2020 = Source("isic2020", "ISIC 2020 challenge (SIIM-ISIC)", "CC-BY-NC-4.0", read_2020)
