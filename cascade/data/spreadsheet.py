"""Strict reading of CSV files: every cell is text, every error names the row."""

from __future__ import annotations

import codecs
import csv
import io
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cascade.errors import DataError
from cascade.files import csv_cell

_SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "vertical bars"}


@dataclass(frozen=True)
class Sheet:
    """A CSV file's rows as text.

    ``rows`` map columns to text, one for each row that is not blank; ``numbers`` are the numbers of
    the rows as a spreadsheet shows them: the header is row 1.
    """

    path: Path
    columns: tuple[str, ...]
    rows: tuple[dict[str, str], ...]
    numbers: tuple[int, ...]

    def places(self) -> Iterator[tuple[str, dict[str, str]]]:
        """Yield where each row stands, such as ``train.csv row 7``, and its cells."""
        for number, cells in zip(self.numbers, self.rows, strict=True):
            yield f"{self.path.name} row {number}", cells


def read_csv(path: str | os.PathLike[str]) -> tuple[list[str], list[dict[str, str]]]:
    """Read a CSV file with a header; every cell stays text, so ``0012`` and ``NA`` survive.

    Byte order marks, Windows line ends and UTF-16 with a mark are understood. The quote that
    :func:`cascade.files.csv_cell` puts before a formula is taken off again. Blank rows are skipped.

    Returns:
        The column names and one mapping from column to text per row.

    Raises:
        DataError: the file is missing, is not comma-separated text, has no rows, has two columns
            of one name, or has a row of another length than the header (named).
    """
    sheet = read_sheet(path)
    return list(sheet.columns), list(sheet.rows)


def read_sheet(path: str | os.PathLike[str]) -> Sheet:
    """Read a CSV file like :func:`read_csv` and keep the rows' numbers."""
    path = Path(path)
    try:
        data = path.read_bytes()
    except IsADirectoryError as error:
        raise DataError(f"{path}: is a folder, not a CSV file") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    return parse_sheet(data, path)


def parse_sheet(data: bytes, path: str | os.PathLike[str]) -> Sheet:
    """Read the bytes of a CSV file like :func:`read_sheet`; ``path`` is where they are from."""
    lines = _parsed_lines(path, _decoded(path, data))
    number, header = next(lines, (1, []))
    if not header:
        raise DataError(f"{path}: is empty; a table starts with a line of column names")
    columns = _checked_columns(path, header)
    rows: list[dict[str, str]] = []
    numbers: list[int] = []
    for number, cells in lines:
        if len(cells) != len(columns):
            raise DataError(
                f"{path}: row {number} has {len(cells)} cells but the header has {len(columns)}; "
                "put quotes around a cell that holds a comma"
            )
        rows.append(dict(zip(columns, (_unquoted(cell) for cell in cells), strict=True)))
        numbers.append(number)
    if not rows:
        raise DataError(f"{path}: has a header but no rows")
    return Sheet(Path(path), columns, tuple(rows), tuple(numbers))


def _decoded(path: str | os.PathLike[str], data: bytes) -> str:
    utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = data.decode("utf-16" if utf16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not UTF-8 text; save it as 'CSV UTF-8'") from error
    if "\0" in text:
        raise DataError(f"{path}: holds zero bytes; save it as 'CSV UTF-8'")
    return text


def _parsed_lines(path: str | os.PathLike[str], text: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the number and the cells of each row that is not blank."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    number = 0
    try:
        for number, cells in enumerate(reader, start=1):
            if any(cell.strip() for cell in cells):
                yield number, cells
    except csv.Error as error:
        raise DataError(f"{path}: row {number + 1} is not valid CSV ({error})") from error


def _checked_columns(path: str | os.PathLike[str], header: Sequence[str]) -> tuple[str, ...]:
    columns = tuple(cell.strip() for cell in header)
    if len(columns) == 1:
        for separator, word in _SEPARATORS.items():
            if separator in columns[0]:
                raise DataError(
                    f"{path}: found 1 column, {columns[0]!r}; it is separated by {word}, "
                    "save it with commas"
                )
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
