"""Putting the rows of a source on the training or the test side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from cascade.data.grouping import group_names
from cascade.data.sources.rows import Split
from cascade.data.splits import make_splits
from cascade.data.tables import Record, Table, match_stem
from cascade.errors import DataError, LeakageError

SplitBy = Literal["auto", "source", "random"]
Row = Mapping[str, str]


def divide(
    rows: Sequence[Row],
    official: Sequence[Split],
    existing: Mapping[Split, Sequence[Row]],
    *,
    by: SplitBy,
    fraction: float,
    seed: int,
) -> list[Split]:
    """Choose a side for each new row; a patient, lesion or group is never on both.

    Args:
        rows: new rows with ``name``, ``class`` (or none) and ids.
        official: the source's own side of each row.
        existing: rows that are in the tables already; their groups stay where they are.
        by: ``source`` takes the official sides, ``random`` draws groups, ``auto`` takes the
            official sides where the source has both.
        fraction: share of the rows to draw for the test side; 0 and 1 are allowed.
        seed: of the draw.

    Raises:
        DataError: the official test side is asked for but not there, or there is one group only.
        LeakageError: the sides share a group.
    """
    old = [row for table in existing.values() for row in table]
    old_sides: list[Split] = [split for split, table in existing.items() for _ in table]
    everything = [*old, *rows]
    names = group_names(everything, [match_stem(row["name"]) for row in everything])
    fixed = dict(zip(names, old_sides, strict=False))
    new_names = names[len(old) :]
    if _official(official, by):
        sides = list(official)
    else:
        free = [(row, name) for row, name in zip(rows, new_names, strict=True) if name not in fixed]
        drawn = _draw(free, fraction, seed)
        sides = [fixed.get(name) or drawn[name] for name in new_names]
    _require_apart(names, [*old_sides, *sides])
    return sides


def _official(official: Sequence[Split], by: SplitBy) -> bool:
    found = set(official)
    if by == "source" and "test" not in found:
        raise DataError("the test part of this data set is not in the input; use --split random")
    if by == "auto" and found == {"test"}:
        raise DataError(
            "only the test part of this data set is in the input; add the training part, or say "
            "--split source (all test) or --split random"
        )
    return by == "source" or (by == "auto" and "test" in found)


def _draw(rows: Sequence[tuple[Row, str]], fraction: float, seed: int) -> dict[str, Split]:
    """A side for each group."""
    if fraction in (0.0, 1.0) or not rows:
        side: Split = "test" if fraction else "train"
        return {group: side for _, group in rows}
    records = tuple(
        Record(row["name"], row.get("class"), group, Path(row["name"]), None, row)
        for row, group in rows
    )
    drawn = make_splits(Table(Path("the input"), records), fraction=fraction, seed=seed)
    test = set(drawn.validation)
    return {group: "test" if row["name"] in test else "train" for row, group in rows}


def _require_apart(names: Sequence[str], sides: Sequence[Split]) -> None:
    groups: dict[Split, set[str]] = {"train": set(), "test": set()}
    for name, side in zip(names, sides, strict=True):
        groups[side].add(name)
    shared = groups["train"] & groups["test"]
    if shared:
        raise LeakageError(
            f"{len(shared)} patients, lesions or groups would be in both tables, for example "
            f"{min(shared)}; use --split random, or prepare the data sets into two folders",
            shared=shared,
        )
