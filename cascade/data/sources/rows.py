"""What every source is turned into: one row per image, with its class or why it has none."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from cascade.config import did_you_mean
from cascade.data.sources.layout import Layout
from cascade.errors import DataError

Label = Literal["benign", "malignant", "indeterminate", "unknown"]
"""``indeterminate`` is a diagnosis between the two classes, ``unknown`` is no diagnosis at all."""

Split = Literal["train", "test"]
ATTRIBUTES = ("patient_id", "lesion_id", "group_id", "diagnosis", "age", "sex", "site")
"""Columns of each table beside ``name``, ``class`` and ``source``."""

OPTIONAL_ATTRIBUTES = ("license", "attribution")
"""Columns that are written where a source gives them per image."""

_NOTHING = {"", "nan", "na", "n/a", "none", "null", "unknown"}


@dataclass(frozen=True)
class SourceRow:
    """One image of a source.

    Attributes:
        stem: the image's name without suffix.
        label: the class, or why there is none.
        split: the side that the source itself puts the image on.
        where: file and row that the label comes from, for messages.
        image: the image's file, or ``None`` if it is missing.
        mask: the mask's file, or ``None`` if there is none.
        attributes: text by column, see ``ATTRIBUTES`` and ``OPTIONAL_ATTRIBUTES``.
    """

    stem: str
    label: Label
    split: Split
    where: str
    image: Path | None
    mask: Path | None
    attributes: Mapping[str, str]


@dataclass(frozen=True)
class SourceTable:
    """All rows of a source.

    Attributes:
        rows: one per image.
        files: the tables that the rows come from.
        has_labels: False where the source has no classes at all.
        warnings: what the user should know about these files.
    """

    rows: tuple[SourceRow, ...]
    files: tuple[Path, ...]
    has_labels: bool = True
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Source:
    """A public data set and how to read it.

    Attributes:
        name: the word on the command line.
        title: the full name.
        licence: as published with the data; images of ``isic_client`` carry their own.
        read: finds tables, images and masks in an unpacked folder.
        aliases: other words on the command line.
    """

    name: str
    title: str
    licence: str
    read: Callable[[Layout], SourceTable] = field(repr=False)
    aliases: tuple[str, ...] = ()


def classify(code: str, meaning: Mapping[str, Label], *, where: str) -> Label:
    """Look a diagnosis up.

    Raises:
        DataError: the diagnosis is not in the source's table; it is named with its row.
    """
    label = meaning.get(code.strip().casefold())
    if label is None:
        raise DataError(
            f"{where}: diagnosis {code!r} is not known{did_you_mean(code, meaning)}; "
            "nothing is guessed, so correct the row or report the diagnosis"
        )
    return label


def cleaned(text: str | None) -> str:
    """Text of a cell; ``NaN``, ``unknown`` and the like become empty."""
    word = (text or "").strip()
    return "" if word.casefold() in _NOTHING else word


def attributes(row: Mapping[str, str], columns: Mapping[str, str]) -> dict[str, str]:
    """Take the attributes of a row.

    Args:
        row: the source's cells.
        columns: attribute to the source's column; a column that is not there is skipped.
    """
    return {name: cleaned(row[column]) for name, column in columns.items() if column in row}
