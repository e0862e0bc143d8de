"""From a data set on disk to the project's layout; originals are never touched."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cascade.data.sources.annotations import DrawnMask
from cascade.data.sources.archives import unpacked
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
    place_packed,
    staged,
)
from cascade.data.sources.own_data import OwnData
from cascade.data.sources.packed import Container, PackedImage
from cascade.data.sources.public.isic_challenges import ISIC_2018_TASK1, read_2018_task1
from cascade.data.sources.registry import SOURCES, source_named
from cascade.data.sources.rows import ATTRIBUTES, Source, SourceRow, SourceTable, Split
from cascade.data.sources.selection import (
    PrepareConfig,
    Row,
    check_names,
    divide,
    with_class,
    with_image,
)
from cascade.data.sources.source_files import Layout
from cascade.data.sources.summary import (
    FORMAT,
    Summary,
    counts,
    image_warnings,
    mask_warnings,
    provenance,
    warnings,
)
from cascade.data.synthetic import SyntheticConfig, write_synthetic_dataset
from cascade.data.tables import read_csv
from cascade.errors import ConfigError, DataError
from cascade.files import read_json, write_csv, write_json
from cascade.imaging import write_mask
from cascade.progress import progress

__all__ = ["SOURCES", "OwnData", "PrepareConfig", "Summary", "prepare", "source_named"]


def prepare(
    source: str,
    input: str | os.PathLike[str],
    output: str | os.PathLike[str],
    config: PrepareConfig | None = None,
    *,
    labels: str | os.PathLike[str] | None = None,
    choices: OwnData | None = None,
) -> Summary:
    """Write a data set as images, masks and tables.

    Args:
        source: name of the data set, see :data:`cascade.data.sources.registry.SOURCES`.
        input: the folder, or a ZIP or tar archive; it is only read.
        output: the folder that gets ``images_all``, ``masks_all``, ``train_data.csv``,
            ``test_data.csv`` and ``prepare.json``.
        config: choices; by default ``PrepareConfig()``.
        labels: metadata table with the classes of ``isic2018_task1``.
        choices: how data of one's own, such as class folders, are to be read.

    Raises:
        ConfigError: the source is unknown or options contradict each other.
        DataError: something in the input is missing or contradictory, or the output is in use.
        LeakageError: a patient, lesion or group would be in both tables.
    """
    config = config or PrepareConfig()
    known, origin, target = source_named(source), Path(input), Path(output)
    read = _reader(known, labels, choices or OwnData())
    check_apart(origin, target)
    check_output(target, overwrite=config.overwrite, append=config.append)
    if config.link == "symlink" and origin.is_file():
        raise ConfigError(
            f"--link symlink: {origin} is an archive, which is unpacked for the time being only; "
            "leave the flag out"
        )
    with unpacked(origin, target) as folder:
        layout = Layout(folder)
        return _write(known, origin, target, config, layout, read(layout))


def _write(
    known: Source,
    origin: Path,
    target: Path,
    config: PrepareConfig,
    layout: Layout,
    table: SourceTable,
) -> Summary:
    """Choose, divide and write the rows of a source."""
    kept, excluded = with_class(table, config)
    kept, missing = with_image(kept, origin, config, packed=layout.packed())
    containers = _containers(kept, config.link)
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
        warnings=(
            *table.warnings,
            *mask_warnings(layout, table, kept),
            *image_warnings(layout, table),
            *warnings(rows, sides),
            *_stale_splits(target),
        ),
        notes=table.notes,
    )
    with staged(target, append=config.append) as stage:
        with contextlib.ExitStack() as stack:
            for container in containers:
                stack.enter_context(container)
            _place_files(kept, stage, config.link)
        for split, name in TABLES.items():
            own = [row for row, side in zip(rows, sides, strict=True) if side == split]
            _write_table(stage / name, [*old[split], *own])
        runs = read_json(target / PROVENANCE)["runs"] if config.append else []
        runs.append(provenance(known, origin, table, rows, summary, config))
        write_json(stage / PROVENANCE, {"format": FORMAT, "runs": runs})
    return summary


def _reader(source: Source, labels: str | os.PathLike[str] | None, choices: OwnData) -> Any:
    useless = [f"--{name}" for name in choices.given() if name not in source.takes]
    if useless:
        raise ConfigError(
            f"{', '.join(useless)} does not apply to the source {source.name}; leave it out"
        )
    if labels is None:
        return functools.partial(source.read, choices=choices) if source.takes else source.read
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
    cells = {"name": row.file_name}
    if not config.without_labels:
        cells["class"] = row.label
    cells |= {name: row.attributes.get(name, "") for name in ATTRIBUTES}
    given = {name: text for name, text in row.attributes.items() if name not in ATTRIBUTES}
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
        target = stage / IMAGES / row.file_name
        if isinstance(row.image, PackedImage):
            place_packed(row.image, target)
        elif row.image:
            place(row.image, target, link)
        if row.mask:
            _place_mask(row, stage / MASKS / f"{row.stem}.png", link)


def _containers(rows: Sequence[SourceRow], link: Link) -> list[Container]:
    """The files that hold several of the images.

    Raises:
        ConfigError: the images are to be linked, but are no files.
    """
    images = (row.image for row in rows)
    found = {image.container for image in images if isinstance(image, PackedImage)}
    if found and link != "copy":
        names = ", ".join(sorted(container.path.name for container in found))
        raise ConfigError(
            f"--link {link}: the images are inside {names} and have to be written out; leave the "
            "flag out"
        )
    return list(found)


def _place_mask(row: SourceRow, target: Path, link: Link) -> None:
    if isinstance(row.mask, DrawnMask):
        if isinstance(row.image, Path):
            write_mask(target, row.mask.pixels(row.image))
    elif row.mask:
        place_mask(row.mask, target, link)


def prepare_synthetic(
    output: str | os.PathLike[str], config: SyntheticConfig, *, overwrite: bool = False
) -> dict[str, dict[str, int]]:
    """Draw a data set of invented lesions, all of it or nothing.

    Returns:
        Images by table and class.

    Raises:
        DataError: the output is in use or cannot be written to.
    """
    target = Path(output)
    check_output(target, overwrite=overwrite, append=False)
    with staged(target, append=False) as stage:
        counts = write_synthetic_dataset(stage, config)
        run = {"source": "synthetic", "options": asdict(config), "counts": counts}
        write_json(stage / PROVENANCE, {"format": FORMAT, "runs": [run]})
    return counts
