"""Rows of predictions as Parquet: the columns of ``predictions.csv``, each with its own type."""

from __future__ import annotations

import io
import json
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from cascade.cluster.inputs import parquet_file
from cascade.cluster.plan import has_run, row_files
from cascade.cluster.storage import exists, files_below, is_folder
from cascade.errors import DataError
from cascade.fields import Field, alternatives, flat
from cascade.imaging import NamedBytes, encode_mask
from cascade.imaging.run_lengths import mask_from_run_lengths, run_lengths
from cascade.pipeline.prediction import Prediction
from cascade.pipeline.rows import COLUMNS, RowInput

MaskFormat = Literal["png", "rle"]
_KEY = b"cascade"


def schema(masks: MaskFormat | None, diagnoses: Sequence[str] = ()) -> Any:
    """The columns' types; ``mask`` holds what was asked for, and is empty otherwise.

    ``diagnoses`` are the columns of :func:`cascade.pipeline.rows.diagnosis_columns`.
    """
    import pyarrow

    kinds = {name: _kind(field) for field in flat(Prediction) for name in field.columns}
    types = {str: pyarrow.string(), int: pyarrow.int64(), float: pyarrow.float64(),
             bool: pyarrow.bool_()}  # fmt: skip
    of_mask = {"png": pyarrow.binary(), "rle": pyarrow.list_(pyarrow.int32())}
    special = {"mask": of_mask.get(masks or "", pyarrow.string())}
    own = [(name, special.get(name, types[kinds.get(name, str)])) for name in COLUMNS]
    return pyarrow.schema([*own, *((name, types[float]) for name in diagnoses)])


def _kind(field: Field) -> type:
    """The type of a field's cells: of its parts, or text where several words share one cell."""
    kinds = [kind for kind in alternatives(field.kind) if kind is not type(None)]
    inner = typing.get_args(kinds[0])
    if not inner:
        return kinds[0]
    return inner[1] if field.description.parts else str


def mask_cell(masks: MaskFormat | None, _: RowInput, prediction: Prediction) -> dict[str, Any]:
    """The column ``mask`` of a row."""
    if masks is None:
        return {}
    make = encode_mask if masks == "png" else run_lengths
    return {"mask": make(prediction.mask)}


def to_parquet(
    rows: Sequence[Mapping[str, Any]],
    *,
    masks: MaskFormat | None,
    about: Mapping[str, Any],
    diagnoses: Sequence[str] = (),
) -> bytes:
    """Rows as the bytes of a Parquet file; the same rows always give the same bytes.

    Args:
        rows: with all columns, but those of diagnoses only where there is an answer.
        masks: what the column ``mask`` holds.
        about: plain JSON values to keep beside the rows; see :func:`about_rows`.
        diagnoses: see :func:`schema`.
    """
    import pyarrow
    from pyarrow.parquet import write_table

    shape = schema(masks, diagnoses).with_metadata(
        {_KEY: json.dumps(about, sort_keys=True).encode()}
    )
    columns = {
        field.name: pyarrow.array(
            [_typed(row.get(field.name), field.type) for row in rows], field.type
        )
        for field in shape
    }
    buffer = io.BytesIO()
    write_table(pyarrow.table(columns, schema=shape), buffer, compression="zstd")
    return buffer.getvalue()


def _typed(value: Any, kind: Any) -> Any:
    import pyarrow

    if value is None:
        return None
    if isinstance(value, str):
        if pyarrow.types.is_floating(kind):
            return float(value)  # "inf", which is a word in CSV
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    return value.item() if isinstance(value, np.generic) else value


def about_rows(path: str) -> dict[str, Any] | None:
    """What was kept beside the rows of a file, and ``rows``; ``None`` if it is no whole one."""
    if not exists(path):
        return None
    try:
        with parquet_file(path) as file:
            kept = (file.schema_arrow.metadata or {}).get(_KEY)
            return None if kept is None else {**json.loads(kept), "rows": file.metadata.num_rows}
    except DataError:  # cut off on a file system that shows files while they are written
        return None


def read_rows(path: str) -> Iterator[dict[str, Any]]:
    """The rows of a run, of another folder of Parquet files, or of one file, in order.

    Raises:
        DataError: there are none, or a file is not one of ours.
    """
    for name in row_files(path):
        with parquet_file(name) as file:
            if "name" not in file.schema_arrow.names:
                found = ", ".join(file.schema_arrow.names)
                raise DataError(f"{name}: column 'name' is missing; found {found}")
            for batch in file.iter_batches(batch_size=256):
                yield from batch.to_pylist()


def is_stored(path: str) -> bool:
    """Whether this names rows in Parquet: a file, a folder of files, or a run."""
    if path.lower().endswith(".parquet"):
        return True
    if not is_folder(path):
        return False
    return has_run(path) or any(
        name.endswith(".parquet") for name in files_below(path, recursive=False)
    )


def mask_file(row: Mapping[str, Any]) -> NamedBytes | None:
    """The mask of a row of :func:`read_rows` as a PNG file; ``None`` where it has none.

    Raises:
        DataError: the cell is no mask.
    """
    cell = row.get("mask")
    if cell is None or isinstance(cell, str):
        return None
    if not isinstance(cell, bytes):
        cell = encode_mask(mask_from_run_lengths(cell, (row["height"], row["width"])))
    return NamedBytes(cell, f"mask of {row['name']}")
