"""What every source is turned into: one row per image, with its class or why it has none."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from cascade.config import did_you_mean
from cascade.data.sources.annotations import DrawnMask
from cascade.data.sources.packed import PackedImage
from cascade.data.sources.source_files import Layout
from cascade.errors import DataError

Label = Literal["benign", "malignant", "indeterminate", "unknown"]
"""``indeterminate`` is a diagnosis between the two classes, ``unknown`` is no diagnosis at all."""

Split = Literal["train", "test"]
ATTRIBUTES = ("patient_id", "lesion_id", "group_id", "diagnosis", "age", "sex", "site")
"""Columns of each table beside ``name``, ``class`` and ``source``."""

_MOST_DIAGNOSES = 20
_NOTHING = {"", "nan", "na", "n/a", "none", "null", "unknown"}


@dataclass(frozen=True)
class SourceRow:
    """One image of a source.

    ``split`` is the side that the source itself puts the image on, ``where`` the file and row that
    the label comes from; ``attributes`` of other names than ``ATTRIBUTES`` are columns that only
    some sources have, such as ``license``. ``why_not`` is why a row has no class, where its
    diagnosis does not say so.
    """

    stem: str
    label: Label
    split: Split
    where: str
    image: Path | PackedImage | None
    mask: Path | DrawnMask | None
    attributes: Mapping[str, str]
    why_not: str = ""

    @property
    def file_name(self) -> str:
        """What the image is called in the data set; a missing one has no suffix."""
        return self.stem + (self.image.suffix if self.image else "")


@dataclass(frozen=True)
class SourceTable:
    """All rows of a source.

    ``files`` are the tables that the rows come from; ``has_labels`` is False where the source has
    no classes at all, and ``why_no_labels`` what to do then. ``notes`` say how the data were
    understood, ``mask_files`` are stem and file of all that were looked through for masks, where
    that is not what lies in the input; ``left_out`` are names of images that are no row on purpose.
    """

    rows: tuple[SourceRow, ...]
    files: tuple[Path, ...]
    has_labels: bool = True
    why_no_labels: str = ""
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    mask_files: tuple[tuple[str, Path], ...] | None = None
    left_out: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Source:
    """A public data set and how to read it.

    ``name`` and ``aliases`` are words on the command line; ``read`` finds tables, images and masks
    in an unpacked folder, and gets the user's choices too if the source ``takes`` any of them.
    Images of ``isic_client`` carry licences of their own.

    ``labels`` is what each diagnosis in the source's table becomes, and nothing else decides it;
    ``names`` say what codes mean. ``size``, ``masks``, ``ids`` and ``classes``, where ``labels`` do
    not hold them all, are told in the documentation.
    """

    name: str
    title: str
    licence: str
    read: Callable[..., SourceTable] = field(repr=False)
    aliases: tuple[str, ...] = ()
    takes: tuple[str, ...] = ()
    labels: Mapping[str, Label] = field(default_factory=dict, repr=False)
    names: Mapping[str, str] = field(default_factory=dict, repr=False)
    size: str = ""
    classes: str = ""
    masks: str = "no"
    ids: str = "no"


def found_row(
    layout: Layout,
    stem: str,
    label: Label,
    where: str,
    known: Mapping[str, str],
    split: Split = "train",
) -> SourceRow:
    """A row with the image and the mask of that name."""
    return SourceRow(stem, label, split, where, layout.image(stem), layout.mask(stem), known)


@contextlib.contextmanager
def classifying(meaning: Mapping[str, Label]) -> Iterator[Callable[..., Label]]:
    """Give a function that looks diagnoses up; those that are not known are told together.

    The function takes words, of which the first that is in the table counts, and ``where`` the row
    stands. A word that is not in the table is ``unknown`` until the block ends.

    Raises:
        DataError: at the end of the block, if diagnoses are not in the table; each is named with
            its first row.
    """
    unknown: dict[str, list[str]] = {}

    def label(*words: str, where: str) -> Label:
        for word in words:
            if (found := meaning.get(word.strip().casefold())) is not None:
                return found
        unknown.setdefault(words[-1], []).append(where)
        return "unknown"

    yield label
    if unknown:
        parts = [
            f"{places[0]}: diagnosis {word!r}{_more(places)} is not known"
            f"{did_you_mean(word, meaning)}"
            for word, places in unknown.items()
        ]
        raise DataError(
            f"{'; '.join(parts[:_MOST_DIAGNOSES])}"
            + (f"; and {len(parts) - _MOST_DIAGNOSES} more" if parts[_MOST_DIAGNOSES:] else "")
            + "; nothing is guessed, so correct the rows or report the diagnoses"
        )


def _more(places: list[str]) -> str:
    return f" (and in {len(places) - 1} more rows)" if len(places) > 1 else ""


def cleaned(text: str | None) -> str:
    """Text of a cell; ``NaN``, ``unknown`` and the like become empty."""
    word = (text or "").strip()
    return "" if word.casefold() in _NOTHING else word


def attributes(row: Mapping[str, str], columns: Mapping[str, str]) -> dict[str, str]:
    """Take the attributes of a row.

    ``columns`` maps an attribute to the column of the source; one that is not there is skipped.
    """
    return {name: cleaned(row[column]) for name, column in columns.items() if column in row}
