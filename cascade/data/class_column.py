"""Classes of any names in any column, of which some are declared malignant."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from cascade.config import CLASSES, did_you_mean
from cascade.data.spreadsheet import Sheet, listed
from cascade.errors import ConfigError, DataError


@dataclass(frozen=True)
class ClassColumn:
    """Where a table holds the class of each image, and which classes are malignant.

    Attributes:
        column: its name.
        malignant: words in it that mean malignant; all others mean benign. Capitals do not count.
    """

    column: str
    malignant: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.malignant:
            raise ConfigError(f"--classes {self.column}: say with --malignant which are malignant")

    def applied(self, sheet: Sheet) -> Sheet:
        """The sheet with ``class`` benign or malignant, and the word itself as ``diagnosis``.

        Raises:
            DataError: there is no such column, a cell is empty, a malignant class occurs nowhere,
                or no image is benign.
        """
        if self.column not in sheet.columns:
            raise DataError(
                f"{sheet.path}: there is no column {self.column!r} (--classes); found "
                f"{', '.join(sheet.columns)}{did_you_mean(self.column, sheet.columns)}"
            )
        words = [row[self.column].strip() for row in sheet.rows]
        empty = [str(n) for n, word in zip(sheet.numbers, words, strict=True) if not word]
        if empty:
            raise DataError(
                f"{sheet.path}: {self.column} is empty in {len(empty)} rows: {listed(empty)}; fill "
                "it, or leave the rows out"
            )
        present = {word.casefold() for word in words}
        absent = [word for word in self.malignant if word.strip().casefold() not in present]
        if absent:
            raise DataError(
                f"{sheet.path}: {self.column} is nowhere {listed(absent)} (--malignant); it is "
                f"{listed(sorted(set(words)), limit=20)}"
            )
        malignant = {word.strip().casefold() for word in self.malignant}
        if present == malignant:
            raise DataError(
                f"{sheet.path}: all classes of {self.column} are malignant, so there is nothing to "
                "tell apart; name fewer with --malignant"
            )
        rows = tuple(
            {**row, "diagnosis": word, "class": CLASSES[word.casefold() in malignant]}
            for row, word in zip(sheet.rows, words, strict=True)
        )
        return replace(sheet, rows=rows, columns=_with(sheet.columns, ("class", "diagnosis")))


def _with(columns: Sequence[str], more: Sequence[str]) -> tuple[str, ...]:
    return (*columns, *(name for name in more if name not in columns))
