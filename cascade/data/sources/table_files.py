"""Tables as people have them: text with any separator, spreadsheets and Parquet, all as text."""

from __future__ import annotations

import json
import numbers
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cascade.data.spreadsheet import Sheet, checked_columns, listed, read_sheet
from cascade.errors import DataError, MissingExtraError

SPREADSHEETS = (".xlsx", ".xlsm", ".xlsb", ".xls", ".ods")
TABLE_SUFFIXES = (".csv", ".tsv", ".tab", ".txt", *SPREADSHEETS, ".parquet")
"""Files that may hold a table."""

_MISSING = "needs the extra 'tables': pip install 'cascade[tables]'"
_WHOLE = 2.0**53
"""Up to here a whole number of a spreadsheet, which stores it with a point, is exact."""


def read_any_sheet(path: Path) -> Sheet:
    """Read a table of any of these formats; its cells become text.

    A whole number is written without a point, an empty cell is empty text, ``True`` is ``true``,
    and what holds several values is JSON.

    Raises:
        DataError: the file cannot be read, or several sheets of a spreadsheet hold rows.
        MissingExtraError: the library for spreadsheets or Parquet is not installed.
    """
    suffix = path.suffix.lower()
    if suffix in SPREADSHEETS:
        return _sheet(path, _spreadsheet_rows(path))
    if suffix == ".parquet":
        return _sheet(path, _parquet_rows(path))
    return read_sheet(path)


def _spreadsheet_rows(path: Path) -> list[Sequence[Any]]:
    try:
        from python_calamine import CalamineError, CalamineWorkbook
    except ImportError as error:
        raise MissingExtraError(f"{path}: reading spreadsheets {_MISSING}") from error
    try:
        with CalamineWorkbook.from_path(path) as book:
            sheets: dict[str, list[Sequence[Any]]] = {
                name: list(book.get_sheet_by_name(name).to_python(skip_empty_area=False))
                for name in book.sheet_names
            }
    except (CalamineError, OSError, ValueError) as error:
        raise DataError(f"{path}: is no spreadsheet that can be read ({error})") from error
    filled = {name: rows for name, rows in sheets.items() if any(map(_filled, rows))}
    if len(filled) > 1:
        raise DataError(
            f"{path}: has several sheets with rows: {listed(filled)}; save the one that is meant "
            "as a file of its own"
        )
    return next(iter(filled.values()), [])


def _parquet_rows(path: Path) -> list[Sequence[Any]]:
    try:
        from pyarrow import ArrowException, types
        from pyarrow.parquet import read_table
    except ImportError as error:
        raise MissingExtraError(f"{path}: reading Parquet {_MISSING}") from error
    try:
        table = read_table(path)
    except (ArrowException, OSError) as error:
        raise DataError(f"{path}: is no Parquet file that can be read ({error})") from error
    index = [name for name in table.column_names if name.startswith("__index_level_")]
    pictures = [field.name for field in table.schema if types.is_binary(field.type)]
    table = table.drop_columns([*index, *pictures])
    columns = [column.to_pylist() for column in table.columns]
    return [tuple(table.column_names), *zip(*columns, strict=True)]


def _filled(row: Sequence[Any]) -> bool:
    return any(cell_text(cell).strip() for cell in row)


def _sheet(path: Path, rows: Sequence[Sequence[Any]]) -> Sheet:
    """The rows below the first that is not blank, which names the columns."""
    lines = [(number, list(map(cell_text, row))) for number, row in enumerate(rows, start=1)]
    lines = [(number, cells) for number, cells in lines if any(cell.strip() for cell in cells)]
    if len(lines) < 2:
        raise DataError(f"{path}: holds no rows below a row of column names")
    used = [n for n in range(len(lines[0][1])) if any(cells[n].strip() for _, cells in lines)]
    columns = checked_columns(path, [lines[0][1][n] for n in used])
    found = tuple(
        dict(zip(columns, (cells[n] for n in used), strict=True)) for _, cells in lines[1:]
    )
    return Sheet(path, columns, found, tuple(number for number, _ in lines[1:]))


def cell_text(value: Any) -> str:
    """A cell as the text that a CSV file would hold."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, numbers.Real) and not isinstance(value, numbers.Integral):
        number = float(value)
        if number != number:  # not a number, which is how pandas marks an empty cell
            return ""
        whole = number.is_integer() and abs(number) < _WHOLE
        return str(int(number)) if whole else repr(number)
    if isinstance(value, dict | list):
        return json.dumps(value, default=_plain)
    return str(value)


def _plain(value: Any) -> str:
    return value.decode("ascii", "replace") if isinstance(value, bytes) else str(value)
