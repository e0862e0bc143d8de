"""The inputs of a run on a cluster: what a user named, as one path or URI for each image."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from cascade.cluster.storage import (
    MISSING,
    exists,
    files_below,
    files_matching,
    is_folder,
    is_uri,
    joined,
    local_path,
    opened,
    read_bytes,
)
from cascade.data.spreadsheet import parse_sheet
from cascade.errors import DataError, MissingExtraError
from cascade.imaging import FoundFile
from cascade.imaging.formats import SUFFIXES


class Planned(NamedTuple):
    """One input of a run.

    Attributes:
        path: a local path or a URI.
        problem: why it cannot be an image, in words, or ``None``.
        row: of a Parquet file of images; ``None`` for a file that is an image itself.
    """

    path: str
    problem: str | None = None
    row: int | None = None

    @property
    def place(self) -> str:
        """The path, and the row in it, as ``FILE.parquet#7``."""
        return self.path if self.row is None else f"{self.path}#{self.row}"


LocalInputs = Callable[[str], Iterator[FoundFile]]
"""The images behind a local file, folder, pattern or table."""

_MAGIC = frozenset("*?[")
IMAGE_COLUMNS = ("bytes", "image")
"""Columns of a Parquet file that may hold images: bytes, or bytes and path in a struct."""


def planned_inputs(
    items: Sequence[str], local: LocalInputs, *, recursive: bool
) -> Iterator[Planned]:
    """One path or URI for each image behind files, folders, patterns, tables, lists and Parquet.

    Args:
        items: what the user named.
        local: finds local images, as for a run without a cluster.
        recursive: also search folders within folders.

    Raises:
        DataError: a table, list or Parquet file is not usable, or a folder cannot be listed.
    """
    for item in items:
        yield from _planned(local_path(item), local, recursive=recursive)


def _planned(item: str, local: LocalInputs, *, recursive: bool) -> Iterator[Planned]:
    suffix = PurePosixPath(item).suffix.lower()
    if suffix == ".parquet":
        yield from _parquet_rows(item)
    elif suffix == ".txt":
        yield from _listed(item)
    elif suffix == ".csv" and (is_uri(item) or _names_paths(item)):
        yield from _table_paths(item)
    elif not is_uri(item):
        for found in local(item):
            yield Planned(str(found.path), found.problem)
    elif _MAGIC & set(item) and not exists(item):
        yield from _or_problem(item, _images(files_matching(item)), "matches no image file")
    elif is_folder(item):
        below = files_below(item, recursive=recursive)
        yield from _or_problem(item, _images(below), "is a folder without images")
    else:
        yield Planned(item)


def _images(names: Iterator[str]) -> Iterator[Planned]:
    for name in names:
        path = PurePosixPath(name)
        if path.suffix.lower() in SUFFIXES and not path.name.startswith("."):
            yield Planned(name)


def _or_problem(item: str, found: Iterator[Planned], problem: str) -> Iterator[Planned]:
    first = next(found, None)
    yield first or Planned(item, problem)
    yield from found


def _beside(item: str, name: str) -> str:
    """A name of a list or table; one that is not whole is meant from the folder of the list."""
    name = local_path(name)
    if is_uri(name):
        return name
    if is_uri(item) and not PurePosixPath(name).is_absolute():
        return joined(item.rpartition("/")[0], name)
    return str(Path(item).parent / name)


def _listed(item: str) -> Iterator[Planned]:
    try:
        lines = read_bytes(item).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{item}: is not UTF-8 text, so it is no list of paths") from error
    names = [line.strip() for line in lines if line.strip()]
    if not names:
        raise DataError(f"{item}: lists no paths; put one path or URI on each line")
    return (Planned(_beside(item, name)) for name in names)


def _names_paths(item: str) -> bool:
    """Whether a local table has a column of paths; others are tables of a data set."""
    return not Path(item).is_dir() and "path" in parse_sheet(read_bytes(item), item).columns


def _table_paths(item: str) -> Iterator[Planned]:
    sheet = parse_sheet(read_bytes(item), item)
    if "path" not in sheet.columns:
        raise DataError(
            f"{item}: needs a column 'path', because images are not searched for beside a table "
            f"that is not on this machine; found {', '.join(sheet.columns)}"
        )
    return (Planned(_beside(item, row["path"])) for row in sheet.rows)


def _parquet_rows(item: str) -> Iterator[Planned]:
    names = [item]
    if _MAGIC & set(item) and not exists(item):
        names = list(files_matching(item))
        if not names:
            raise DataError(f"{item}: matches no file")
    for name in names:
        with parquet_file(name) as file:
            image_column(file.schema_arrow.names, name)
            count = file.metadata.num_rows
        yield from (Planned(name, row=number) for number in range(count))


def parquet_file(name: str) -> Any:
    """A Parquet file, open for reading.

    Raises:
        DataError: it cannot be read or is none.
        MissingExtraError: pyarrow is not installed.
    """
    try:
        from pyarrow import ArrowInvalid
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise MissingExtraError(f"{name}: {MISSING}") from error
    try:
        return ParquetFile(opened(name))
    except (ArrowInvalid, OSError) as error:
        raise DataError(f"{name}: is no Parquet file that can be read ({error})") from error


def image_column(columns: Sequence[str], name: str) -> str:
    """The column with the images.

    Raises:
        DataError: there is none.
    """
    for column in IMAGE_COLUMNS:
        if column in columns:
            return column
    raise DataError(
        f"{name}: has no column {' or '.join(IMAGE_COLUMNS)} with the bytes of image files; found "
        f"{', '.join(columns)}"
    )
