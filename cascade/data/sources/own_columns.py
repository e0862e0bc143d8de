"""Which column of a table holds what; a guess between two readings is an error that names both."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cascade.config import did_you_mean
from cascade.data.sources.class_folders import SPLITS
from cascade.data.sources.own_data import PLAIN, OwnData, class_key
from cascade.data.sources.rows import cleaned
from cascade.data.spreadsheet import Sheet, listed
from cascade.errors import DataError

CLASS_KEYS = (
    "class", "label", "target", "diagnosis", "dx", "benignmalignant", "malignant", "category",
    "diagnosis1", "groundtruth", "labels", "classname", "type", "y",
)  # fmt: skip
"""Names of columns of classes, as :func:`column_key` gives them."""

_IDS = {
    "patient": ("patientid", "patient", "patientnumber", "subjectid", "subject"),
    "lesion": ("lesionid", "lesionnumber"),
}
_ATTRIBUTES = {
    "group_id": ("groupid",),
    "diagnosis": ("diagnosis", "dx"),
    "age": ("age", "ageapprox", "ageapproximate", "ageyears", "patientage"),
    "sex": ("sex", "gender"),
    "site": (
        "site", "localization", "localisation", "anatomsite", "anatomsitegeneral",
        "anatomsitegeneralchallenge", "bodysite", "location",
    ),
}  # fmt: skip
_SPLIT_KEYS = ("split", "set", "partition", "subset")
_MASK_KEYS = ("rle", "maskrle", "rlemask", "encodedpixels")
_FEW = 8
"""So many different words at most make a column look like one of classes."""

_SAMPLE = 1000
"""Rows that are looked at to find the column of images."""


@dataclass(frozen=True)
class Columns:
    """Names of columns; ``None`` where there is none.

    ``no_label`` says why there is no column of classes; ``attributes`` maps an attribute of a row
    to the column it is in.
    """

    image: str
    label: str | None
    no_label: str
    patient: str | None
    lesion: str | None
    split: str | None
    mask: str | None
    attributes: Mapping[str, str]


def column_key(name: str) -> str:
    """A name as names are compared: ``Patient-ID`` is ``patientid``."""
    return re.sub(r"[^a-z0-9]", "", name.casefold())


def find_columns(
    sheet: Sheet, choices: OwnData, images_of: Callable[[str], Collection[Path]]
) -> Columns:
    """Find all columns.

    Args:
        sheet: the table.
        choices: columns that the user names.
        images_of: the files that a cell may mean.

    Raises:
        DataError: a named column is not there, or two columns could be meant.
    """
    image = _image_column(sheet, choices.image_column, images_of)
    label, problem = None, ""
    try:
        label = _class_column(sheet, choices, image)
    except DataError as error:
        if choices.class_column or choices.malignant:
            raise
        problem = str(error)
    known = {
        attribute: column
        for attribute, keys in _ATTRIBUTES.items()
        if (column := _attribute_column(sheet, attribute, keys)) and column not in (image, label)
    }
    return Columns(
        image=image,
        label=label,
        no_label=problem,
        patient=_id_column(sheet, "patient", choices.patient_column),
        lesion=_id_column(sheet, "lesion", choices.lesion_column),
        split=_split_column(sheet),
        mask=_mask_column(sheet, choices.mask_column),
        attributes=known,
    )


def named_column(sheet: Sheet, name: str, flag: str) -> str:
    """The column that a flag names; upper and lower case may differ.

    Raises:
        DataError: there is none.
    """
    fitting = [column for column in sheet.columns if column.casefold() == name.strip().casefold()]
    if name in sheet.columns:
        return name
    if len(fitting) != 1:
        raise DataError(
            f"{sheet.path}: --{flag} {name}: there is no such column"
            f"{did_you_mean(name, sheet.columns)}; found {', '.join(sheet.columns)}"
        )
    return fitting[0]


def _two_readings(sheet: Sheet, what: str, columns: Sequence[str], flag: str) -> DataError:
    return DataError(
        f"{sheet.path}: {what} could be in the column {' or '.join(columns)}; say which with "
        f"--{flag}"
    )


def _image_column(
    sheet: Sheet, chosen: str | None, images_of: Callable[[str], Collection[Path]]
) -> str:
    if chosen:
        return named_column(sheet, chosen, "image_column")
    other = {*CLASS_KEYS, *_SPLIT_KEYS, *(key for keys in _IDS.values() for key in keys)}
    other |= {key for keys in _ATTRIBUTES.values() for key in keys}
    candidates = [column for column in sheet.columns if column_key(column) not in other]
    found = {
        column: [tuple(images_of(row[column])) for row in sheet.rows[:_SAMPLE]]
        for column in candidates or sheet.columns
    }
    hits = {column: sum(map(bool, files)) for column, files in found.items()}
    best = max(hits, key=lambda column: hits[column])
    if not hits[best]:
        raise DataError(
            f"{sheet.path}: no column names images that are there; found the columns "
            f"{', '.join(sheet.columns)}; give the folder of the images with --input, and the "
            "column with --image_column"
        )
    others = [
        column
        for column in found
        if 2 * hits[column] >= hits[best]
        and any(a and b and a != b for a, b in zip(found[column], found[best], strict=True))
    ]
    if others:
        raise _two_readings(sheet, "images", [best, *others], "image_column")
    return best


def _class_column(sheet: Sheet, choices: OwnData, image: str) -> str:
    if choices.class_column:
        return named_column(sheet, choices.class_column, "class_column")
    values = {
        column: {class_key(row[column]) for row in sheet.rows}
        for column in sheet.columns
        if column != image
    }
    if choices.malignant:
        wanted = {class_key(word) for word in choices.malignant}
        fitting = [column for column, found in values.items() if wanted <= found]
        named = [column for column in fitting if column_key(column) in CLASS_KEYS]
        fitting = named or fitting
        what = f"no column holds {listed(choices.malignant)}"
    else:
        fitting = [
            column for column, found in values.items() if _plain(found) and found & PLAIN.keys()
        ]
        what = "no column holds the words benign and malignant"
    if not fitting:
        likely = [
            column
            for column, found in values.items()
            if column_key(column) in CLASS_KEYS or 2 <= len(found) <= _FEW
        ]
        told = "; ".join(
            f"{column}: {listed(sorted(values[column]), limit=8)}" for column in likely
        )
        raise DataError(
            f"{sheet.path}: {what} ({told or ', '.join(sheet.columns)}); say which column holds "
            "classes with --class_column, and which of them are malignant with --malignant"
        )
    keys = [tuple(class_key(row[column]) for row in sheet.rows) for column in fitting]
    if len(set(keys)) > 1:
        raise _two_readings(sheet, "classes", fitting, "class_column")
    return fitting[0]


def _plain(words: Iterable[str]) -> bool:
    return all(word in PLAIN or not cleaned(word) for word in words)


def _id_column(sheet: Sheet, what: str, chosen: str | None) -> str | None:
    if chosen:
        return named_column(sheet, chosen, f"{what}_column")
    if f"{what}_id" in sheet.columns:
        return f"{what}_id"
    fitting = [column for column in sheet.columns if column_key(column) in _IDS[what]]
    if len({tuple(row[column] for row in sheet.rows) for column in fitting}) > 1:
        raise _two_readings(sheet, f"the {what}", fitting, f"{what}_column")
    return fitting[0] if fitting else None


def _attribute_column(sheet: Sheet, attribute: str, keys: Collection[str]) -> str | None:
    """The column of an attribute; of several none, and they keep their own names."""
    if attribute in sheet.columns:
        return attribute
    fitting = [column for column in sheet.columns if column_key(column) in keys]
    return fitting[0] if len(fitting) == 1 else None


def _split_column(sheet: Sheet) -> str | None:
    fitting = [
        column
        for column in sheet.columns
        if column_key(column) in _SPLIT_KEYS
        and all(row[column].strip().casefold() in SPLITS for row in sheet.rows)
    ]
    return fitting[0] if len(fitting) == 1 else None


def _mask_column(sheet: Sheet, chosen: str | None) -> str | None:
    if chosen:
        return named_column(sheet, chosen, "mask_column")
    fitting = [column for column in sheet.columns if column_key(column) in _MASK_KEYS]
    if len(fitting) > 1:
        raise _two_readings(sheet, "masks", fitting, "mask_column")
    return fitting[0] if fitting else None
