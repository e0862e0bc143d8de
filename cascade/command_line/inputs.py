"""The images behind what a user named: files, folders, patterns and tables."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from cascade.errors import DataError
from cascade.imaging import FoundFile, expand_sources

_RESULTS = ("masks", "overlays", "dicom_segmentations", "dicom_reports")


def find_inputs(
    inputs: Sequence[str], *, recursive: bool, results: Path | None = None
) -> Iterator[FoundFile]:
    """The images behind files, folders, patterns and tables, one at a time.

    Args:
        inputs: what the user named; tables are read at once, folders when their turn comes.
        recursive: also search folders within folders.
        results: the folder for results; images that are found in it are no inputs.

    Raises:
        DataError: a table is not usable.
    """
    parts = [
        [FoundFile(image) for image, _ in table_images(Path(item))]
        if is_table(item)
        else _found_inputs(item, recursive, results)
        for item in inputs
    ]
    return itertools.chain.from_iterable(parts)


def _found_inputs(item: str, recursive: bool, results: Path | None) -> Iterator[FoundFile]:
    own = [results.resolve() / kind for kind in _RESULTS] if results else []
    for found in expand_sources([item], recursive=recursive):
        if found.path == Path(item) or found.path.resolve().parent not in own:
            yield found


def is_table(item: str) -> bool:
    """Whether an input is a table of images."""
    return item.lower().endswith(".csv") and not Path(item).is_dir()


def table_images(path: Path) -> list[tuple[Path, Mapping[str, str]]]:
    """The image of each row of a table, whatever its cell holds, and the row's cells.

    Raises:
        DataError: the table is not usable.
    """
    from cascade.data.grouping import check_id_columns
    from cascade.data.tables import read_csv, read_table

    if set("*?[") & set(path.name) and not path.exists():
        raise DataError(f"{path}: patterns are for images; name each table")
    columns, rows = read_csv(path)
    if "path" in columns:
        check_id_columns(path, columns)
        return [(path.parent / row["path"], row) for row in rows]
    beside = path.parent / "images_all"
    table = read_table(
        path,
        images=beside if beside.is_dir() else path.parent,
        require_labels=False,
        check_files=False,
    )
    return [(record.image_path, record.attributes) for record in table]
