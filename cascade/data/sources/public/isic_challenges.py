"""ISIC challenges of 2016, 2017, 2018 (task 1) and 2020 (SIIM-ISIC)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from cascade.data.grouping import connected
from cascade.data.sources.public.isic_client import LABELS as ISIC_ARCHIVE
from cascade.data.sources.public.isic_client import read_metadata
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
from cascade.data.sources.source_files import Layout, read_headless, require_columns
from cascade.data.spreadsheet import read_sheet
from cascade.errors import DataError

LABELS_2016: Mapping[str, Label] = {
    "benign": "benign", "malignant": "malignant", "0": "benign", "0.0": "benign", "1": "malignant",
    "1.0": "malignant",
}  # fmt: skip
LABELS_2017: Mapping[str, Label] = {
    "melanoma": "malignant",
    "seborrheic keratosis": "benign",
    "nevus": "benign",
}
_FLAGS = {"0": False, "0.0": False, "1": True, "1.0": True}


def read_2016(layout: Layout) -> SourceTable:
    """Read ISIC 2016: labels of part 3, masks of part 1 or 3B."""
    rows: list[SourceRow] = []
    files = []
    splits: tuple[tuple[str, Split], ...] = (("Training", "train"), ("Test", "test"))
    for word, split in splits:
        patterns = [f"ISBI2016_ISIC_Part3{part}_{word}_GroundTruth.csv" for part in ("", "B")]
        path = layout.require(*patterns) if split == "train" else layout.find(*patterns)
        if path is None:
            continue
        sheet = read_headless(path, ("image", "label"))
        files.append(path)
        with classifying(LABELS_2016) as classify:
            for where, cells in sheet.places():
                label = classify(cells["label"], where=where)
                rows.append(found_row(layout, cells["image"].strip(), label, where, {}, split))
    return SourceTable(tuple(rows), tuple(files))


def read_2017(layout: Layout) -> SourceTable:
    """Read ISIC 2017: labels of part 3, masks of part 1; validation images count as training."""
    rows: list[SourceRow] = []
    files: list[Path] = []
    parts: tuple[tuple[str, Split], ...] = (
        ("Training", "train"),
        ("Validation", "train"),
        ("Test_v2", "test"),
    )
    for word, split in parts:
        pattern = f"ISIC-2017_{word}_Part3_GroundTruth.csv"
        path = layout.require(pattern) if word == "Training" else layout.find(pattern)
        if path is None:
            continue
        files.append(path)
        people = _people_2017(layout, word)
        sheet = read_sheet(path)
        require_columns(sheet, "image_id", "melanoma", "seborrheic_keratosis")
        for where, cells in sheet.places():
            stem = cells["image_id"].strip()
            diagnosis = _diagnosis_2017(cells, where)
            known = {"diagnosis": diagnosis, **people.get(stem, {})}
            rows.append(found_row(layout, stem, LABELS_2017[diagnosis], where, known, split))
    return SourceTable(tuple(rows), tuple(files))


def _people_2017(layout: Layout, word: str) -> dict[str, dict[str, str]]:
    """Age and sex by image, where the table of them is there."""
    path = layout.find(f"ISIC-2017_{word}_Data_metadata.csv")
    if path is None:
        return {}
    columns = {"age": "age_approximate", "sex": "sex"}
    return {row["image_id"]: attributes(row, columns) for row in read_sheet(path).rows}


def _diagnosis_2017(cells: Mapping[str, str], where: str) -> str:
    names = ("melanoma", "seborrheic_keratosis")
    flags = [_FLAGS.get(cells[name].strip()) for name in names]
    if None in flags or all(flags):
        raise DataError(
            f"{where}: melanoma is {cells[names[0]]!r} and seborrheic_keratosis "
            f"{cells[names[1]]!r}; expected 0 or 1 and not both 1"
        )
    if not any(flags):
        return "nevus"
    return names[flags.index(True)].replace("_", " ")


def read_2018_task1(layout: Layout, labels: Path | None = None) -> SourceTable:
    """Read ISIC 2018 task 1: images with masks; classes come from a metadata table.

    That is ``labels``, or else ``metadata*.csv`` in the folder.
    """
    found = layout.masks()
    if not found:
        raise DataError(
            f"{layout.root}: holds no *_segmentation.png; "
            + (layout.packed() or "name the folder with ISIC2018_Task1_Training_GroundTruth")
        )
    path = labels or layout.find("metadata*.csv", "*_metadata.csv")
    known = {row.stem: row for row in read_metadata(layout, path).rows} if path else {}
    rows = []
    for stem, mask in found:
        in_test = any("_test_" in part.lower() for part in mask.relative_to(layout.root).parts)
        row = known.get(stem)
        rows.append(
            SourceRow(
                stem=stem,
                label=row.label if row else "unknown",
                split="test" if in_test else "train",
                where=row.where if row else str(mask.name),
                image=layout.image(stem),
                mask=mask,
                attributes=row.attributes if row else {},
            )
        )
    return SourceTable(
        tuple(rows),
        (path,) if path else (),
        has_labels=bool(path),
        why_no_labels="isic2018_task1 has no classes; name a metadata table of its images with "
        "--labels (isic metadata download)",
    )


ISIC_2016 = Source(
    "isic2016",
    "ISIC 2016 challenge, parts 1 and 3",
    "CC0-1.0",
    read_2016,
    labels=LABELS_2016,
    names={"0": "benign", "0.0": "benign", "1": "malignant", "1.0": "malignant"},
    size="1,279 images",
    masks="yes",
)
ISIC_2017 = Source(
    "isic2017",
    "ISIC 2017 challenge, parts 1 and 3",
    "CC0-1.0",
    read_2017,
    labels=LABELS_2017,
    size="2,750 images",
    masks="yes",
)
ISIC_2018_TASK1 = Source(
    "isic2018_task1",
    "ISIC 2018 challenge, task 1",
    "CC0-1.0",
    read_2018_task1,
    labels=ISIC_ARCHIVE,
    names={"": "no diagnosis"},
    size="3,694 images",
    classes="those of the archive",
    masks="yes",
    ids="patients, lesions",
)


LABELS_2020: Mapping[str, Label] = {
    "melanoma": "malignant", "atypical melanocytic proliferation": "indeterminate",
    "nevus": "benign", "seborrheic keratosis": "benign", "lentigo nos": "benign",
    "lichenoid keratosis": "benign", "solar lentigo": "benign", "cafe-au-lait macule": "benign",
    "unknown": "benign",
}  # fmt: skip
"""``unknown`` is the diagnosis of images without a biopsy, which the challenge counts as benign."""

NAMES_2020 = {"unknown": "no biopsy (unknown)", "lentigo nos": "lentigo NOS"}
_COLUMNS_2020 = {
    "patient_id": "patient_id", "lesion_id": "lesion_id", "diagnosis": "diagnosis",
    "age": "age_approx", "sex": "sex", "site": "anatom_site_general_challenge",
}  # fmt: skip
_TARGETS = {"0": "benign", "1": "malignant", "0.0": "benign", "1.0": "malignant"}


def read_2020(layout: Layout) -> SourceTable:
    """Read the training table; the challenge's test images have no public labels."""
    path = layout.require(
        "ISIC_2020_Training_GroundTruth_v2.csv", "ISIC_2020_Training_GroundTruth.csv", "train.csv"
    )
    copies = _copies(layout)
    rows = [
        found_row(layout, stem, label, where, {**known, "group_id": copies.get(stem, "")})
        for stem, label, where, known in rows_2020(path)
    ]
    return SourceTable(tuple(rows), (path,))


