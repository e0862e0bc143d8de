"""The images behind what a user named: files, folders, patterns and tables."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

from cascade.imaging import FoundFile, expand_sources


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
        _table_inputs(Path(item))
        if item.lower().endswith(".csv") and not Path(item).is_dir()
        else _found_inputs(item, recursive, results)
        for item in inputs
    ]
    return itertools.chain.from_iterable(parts)


def _found_inputs(item: str, recursive: bool, results: Path | None) -> Iterator[FoundFile]:
    own = [results.resolve() / kind for kind in ("masks", "overlays")] if results else []
    for found in expand_sources([item], recursive=recursive):
        if found.path == Path(item) or found.path.resolve().parent not in own:
            yield found


def _table_inputs(path: Path) -> list[FoundFile]:
    """One input for each row, whatever its cell holds."""
    from cascade.data.tables import read_csv, read_table

    columns, rows = read_csv(path)
    if "path" in columns:
        return [FoundFile(path.parent / row["path"]) for row in rows]
    beside = path.parent / "images_all"
    table = read_table(
        path,
        images=beside if beside.is_dir() else path.parent,
        require_labels=False,
        check_files=False,
    )
    return [FoundFile(record.image_path) for record in table]
