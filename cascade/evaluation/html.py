"""A report as one HTML file that needs nothing else: no scripts, no network, figures inside.

Every text is escaped, so a table cell or a file name cannot become markup.
"""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from cascade.errors import DataError
from cascade.evaluation.overlays import PREDICTED_COLOR, TRUTH_COLOR
from cascade.files import write_text
from cascade.version import __version__

DISCLAIMER = "Research software, not a medical device; not for diagnosis"

_KINDS = {b"\x89PNG\r\n\x1a\n": "image/png", b"\xff\xd8\xff": "image/jpeg"}


@dataclass(frozen=True)
class ReportNumber:
    """A number at the top of a report.

    Attributes:
        value: the number.
        note: what stands below it, such as its interval.
    """

    value: Any
    note: str = ""


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
        beside: a second image at its right, such as the crop of the first.
        drawn: a plot on white, which a dark page shows on black; never an image of skin.
    """

    source: bytes | str | os.PathLike[str]
    caption: str
    alternative_text: str
    beside: bytes | None = None
    drawn: bool = False

    @property
    def addresses(self) -> list[str]:
        """The image, and that beside it, as ``data:`` addresses.

        Raises:
            DataError: a file cannot be read, or is neither PNG nor JPEG.
        """
        sources = [self.source] if self.beside is None else [self.source, self.beside]
        return [self._address(source) for source in sources]

    def _address(self, source: bytes | str | os.PathLike[str]) -> str:
        content = source if isinstance(source, bytes) else _read(Path(source))
        for start, kind in _KINDS.items():
            if content.startswith(start):
                return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"
        name = "the figure" if isinstance(source, bytes) else os.fspath(source)
        raise DataError(f"{name} ({self.caption}) is neither PNG nor JPEG; convert it")


@dataclass(frozen=True)
class ReportSection:
    """A part of a report under its own heading.

    Attributes:
        title: the heading.
        text: paragraphs, parted by blank lines.
        tables: shown after the text.
        figures: shown after the tables, side by side where there is room.
        contours: which contours the figures show, of ``human`` and ``predicted``, for the legend.
    """

    title: str
    text: str = ""
    tables: Sequence[ReportTable] = ()
    figures: Sequence[ReportFigure] = ()
    contours: Sequence[str] = ()

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
    provenance: Mapping[str, Any] | None = None,
) -> Path:
    """Write a report as one self-contained HTML file.

    Args:
        path: the file to write, atomically.
        title: heading of the page.
        summary: name to what a reader wants first: a value or a :class:`ReportNumber`.
        sections: the rest, in order.
        provenance: name to value of what the report was made from, shown last. Digests are
            shortened; a click, or paper, shows them whole.

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
    environment.tests |= {"numeric": _is_numeric, "digest": _is_digest, "interval": _has_interval}
    source = resources.files("cascade.evaluation").joinpath("report.html").read_text("utf-8")
    page = environment.from_string(source).render(
        title=title,
        summary={name: _number(value) for name, value in summary.items()},
        sections=sections,
        provenance=provenance or {},
        colors={"human": TRUTH_COLOR, "predicted": PREDICTED_COLOR},
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


def _number(value: Any) -> ReportNumber:
    return value if isinstance(value, ReportNumber) else ReportNumber(value)


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


def _has_interval(value: Any) -> bool:
    """Whether a cell holds a number with its interval, which stays on one line."""
    return isinstance(value, str) and re.match(r"[+-]?\d\.\d+ \([+-]?\d", value) is not None


def _is_digest(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[0-9a-f]{32,}", value) is not None
