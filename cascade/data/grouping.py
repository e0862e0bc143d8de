"""Which records belong together: the same patient, lesion, group or image."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from typing import TypeVar

from cascade.errors import DataError

ID_COLUMNS = ("patient_id", "lesion_id", "group_id")
"""Columns that tie records together, the strongest first."""

_MISSING = {"", "nan", "na", "n/a", "#n/a", "none", "null", "unknown"}

Key = TypeVar("Key", bound=Hashable)


def identifiers(row: Mapping[str, str]) -> list[tuple[str, str]]:
    """The ``(column, id)`` pairs of one row; an empty cell, ``nan`` or ``NA`` is no id."""
    pairs = [(column, row.get(column, "").strip()) for column in ID_COLUMNS]
    return [(column, value) for column, value in pairs if value.casefold() not in _MISSING]


def check_id_columns(path: str | os.PathLike[str], columns: Collection[str]) -> None:
    """Refuse a column that is called almost like one of ids, whose groups would be lost.

    Args:
        path: of the table, for the message.
        columns: all columns of the table.

    Raises:
        DataError: a column is called like ``Patient ID``, and none ``patient_id``.
    """
    for wanted in ID_COLUMNS:
        bare = wanted.replace("_", "")
        near = [name for name in columns if re.sub(r"[\W_]", "", name).casefold() == bare]
        if near and wanted not in columns:
            raise DataError(f"{path}: column {near[0]!r} is not read; call it {wanted!r}")


def connected(keys: Sequence[Iterable[Key]]) -> list[list[int]]:
    """Gather items that share a key, directly or through other items.

    Returns:
        The items' indices, in groups; groups and members in ascending order.
    """
    parent = list(range(len(keys)))

    def root(item: int) -> int:
        while parent[item] != item:
            parent[item] = parent[parent[item]]
            item = parent[item]
        return item

    owner: dict[Key, int] = {}
    for item, own in enumerate(keys):
        for key in own:
            first, second = sorted((root(item), root(owner.setdefault(key, item))))
            parent[second] = first
    members: dict[int, list[int]] = {}
    for item in range(len(keys)):
        members.setdefault(root(item), []).append(item)
    return list(members.values())


def group_names(rows: Sequence[Mapping[str, str]], stems: Sequence[str]) -> list[str]:
    """Name the group of each row.

    Rows that share a patient, a lesion, a ``group_id`` or the image are in one group, also through
    other rows. That is never weaker than "patient, else lesion, else group_id, else the image".

    Returns:
        One name a row, such as ``patient_id:P7``: the smallest id of the strongest kind.
    """
    keys = [[*identifiers(row), ("name", stem)] for row, stem in zip(rows, stems, strict=True)]
    strength = {column: place for place, column in enumerate((*ID_COLUMNS, "name"))}
    names = [""] * len(rows)
    for members in connected(keys):
        column, value = min(
            {key for member in members for key in keys[member]},
            key=lambda key: (strength[key[0]], key[1]),
        )
        for member in members:
            names[member] = f"{column}:{value}"
    return names


def grouping_warnings(rows: Sequence[Mapping[str, str]]) -> list[str]:
    """Say so when ids are there for some rows only."""
    known = [{column for column, _ in identifiers(row)} for row in rows]
    without_patient = sum("patient_id" not in columns for columns in known)
    without_any = sum(not columns for columns in known)
    found = []
    if 0 < without_patient < len(rows):
        found.append(
            f"{without_patient} of {len(rows)} rows have no patient_id; each is grouped by its "
            "lesion_id or group_id, or else alone"
        )
    if 0 < without_any < len(rows):
        found.append(
            f"{without_any} of {len(rows)} rows have no {', '.join(ID_COLUMNS[:-1])} or "
            f"{ID_COLUMNS[-1]}; each is a group of its own"
        )
    return found