def rows_2020(path: Path) -> list[tuple[str, Label, str, dict[str, str]]]:
    """Name, class, place and attributes of each row of the training table."""
    sheet = read_sheet(path)
    require_columns(sheet, "image_name", "patient_id", "diagnosis", "benign_malignant", "target")
    rows = []
    with classifying(LABELS_2020) as classify:
        for where, cells in sheet.places():
            label = classify(cells["diagnosis"], where=where)
            if label != "unknown":  # which no diagnosis of the table is
                _check_agreement(cells, label, where)
            rows.append(
                (cells["image_name"].strip(), label, where, attributes(cells, _COLUMNS_2020))
            )
    return rows


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
    sheet = read_sheet(path)
    require_columns(sheet, "image_name_1", "image_name_2")
    pairs = [(row["image_name_1"].strip(), row["image_name_2"].strip()) for row in sheet.rows]
    groups: dict[str, str] = {}
    for members in connected(pairs):
        names = {name for member in members for name in pairs[member]}
        groups.update({name: f"duplicate_{min(names)}" for name in names})
    return groups


ISIC_2020 = Source(
    "isic2020",
    "ISIC 2020 challenge (SIIM-ISIC)",
    "CC-BY-NC-4.0",
    read_2020,
    labels=LABELS_2020,
    names=NAMES_2020,
    size="33,126 images",
    ids="patients, lesions",
)
