"""The content of a shard's inputs: local files where they are, others fetched a few at a time."""

from __future__ import annotations

import functools
import itertools
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from cascade.cluster.inputs import Planned, image_column, parquet_file
from cascade.cluster.storage import is_uri, read_bytes
from cascade.errors import DataError
from cascade.imaging import NamedBytes
from cascade.pipeline.rows import RowInput
from cascade.pipeline.stream import in_order

_AT_ONCE = 8
_PAUSES_S = (0.5, 2.0)
"""Waited before a file that could not be fetched is asked for again."""
_TOGETHER = 16
"""Rows of a Parquet file that are held at a time."""
_NAME_COLUMNS = ("name", "path", "file_name", "filename")


def fetched(planned: Sequence[Planned], *, most: int) -> Iterator[RowInput]:
    """The inputs of a shard with their content, in order, a few ahead of who takes them.

    Args:
        planned: the inputs.
        most: bytes of a file that are read at most.
    """
    for (kind, *_), group in itertools.groupby(enumerate(planned), key=_kind):
        items = [item for _, item in group]
        if kind == "rows":
            yield from _of_parquet(items)
        elif kind == "uri":
            yield from in_order(functools.partial(_of_uri, most), items, workers=_AT_ONCE)
        else:
            yield from (without_content(item, item.problem) for item in items)


def without_content(item: Planned, problem: str | None) -> RowInput:
    """The input as far as its name tells; a local file is read when its turn comes."""
    return RowInput(Path(item.place).name, item.place, Path(item.path), problem)


def _kind(numbered: tuple[int, Planned]) -> tuple[Any, ...]:
    """What can be fetched together; rows of a Parquet file if one follows the other."""
    number, item = numbered
    if item.problem is not None:
        return ("file",)
    if item.row is not None:
        return "rows", item.path, item.row - number
    return ("uri" if is_uri(item.path) else "file",)


def _of_uri(most: int, item: Planned) -> RowInput:
    for pause in (*_PAUSES_S, None):
        try:
            data = read_bytes(item.path, most=most)
            break
        except DataError as error:
            if pause is None or isinstance(error.__cause__, FileNotFoundError):
                return without_content(item, str(error).removeprefix(f"{item.path}: "))
            time.sleep(pause)
    return RowInput(Path(item.path).name, item.path, NamedBytes(data, item.path))


def _of_parquet(items: Sequence[Planned]) -> Iterator[RowInput]:
    """Rows that follow each other in one file."""
    problem, done = "the file has fewer rows than when the run was planned", 0
    try:
        for item, cells in zip(items, _cells(items[0], len(items)), strict=False):
            yield _of_cells(item, cells)
            done += 1
    except DataError as error:
        problem = str(error).removeprefix(f"{items[0].path}: ")
    yield from (without_content(item, problem) for item in items[done:])


def _cells(first: Planned, count: int) -> Iterator[dict[str, Any]]:
    """So many rows from a first one on; row groups without any of them are not read."""
    from pyarrow import ArrowException

    begin = first.row or 0
    with parquet_file(first.path) as file:
        names = file.schema_arrow.names
        images = image_column(names, first.path)
        columns = [images, *(name for name in _NAME_COLUMNS if name in names)]
        sizes = [file.metadata.row_group(n).num_rows for n in range(file.metadata.num_row_groups)]
        starts = list(itertools.accumulate(sizes, initial=0))
        groups = [
            n for n, size in enumerate(sizes)
            if starts[n] < begin + count and starts[n] + size > begin
        ]  # fmt: skip
        if not groups:
            return
        place = starts[groups[0]]
        try:
            for batch in file.iter_batches(_TOGETHER, row_groups=groups, columns=columns):
                inside = batch.slice(max(0, begin - place))
                place += batch.num_rows
                yield from ({**cells, "image": cells[images]} for cells in inside.to_pylist())
        except (ArrowException, OSError) as error:
            raise DataError(f"{first.path}: cannot be read ({error})") from error


def _of_cells(item: Planned, cells: dict[str, Any]) -> RowInput:
    image = cells["image"]
    name = next((cells[name] for name in _NAME_COLUMNS if cells.get(name)), None)
    if isinstance(image, dict):  # as data sets of Hugging Face hold them
        name, image = name or image.get("path"), image.get("bytes")
    if not isinstance(image, bytes):
        return without_content(item, "the row holds no bytes of an image")
    name = str(name or item.place)
    return RowInput(Path(name).name, item.place, NamedBytes(image, name))
