"""From a public data set on disk to the project's layout; originals are never touched."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cascade.data.sources.division import Row, divide
from cascade.data.sources.folder import (
    IMAGES,
    MASKS,
    PROVENANCE,
    TABLES,
    Link,
    check_apart,
    check_output,
    place,
    place_mask,
    staged,
)
from cascade.data.sources.isic_challenges import ISIC_2018_TASK1, read_2018_task1
from cascade.data.sources.layout import Layout
from cascade.data.sources.options import PrepareConfig
from cascade.data.sources.registry import source_named
from cascade.data.sources.rows import ATTRIBUTES, OPTIONAL_ATTRIBUTES, Source, SourceRow, Split
from cascade.data.sources.selection import check_names, with_class, with_image
from cascade.data.sources.summary import FORMAT, Summary, counts, provenance, warnings
from cascade.data.tables import read_csv
from cascade.errors import ConfigError, DataError
from cascade.files import read_json, write_csv, write_json
from cascade.progress import progress

__all__ = ["PrepareConfig", "Summary", "prepare"]


def prepare(
    source: str,
    input: str | os.PathLike[str],
    output: str | os.PathLike[str],
    config: PrepareConfig | None = None,
    *,
    labels: str | os.PathLike[str] | None = None,
) -> Summary:
    """Write a public data set as images, masks and tables.

    Args:
        source: name of the data set, see :data:`cascade.data.sources.registry.SOURCES`.
        input: the unpacked folder; it is only read.
        output: the folder that gets ``images_all``, ``masks_all``, ``train_data.csv``,
            ``test_data.csv`` and ``prepare.json``.
        config: choices; by default ``PrepareConfig()``.
        labels: metadata table with the classes of ``isic2018_task1``.

    Raises:
        ConfigError: the source is unknown or options contradict each other.
        DataError: something in the input is missing or contradictory, or the output is in use.
        LeakageError: a patient, lesion or group would be in both tables.
    """
    config = config or PrepareConfig()
    known, origin, target = source_named(source), Path(input), Path(output)
    check_apart(origin, target)
    check_output(target, overwrite=config.overwrite, append=config.append)
    table = _reader(known, labels)(Layout(origin))
    kept, excluded = with_class(table, config)
    kept, missing = with_image(kept, origin, config)
    old = _existing(target, config)
    check_names(kept, old)
    rows = [_cells(row, known.name, config) for row in kept]
    _check_mixture(rows, old)
    sides = divide(
        rows,
        [row.split for row in kept],
        old,
        by=config.split,
        fraction=config.test_fraction,
        seed=config.seed,
    )
    summary = Summary(
        counts={split: counts(rows, sides, split) for split in TABLES},
        masks=sum(row.mask is not None for row in kept),
        excluded=excluded,
        missing=tuple(missing),
        warnings=(*table.warnings, *warnings(rows, sides), *_stale_splits(target)),
    )
    with staged(target, append=config.append) as stage:
        _place_files(kept, stage, config.link)
        for split, name in TABLES.items():
            own = [row for row, side in zip(rows, sides, strict=True) if side == split]
            _write_table(stage / name, [*old[split], *own])
        runs = read_json(target / PROVENANCE)["runs"] if config.append else []
        runs.append(provenance(known, origin, table, rows, summary, config))
        write_json(stage / PROVENANCE, {"format": FORMAT, "runs": runs})
    return summary


def _reader(source: Source, labels: str | os.PathLike[str] | None) -> Any:
    if labels is None:
        return source.read
    if source is not ISIC_2018_TASK1:
        raise ConfigError(f"labels: {source.name} has its own; only isic2018_task1 takes a table")
    return functools.partial(read_2018_task1, labels=Path(labels))


def _existing(target: Path, config: PrepareConfig) -> dict[Split, list[Row]]:
    old: dict[Split, list[Row]] = {"train": [], "test": []}
    for split in old:
        path = target / TABLES[split]
        if config.append and path.exists():
            old[split] = list(read_csv(path)[1])
    return old


def _stale_splits(target: Path) -> list[str]:
    if not (target / "splits.json").exists():
        return []
    return [f"{target / 'splits.json'} belongs to the former tables; delete it before training"]


def _check_mixture(rows: Sequence[Row], old: Mapping[Split, Sequence[Row]]) -> None:
    labelled = {"class" in row for table in (rows, *old.values()) for row in table}
    if len(labelled) > 1:
        raise DataError("tables with and without classes cannot be merged; use another folder")


def _cells(row: SourceRow, source: str, config: PrepareConfig) -> Row:
    cells = {"name": row.image.name if row.image else row.stem}
    if not config.without_labels:
        cells["class"] = row.label
    cells |= {name: row.attributes.get(name, "") for name in ATTRIBUTES}
    given = {name: row.attributes[name] for name in OPTIONAL_ATTRIBUTES if name in row.attributes}
    return {**cells, "source": source, **given}


def _write_table(path: Path, rows: Sequence[Row]) -> None:
    """Write a table under all columns that occur; no rows, no table."""
    columns = dict.fromkeys(column for row in rows for column in row)
    if rows:
        write_csv(path, list(columns), sorted(rows, key=lambda row: row["name"]))


def _place_files(rows: Sequence[SourceRow], stage: Path, link: Link) -> None:
    for name in (IMAGES, MASKS):
        (stage / name).mkdir()
    for row in progress(rows, description="copying" if link == "copy" else "linking"):
        if row.image:
            place(row.image, stage / IMAGES / row.image.name, link)
        if row.mask:
            place_mask(row.mask, stage / MASKS / f"{row.stem}.png", link)
