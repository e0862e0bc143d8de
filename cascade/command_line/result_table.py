"""A CSV with one row for each input, and images beside it; a stopped run can go on."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from cascade.command_line.outputs import printable, refuse_to_replace, say
from cascade.command_line.parser import OK, PARTIAL
from cascade.errors import DataError
from cascade.files import claim, csv_line
from cascade.imaging import FoundFile, safe_stem
from cascade.progress import progress

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ResultTable:
    """Rows on disk, each written as soon as it is known.

    Attributes:
        path: the CSV.
        columns: its header; ``path`` tells inputs apart, ``error`` says what was wrong with one.
        image_columns: those columns that name an image; it lies in a folder of that name with an s.
    """

    path: Path
    columns: Sequence[str]
    image_columns: Sequence[str]

    def earlier_rows(self, arguments: Any) -> list[dict[str, str]]:
        """The rows of an earlier run that are whole, as ``--resume`` or ``--overwrite`` needs them.

        Raises:
            ConfigError: there is an earlier run, and nothing was said about it.
            DataError: the file to go on with was not written by this command, or another run is
                writing it.
        """
        refuse_to_replace(arguments, self.path)
        if not self.path.exists():
            return []
        from cascade.data.spreadsheet import listed
        from cascade.data.tables import read_csv

        with self.path.open("rb") as file:
            claim(file, self.path)
            text = file.read()
        whole = text[: text.rfind(b"\n") + 1]  # a killed run leaves half a row at the end
        if len(whole) < len(text):
            os.truncate(self.path, len(whole))
        if whole in (b"", csv_line(self.columns).encode()):
            return []
        try:
            columns, rows = read_csv(self.path)
        except DataError:
            if arguments.overwrite:
                return []
            raise
        if tuple(columns) != tuple(self.columns) and not arguments.overwrite:
            lacking = [name for name in self.columns if name not in columns]
            other = [name for name in columns if name not in self.columns]
            parts = {"lacks the columns": lacking, "has the others": other}
            differ = " and ".join(f"{what} {listed(parts[what])}" for what in parts if parts[what])
            raise DataError(
                f"{self.path}: cannot be continued; it {differ or 'has them in another order'}: "
                "another version wrote it, or other flags were given, or inputs of another kind. "
                "Give the same, start anew (--overwrite) or choose another --output"
            )
        return rows

    def remove(self, rows: Iterable[Mapping[str, str]]) -> None:
        """Remove the table and the images that its rows name, and no others."""
        for row in rows:
            for kind in self.image_columns:
                name = Path(row.get(kind) or "").name
                if name:
                    (self.path.parent / f"{kind}s" / name).unlink(missing_ok=True)
        self.path.unlink(missing_ok=True)

    def row(self, path: Path, **values: Any) -> dict[str, Any]:
        """The row of one input; columns without a value are empty."""
        return {**dict.fromkeys(self.columns), "name": path.name, "path": str(path), **values}

    def free_path(self, kind: str, path: Path, suffix: str) -> Path:
        """The first name that is not taken; images in two folders may share theirs.

        Args:
            kind: the image's column.
            path: the image that it is of.
            suffix: of the image's file.
        """
        stem = safe_stem(path.name)
        names = itertools.chain([stem], (f"{stem}_{number}" for number in itertools.count(2)))
        folder = self.path.parent / f"{kind}s"
        targets = (folder / f"{name}{suffix}" for name in names)
        return next(target for target in targets if not target.exists())

    def relative(self, path: Path) -> str:
        """An image's path as its row names it."""
        return str(path.relative_to(self.path.parent))

    def extend(
        self,
        rows: Iterable[Mapping[str, Any]],
        *,
        kept: Sequence[Mapping[str, str]],
        description: str,
    ) -> int:
        """Add rows, one at a time, and say how many failed, and why the first did.

        Args:
            rows: made while they are written.
            kept: the rows that are there from before; their errors count as well.
            description: beside the progress bar.

        Returns:
            The exit code.

        Raises:
            DataError: the file cannot be written, or another run is writing it.
        """
        done = failed = 0
        example = ""
        with self._appending() as file:
            if not file.tell():
                file.write(csv_line(self.columns))
            for row in progress(rows, description=description):
                file.write(csv_line(row.get(column) for column in self.columns))
                file.flush()
                done += 1
                failed += bool(row["error"])
                example = example or str(row["error"] or "")
        before = sum(bool(row["error"]) for row in kept)
        earlier = f", {len(kept)} kept from before" if kept else ""
        if before:
            earlier += f", {before} of them failed (--overwrite tries them again)"
        text = f"written: {self.path}, {done} rows, {failed} failed{earlier}"
        say(text, wrong=bool(failed or before))
        if failed:
            log.error("error: the first that failed: %s (column error)", printable(example))
        return PARTIAL if failed or before else OK

    @contextlib.contextmanager
    def _appending(self) -> Iterator[TextIO]:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open(
                "a", encoding="utf-8", errors="backslashreplace", newline=""
            ) as file:
                claim(file, self.path)
                yield file
        except OSError as error:
            raise DataError(
                f"{self.path}: cannot be written ({error.strerror or error})"
            ) from error


def unfinished(
    found: Iterable[FoundFile], rows: Iterable[Mapping[str, str]]
) -> Iterator[FoundFile]:
    """The inputs that have no row yet."""
    finished = {row["path"] for row in rows}
    return (item for item in found if _as_written(item.path) not in finished)


def _as_written(path: Path) -> str:
    """A path as the table holds it: bytes that are no text are escaped."""
    return str(path).encode("utf-8", "backslashreplace").decode("utf-8")
