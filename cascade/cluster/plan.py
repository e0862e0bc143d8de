"""A run on a cluster: its inputs, divided into shards before anything is predicted.

A shard is a fixed list of inputs and one file of rows with a fixed name. Whoever computes it, and
however often, writes the same file: rows are neither lost nor doubled.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cascade.cluster.inputs import Planned, parquet_file
from cascade.cluster.storage import (
    absolute,
    exists,
    files_below,
    is_folder,
    is_uri,
    joined,
    read_bytes,
    remove,
    write_bytes,
)
from cascade.config import changed_settings
from cascade.errors import ConfigError, DataError

FORMAT = 1
MANIFEST, INPUTS, ROWS, ATTEMPTS = "manifest.json", "inputs.parquet", "predictions", "attempts"


@dataclass(frozen=True)
class Run:
    """What is to be predicted, how, in which shards, and where the rows go.

    Attributes:
        output: the folder of the run, a local path or a URI.
        settings: everything that decides what a row says.
        rows: number of inputs.
        shard_rows: inputs in each shard; the last may hold fewer.
        folder: where relative local paths start, or empty if there are none.
        identity: SHA-256 over the settings and all inputs.
    """

    output: str
    settings: Mapping[str, Any]
    rows: int
    shard_rows: int
    folder: str
    identity: str

    @property
    def shards(self) -> int:
        """Number of shards."""
        return math.ceil(self.rows / self.shard_rows)

    def rows_of(self, shard: int) -> int:
        """Number of inputs of one shard."""
        return min(self.shard_rows, self.rows - shard * self.shard_rows)

    def path(self, shard: int) -> str:
        """The file of a shard's rows."""
        return joined(self.output, ROWS, f"part-{shard:06d}.parquet")

    def attempts_path(self, shard: int) -> str:
        """The file that says how often a shard was begun, while it is under way."""
        return joined(self.output, ATTEMPTS, f"part-{shard:06d}.json")

    def inputs(self, shard: int) -> list[Planned]:
        """The inputs of one shard, in order.

        Raises:
            DataError: the plan cannot be read.
        """
        with parquet_file(joined(self.output, INPUTS)) as file:
            group = file.read_row_group(shard)
        return [Planned(**{**cells, "path": _text(cells["path"])}) for cells in group.to_pylist()]


def make_run(
    output: str, inputs: Iterable[Planned], *, settings: Mapping[str, Any], shard_rows: int
) -> Run:
    """Divide the inputs into shards and write the plan; the manifest is the last file written.

    Raises:
        DataError: an input cannot be found out about, or the plan cannot be written.
    """
    plan, rows, relative = _plan(inputs, shard_rows)
    digest = hashlib.sha256(json.dumps([settings, shard_rows], sort_keys=True).encode())
    digest.update(plan)
    folder = str(Path.cwd()) if relative else ""
    run = Run(output, settings, rows, shard_rows, folder, digest.hexdigest())
    write_bytes(joined(output, INPUTS), plan)
    write_manifest(run)
    return run


def write_manifest(run: Run, **results: Any) -> None:
    """Write the manifest, at the end with ``results``."""
    content = {key: value for key, value in asdict(run).items() if key != "output"}
    document = {"format": FORMAT, **content, "shards": run.shards, **results}
    text = json.dumps(document, indent=2, ensure_ascii=False) + "\n"
    write_bytes(joined(run.output, MANIFEST), text.encode("utf-8", "backslashreplace"))


def has_run(output: str) -> bool:
    """Whether there is a run in a folder."""
    return exists(joined(output, MANIFEST))


def read_run(output: str) -> Run:
    """Read the manifest of a run.

    Raises:
        DataError: there is none, or it is not one of this version.
    """
    path = joined(output, MANIFEST)
    try:
        document = json.loads(read_bytes(path))
        if document["format"] != FORMAT:
            raise DataError(f"{path}: has format {document['format']}, this version reads {FORMAT}")
        names = ("settings", "rows", "shard_rows", "folder", "identity")
        return Run(output, **{name: document[name] for name in names})
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise DataError(f"{path}: is no manifest of a run ({error!r})") from error


def require_same(run: Run, settings: Mapping[str, Any], shard_rows: int) -> None:
    """Refuse to go on with a run that was begun in another way.

    Raises:
        ConfigError: something differs; the message names it.
    """
    before, now = ({**of, "shard_rows": n} for of, n in
                   ((run.settings, run.shard_rows), (settings, shard_rows)))  # fmt: skip
    differing = changed_settings(before, now)
    if differing:
        raise ConfigError(
            f"{run.output}: was begun in another way: {'; '.join(differing)}. Give the same, or "
            "start anew (--overwrite)"
        )


def row_files(path: str) -> list[str]:
    """The files of all rows of a run, or the Parquet files of any other folder, or the one file.

    Args:
        path: a run's folder, another folder, or a file.

    Raises:
        DataError: there are none, or the run is not finished.
    """
    path = absolute(path)
    if not is_folder(path):
        return [path]
    if not has_run(path):
        names = [name for name in files_below(path, recursive=False) if name.endswith(".parquet")]
        if not names:
            raise DataError(f"{path}: is a folder without Parquet files")
        return names
    run = read_run(path)
    names = [run.path(shard) for shard in range(run.shards)]
    missing = sorted(set(names).difference(files_below(joined(path, ROWS), recursive=False)))
    if missing:
        raise DataError(
            f"{path}: {len(missing)} of {run.shards} shards are not predicted yet; finish the run "
            "with --resume"
        )
    return names


def remove_run(output: str) -> None:
    """Remove the files of a run, the manifest last, and no others."""
    run = read_run(absolute(output))
    ours = {run.path(shard) for shard in range(run.shards)}
    ours |= {run.attempts_path(shard) for shard in range(run.shards)}
    for folder in (ROWS, ATTEMPTS):
        place = joined(output, folder)
        for name in files_below(place, recursive=False) if is_folder(place) else ():
            if name in ours:
                remove(name)
    for name in (INPUTS, MANIFEST):
        remove(joined(output, name))


def _plan(inputs: Iterable[Planned], shard_rows: int) -> tuple[bytes, int, bool]:
    """The plan as a Parquet file with a row group for each shard; rows; any relative path."""
    import pyarrow
    from pyarrow.parquet import ParquetWriter

    schema = pyarrow.schema(
        [("path", pyarrow.binary()), ("problem", pyarrow.string()), ("row", pyarrow.int64())]
    )
    buffer, rows, relative = io.BytesIO(), 0, False
    with ParquetWriter(buffer, schema, compression="zstd") as writer:
        for shard in _divided(inputs, shard_rows):
            columns = {name: [getattr(item, name) for item in shard] for name in Planned._fields}
            columns["path"] = [path.encode("utf-8", "surrogateescape") for path in columns["path"]]
            writer.write_table(pyarrow.table(columns, schema=schema), row_group_size=shard_rows)
            rows += len(shard)
            relative |= any(_is_relative(item.path) for item in shard)
    return buffer.getvalue(), rows, relative


def _divided(inputs: Iterable[Planned], count: int) -> Iterator[list[Planned]]:
    iterator = iter(inputs)
    while shard := list(itertools.islice(iterator, count)):
        yield shard


def _is_relative(path: str) -> bool:
    return not is_uri(path) and not Path(path).is_absolute()


def _text(path: bytes) -> str:
    return path.decode("utf-8", "surrogateescape")
