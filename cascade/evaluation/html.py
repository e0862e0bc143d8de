"""A report as one HTML file that needs nothing else: no scripts, no network, figures inside.

Every text is escaped, so a table cell or a file name cannot become markup.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from cascade.errors import DataError
from cascade.files import write_text
from cascade.version import __version__

DISCLAIMER = "Research software, not a medical device; not for diagnosis"

_KINDS = {b"\x89PNG\r\n\x1a\n": "image/png", b"\xff\xd8\xff": "image/jpeg"}


@dataclass(frozen=True)
class ReportTable:
    """A table of a report.

    Attributes:
        headers: one text a column.
        rows: cells as text, number or ``None`` (shown as a dash); the first names the row.
        caption: what the table shows.
    """

    headers: Sequence[str]
    rows: Sequence[Sequence[Any]]
    caption: str = ""


@dataclass(frozen=True)
class ReportFigure:
    """A figure of a report.

    Attributes:
        source: bytes of a PNG or JPEG, or the path of one.
        caption: shown below the figure.
        alternative_text: what the figure shows, in words, for readers who do not see it.
        wide: takes the whole width of the page, as a sheet of many images should.
    """

    source: bytes | str | os.PathLike[str]
    caption: str
    alternative_text: str
    wide: bool = False

    @property
    def address(self) -> str:
        """The image as a ``data:`` address.

        Raises:
            DataError: the file cannot be read, or is neither PNG nor JPEG.
        """
        content = self.source if isinstance(self.source, bytes) else _read(Path(self.source))
        for start, kind in _KINDS.items():
            if content.startswith(start):
                return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"
        name = "the figure" if isinstance(self.source, bytes) else os.fspath(self.source)
        raise DataError(f"{name} ({self.caption}) is neither PNG nor JPEG; convert it")


@dataclass(frozen=True)
class ReportSection:
    """A part of a report under its own heading.

    Attributes:
        title: the heading.
        text: paragraphs, parted by blank lines.
        tables: shown after the text.
        figures: shown after the tables, side by side where there is room.
    """

    title: str
    text: str = ""
    tables: Sequence[ReportTable] = ()
    figures: Sequence[ReportFigure] = ()

    @property
    def paragraphs(self) -> list[str]:
        """The text's paragraphs."""
        return [part.strip() for part in self.text.split("\n\n") if part.strip()]


def write_report(
    path: str | os.PathLike[str],
    *,
    title: str,
    summary: Mapping[str, Any],
    sections: Sequence[ReportSection],
) -> Path:
    """Write a report as one self-contained HTML file.

    Args:
        path: the file to write, atomically.
        title: heading of the page.
        summary: name to value of what a reader wants first, such as ``{"ROC AUC": 0.87}``.
        sections: the rest, in order.

    Returns:
        The file written.

    Raises:
        DataError: a figure cannot be embedded or a table's row has another length than its header.
    """
    import jinja2

    for section in sections:
        for table in section.tables:
            _check_table(section, table)
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["cell"] = _cell
    environment.tests["numeric"] = _is_numeric
    source = resources.files("cascade.evaluation").joinpath("report.html").read_text("utf-8")
    page = environment.from_string(source).render(
        title=title,
        summary=summary,
        sections=sections,
        disclaimer=DISCLAIMER,
        version=__version__,
    )
    write_text(path, page)
    return Path(path)


def _check_table(section: ReportSection, table: ReportTable) -> None:
    for number, row in enumerate(table.rows, start=1):
        if len(row) != len(table.headers):
            raise DataError(
                f"{section.title}: row {number} of the table {table.caption!r} has {len(row)} "
                f"cells for {len(table.headers)} headers"
            )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error


def _cell(value: Any) -> str:
    """A value as a reader wants to see it: four decimals, commas between thousands."""
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.4f}" if abs(value) < 1000 else f"{value:,.0f}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return str(value)


def _is_numeric(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
