"""Strict reading of text tables: every cell is text, every error names the row.

Cells are separated by commas, or as spreadsheets of other languages do it by semicolons, tabs or
vertical bars, where only one of these readings is possible.
"""

from __future__ import annotations

import codecs
import contextlib
import csv
import io
import os
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cascade.errors import DataError
from cascade.files import csv_cell

_SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}
_Line = tuple[int, list[str]]
"""Number and cells of a row."""


@dataclass(frozen=True)
class Sheet:
    """A CSV file's rows as text.

    ``rows`` map columns to text, one for each row that is not blank; ``numbers`` are the numbers of
    the rows as a spreadsheet shows them: the header is row 1. ``header`` are the columns of the
    file, where not all were kept.
    """

    path: Path
    columns: tuple[str, ...]
    rows: tuple[dict[str, str], ...]
    numbers: tuple[int, ...]
    header: tuple[str, ...] = ()

    def places(self) -> Iterator[tuple[str, dict[str, str]]]:
        """Yield where each row stands, such as ``train.csv row 7``, and its cells."""
        for number, cells in zip(self.numbers, self.rows, strict=True):
            yield f"{self.path.name} row {number}", cells


def read_csv(path: str | os.PathLike[str]) -> tuple[list[str], list[dict[str, str]]]:
    """Read a CSV file with a header; every cell stays text, so ``0012`` and ``NA`` survive.

    Semicolons, tabs and vertical bars between cells, byte order marks, Windows line ends and UTF-16
    with a mark are understood. The quote that
    :func:`cascade.files.csv_cell` puts before a formula is taken off again. Blank rows are skipped.

    Returns:
        The column names and one mapping from column to text per row.

    Raises:
        DataError: the file is missing, is no text table, can be read with two separators, has no
            rows, has two columns of one name, or has a row of another length than the header
            (named).
    """
    sheet = read_sheet(path)
    return list(sheet.columns), list(sheet.rows)


def read_sheet(path: str | os.PathLike[str], *, columns: Collection[str] | None = None) -> Sheet:
    """Read a CSV file like :func:`read_csv` and keep the rows' numbers.

    With ``columns`` only these are kept, as far as they are there; what the others are called, and
    whether they have a name, does not matter then.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except IsADirectoryError as error:
        raise DataError(f"{path}: is a folder, not a CSV file") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    return parse_sheet(data, path, columns=columns)


def parse_sheet(
    data: bytes, path: str | os.PathLike[str], *, columns: Collection[str] | None = None
) -> Sheet:
    """Read the bytes of a CSV file like :func:`read_sheet`; ``path`` is where they are from."""
    separator, lines = _separated(path, _decoded(path, data))
    header = next(iter(lines), None)
    if header is None:
        raise DataError(f"{path}: is empty; a table starts with a line of column names")
    used = [
        place for place, cell in enumerate(header[1]) if columns is None or cell.strip() in columns
    ]
    kept = checked_columns(path, [header[1][place] for place in used])
    rows: list[dict[str, str]] = []
    numbers: list[int] = []
    for number, cells in lines:
        if len(cells) != len(header[1]):
            raise DataError(
                f"{path}: row {number} has {len(cells)} cells but the header has "
                f"{len(header[1])}; put quotes around a cell that holds {_SEPARATORS[separator]}"
            )
        found = (_unquoted(cells[place]) for place in used)
        rows.append(dict(zip(kept, found, strict=True)))
        numbers.append(number)
    if not rows:
        raise DataError(f"{path}: has a header but no rows")
    names = tuple(cell.strip() for cell in header[1])
    return Sheet(Path(path), kept, tuple(rows), tuple(numbers), names)


def own_rows(path: str | os.PathLike[str]) -> Iterator[dict[str, str]]:
    """The rows of a table that :mod:`cascade.files` wrote, one at a time, however many there are.

    Raises:
        DataError: the file cannot be read, or is no such table.
    """
    try:
        with Path(path).open(encoding="utf-8", newline="") as file:
            reader = csv.reader(file, strict=True)
            columns = next(reader, [])
            for cells in reader:
                yield dict(zip(columns, map(_unquoted, cells), strict=True))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    except (csv.Error, ValueError) as error:
        raise DataError(f"{path}: is not a table that this library wrote ({error})") from error


def _separated(path: str | os.PathLike[str], text: str) -> tuple[str, Iterator[_Line]]:
    """The separator and all rows that are not blank.

    A separator that the header does not hold is none. Of several the one is meant with which all
    rows are as long as the header; if that does not tell, it is an error.
    """
    named = re.match(r"sep=([,;\t|])\r?\n", text)
    if named:  # as Excel writes it for itself
        rest = text[named.end() :]
        return named[1], ((number + 1, cells) for number, cells in _lines(path, rest, named[1]))
    present = [separator for separator in _SEPARATORS if len(_header(text, separator)) > 1]
    if len(present) < 2:
        separator = (present or [","])[0]
        return separator, _lines(path, text, separator)
    fitting = []
    for separator in present:
        with contextlib.suppress(DataError):
            lines = list(_lines(path, text, separator))
            if len({len(cells) for _, cells in lines}) == 1:
                fitting.append((separator, lines))
    if len(fitting) > 1:
        words = " or ".join(_SEPARATORS[separator] for separator, _ in fitting)
        raise DataError(
            f"{path}: could be separated by {words}; put quotes around cells that hold either"
        )
    if fitting:
        return fitting[0][0], iter(fitting[0][1])
    return present[0], _lines(path, text, present[0])


def _header(text: str, separator: str) -> list[str]:
    """The cells of the first row that is not blank."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    try:
        return next((cells for cells in reader if any(cell.strip() for cell in cells)), [])
    except csv.Error:  # told in full when the rows are read
        return []


def _decoded(path: str | os.PathLike[str], data: bytes) -> str:
    utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = data.decode("utf-16" if utf16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not UTF-8 text; save it as 'CSV UTF-8'") from error
    if "\0" in text:
        raise DataError(f"{path}: holds zero bytes; save it as 'CSV UTF-8'")
    return text


def _lines(path: str | os.PathLike[str], text: str, separator: str) -> Iterator[_Line]:
    """Yield the number and the cells of each row that is not blank."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    number = 0
    try:
        for number, cells in enumerate(reader, start=1):
            if any(cell.strip() for cell in cells):
                yield number, cells
    except csv.Error as error:
        raise DataError(f"{path}: row {number + 1} is not valid CSV ({error})") from error


def checked_columns(path: str | os.PathLike[str], header: Sequence[str]) -> tuple[str, ...]:
    """Names of columns without spaces around them.

    Raises:
        DataError: one is empty, or two are equal.
    """
    columns = tuple(cell.strip() for cell in header)
    if "" in columns:
        raise DataError(
            f"{path}: column {columns.index('') + 1} has no name; name or remove it "
            "(pandas: to_csv(..., index=False))"
        )
    repeated = [name for name, count in Counter(columns).items() if count > 1]
    if repeated:
        raise DataError(f"{path}: more than one column is named {', '.join(repeated)}")
    return columns


def _unquoted(cell: str) -> str:
    """Undo :func:`cascade.files.csv_cell`."""
    bare = cell[1:]
    return bare if cell.startswith("'") and csv_cell(bare) == cell else cell


def listed(items: Iterable[object], *, limit: int = 10) -> str:
    """Join the first items for a message and count the rest."""
    words = [str(item) for item in items]
    rest = len(words) - limit
    return ", ".join(words[:limit]) + (f" and {rest} more" if rest > 0 else "")
