"""Dividing a table so that no patient, lesion or image is on both sides."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cascade.config import CLASSES
from cascade.data.grouping import identifiers
from cascade.data.spreadsheet import listed
from cascade.data.tables import Record, Table
from cascade.errors import ConfigError, DataError, LeakageError
from cascade.files import read_json, write_json

log = logging.getLogger(__name__)

FORMAT = 1
_LARGEST_DIVISION = 20
_CLOSE_ENOUGH = 0.01


@dataclass(frozen=True)
class Splits:
    """Which images train and which validate.

    Attributes:
        train: names in sorted order.
        validation: names in sorted order.
        seed: seed of the division.
        fraction: share of the table asked for in ``validation``.
        table_digest: :attr:`cascade.data.tables.Table.digest` of the table that was divided.
    """

    train: tuple[str, ...]
    validation: tuple[str, ...]
    seed: int
    fraction: float
    table_digest: str

    @property
    def digest(self) -> str:
        """SHA-256 over both sides, as hexadecimal text."""
        sides = json.dumps([sorted(self.train), sorted(self.validation)])
        return hashlib.sha256(sides.encode()).hexdigest()

    def parts(self, table: Table) -> tuple[Table, Table]:
        """The training and the validation records among those of ``table``.

        A table that lost rows, such as those without a mask, keeps the sides of the others.
        """
        names = set(table.names())
        train, validation = (
            table.subset(name for name in side if name in names)
            for side in (self.train, self.validation)
        )
        return train, validation


def make_splits(table: Table, *, fraction: float = 0.15, seed: int = 0) -> Splits:
    """Cut a validation part from a table by group, with both classes in proportion.

    The result depends on the sorted names, the labels, the groups and the seed only. The share is
    met as closely as whole groups allow.

    Args:
        table: with or without labels.
        fraction: share of the images for validation, within (0, 1).
        seed: another seed gives another division.

    Raises:
        ConfigError: ``fraction`` is not within (0, 1).
        DataError: the table has one group only.
    """
    if not 0 < fraction < 1:
        raise ConfigError(f"fraction is {fraction}; validation is a share between 0 and 1")
    records = sorted(table, key=lambda record: record.name)
    groups = len(set(table.groups()))
    if groups < 2:
        raise DataError(
            f"{table.path}: all {len(table)} images are in one group ({table[0].group}), so "
            "nothing independent is left for validation"
        )
    most = max(_LARGEST_DIVISION, round(1 / fraction))
    parts, of = _nearest_ratio(fraction, most=min(most, groups, max(2, _rarest_groups(records))))
    validation: set[str] = set()
    for fold in list(_folds(records, of, seed))[:parts]:
        validation.update(fold)
    splits = _splits(records, validation, seed=seed, fraction=fraction, digest=table.digest)
    for side, names in (("train", splits.train), ("validation", splits.validation)):
        absent = _absent_classes(table, names)
        if absent:
            log.warning("%s: no %s image in %s", table.path, " or ".join(absent), side)
    return splits


def make_folds(
    table: Table, count: int, *, seed: int = 0, both_classes: bool = True
) -> list[Splits]:
    """Divide a table into folds by group; each image validates exactly once.

    ``both_classes`` requires both classes in each fold of a table with labels.

    Raises:
        ConfigError: fewer than two folds.
        DataError: there are fewer groups than folds, or a fold would lack a class (named).
    """
    if count < 2:
        raise ConfigError(f"{count} folds: cross-validation needs at least 2")
    groups = len(set(table.groups()))
    if groups < count:
        raise DataError(
            f"{table.path}: {count} folds but only {groups} group{'s' * (groups > 1)} of images; "
            "use fewer folds"
        )
    records = sorted(table, key=lambda record: record.name)
    folds = [
        _splits(records, set(fold), seed=seed, fraction=1 / count, digest=table.digest)
        for fold in _folds(records, count, seed)
    ]
    if both_classes and table.labelled:
        _require_both_classes(table, folds)
    return folds


def require_disjoint(first: Table, second: Table) -> None:
    """Raise if two tables share a patient, a lesion, a ``group_id`` or an image.

    The columns themselves are compared, so tables that were read separately can be.

    Raises:
        LeakageError: something is on both sides; ``shared`` holds it as ``column:value``.
    """
    sides = []
    for table in (first, second):
        keys = {pair for record in table for pair in _keys(record)}
        sides.append({f"{column}:{value}" for column, value in keys})
    shared = sides[0] & sides[1]
    if shared:
        raise LeakageError(
            f"{first.path} and {second.path} share {len(shared)} patients, lesions, groups or "
            f"images: {listed(sorted(shared), limit=5)}; move each to one table",
            shared=shared,
        )


def require_fitting(splits: Splits, table: Table, *, source: object = "splits") -> None:
    """Raise unless splits were made for this table and keep its groups apart.

    Raises:
        DataError: names are missing, twice or unknown, or the table has changed since.
        LeakageError: a group is on both sides.
    """
    names = Counter((*splits.train, *splits.validation))
    here = set(table.names())
    repeated = [name for name, count in names.items() if count > 1]
    if repeated:
        raise LeakageError(f"{source}: twice: {listed(sorted(repeated), limit=5)}", shared=repeated)
    differing = here.symmetric_difference(names)
    if differing:
        raise DataError(
            f"{source}: does not belong to {table.path}; {len(differing)} names are in one of "
            f"them only: {listed(sorted(differing), limit=5)}"
        )
    groups = {record.name: record.group for record in table}
    shared = {groups[name] for name in splits.train} & {groups[name] for name in splits.validation}
    if shared:
        raise LeakageError(
            f"{source}: {len(shared)} groups are in both train and validation: "
            f"{listed(sorted(shared), limit=5)}",
            shared=shared,
        )
    if splits.table_digest != table.digest:
        raise DataError(
            f"{source}: classes or groups in {table.path} have changed since the split was made"
        )


def write_splits(path: str | os.PathLike[str], splits: Splits) -> None:
    """Write splits as JSON, atomically.

    Raises:
        DataError: the folder cannot be written to.
    """
    write_json(path, {"format": FORMAT, **asdict(splits)})


def read_splits(path: str | os.PathLike[str]) -> Splits:
    """Read splits back, strictly.

    Raises:
        DataError: the file is missing, is not JSON, or does not hold splits.
    """
    document = read_json(path)
    kinds: Mapping[str, type | tuple[type, ...]] = {
        "format": int, "train": list, "validation": list, "seed": int, "fraction": (int, float),
        "table_digest": str,
    }  # fmt: skip
    if not isinstance(document, dict) or set(document) != set(kinds):
        found = sorted(document) if isinstance(document, dict) else type(document).__name__
        raise DataError(f"{path}: is not a splits file; expected {sorted(kinds)}, got {found}")
    for key, kind in kinds.items():
        if not isinstance(document[key], kind) or isinstance(document[key], bool):
            raise DataError(f"{path}: {key} is {document[key]!r}, which is not of its type")
    if document["format"] != FORMAT:
        raise DataError(f"{path}: is of format {document['format']}; this version reads {FORMAT}")
    return Splits(
        train=_names(path, document, "train"),
        validation=_names(path, document, "validation"),
        seed=document["seed"],
        fraction=float(document["fraction"]),
        table_digest=document["table_digest"],
    )


def load_or_make_splits(
    table: Table, path: str | os.PathLike[str], *, fraction: float = 0.15, seed: int = 0
) -> Splits:
    """Read the splits of a table, or make and write them the first time.

    Both stages use one file, so no image that trained the first validates the second.

    ``fraction`` and ``seed`` count when the file is made.

    Raises:
        DataError: the file belongs to another table, or cannot be written.
        LeakageError: a group is on both sides.
    """
    if not Path(path).exists():
        splits = make_splits(table, fraction=fraction, seed=seed)
        try:
            write_splits(path, splits)
        except DataError as error:
            raise DataError(f"{error}; name another file with --splits FILE") from error
        return splits
    splits = read_splits(path)
    advice = "delete or rename it to make a new one, or name another with --splits FILE"
    try:
        require_fitting(splits, table, source=path)
    except LeakageError as error:
        raise LeakageError(f"{error}; {advice}", shared=error.shared) from error
    except DataError as error:
        raise DataError(f"{error}; {advice}") from error
    if (splits.seed, splits.fraction) != (seed, fraction):
        log.warning(
            "%s: used as it is, made with seed %d and fraction %g; seed %d and fraction %g divide "
            "nothing anew",
            *(path, splits.seed, splits.fraction, seed, fraction),
        )
    return splits


def _keys(record: Record) -> list[tuple[str, str]]:
    return [*identifiers(record.attributes), ("name", record.stem)]


def _names(path: str | os.PathLike[str], document: Mapping[str, Any], side: str) -> tuple[str, ...]:
    names = document[side]
    if not names or not all(isinstance(name, str) for name in names):
        raise DataError(f"{path}: {side} must be a list of image names, and not empty")
    return tuple(names)


def _nearest_ratio(fraction: float, *, most: int) -> tuple[int, int]:
    """The first ``parts / of`` close to a fraction, or else the nearest with ``of <= most``."""
    best = (1, 2)
    for of in range(2, most + 1):
        parts = min(max(round(fraction * of), 1), of - 1)
        if abs(parts / of - fraction) < abs(best[0] / best[1] - fraction):
            best = (parts, of)
        if abs(best[0] / best[1] - fraction) <= _CLOSE_ENOUGH:
            break
    return best


def _rarest_groups(records: Sequence[Record]) -> int:
    """In how many groups the rarer class occurs; all groups without labels."""
    groups: dict[str | None, set[str]] = {}
    for record in records:
        groups.setdefault(record.label, set()).add(record.group)
    return min(len(members) for members in groups.values())


def _folds(records: Sequence[Record], count: int, seed: int) -> Iterator[list[str]]:
    """Yield the names of each fold."""
    from sklearn.model_selection import StratifiedGroupKFold  # takes seconds to import

    labels = [record.label or "" for record in records]
    if max(Counter(labels).values()) < count:  # sklearn refuses; classes this rare cannot be spread
        labels = [""] * len(records)
    folds = StratifiedGroupKFold(count, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The least populated class", category=UserWarning)
        parts = list(
            folds.split(np.zeros(len(records)), labels, [record.group for record in records])
        )
    for _, indices in parts:
        yield [records[index].name for index in indices]


def _splits(
    records: Sequence[Record], validation: set[str], *, seed: int, fraction: float, digest: str
) -> Splits:
    names = sorted(record.name for record in records)
    return Splits(
        train=tuple(name for name in names if name not in validation),
        validation=tuple(name for name in names if name in validation),
        seed=seed,
        fraction=fraction,
        table_digest=digest,
    )


def _absent_classes(table: Table, names: Sequence[str]) -> list[str]:
    if not table.labelled:
        return []
    wanted = set(names)
    present = {record.label for record in table if record.name in wanted}
    return [label for label in CLASSES if label not in present]


def _require_both_classes(table: Table, folds: Sequence[Splits]) -> None:
    lacking = [
        f"fold {number} has no {label} image"
        for number, fold in enumerate(folds, start=1)
        for label in _absent_classes(table, fold.validation)
    ]
    if lacking:
        rarest = min(
            len({record.group for record in table if record.label == label}) for label in CLASSES
        )
        advice = (
            f"the rarer class is in {rarest} group{'s' * (rarest != 1)} only; use fewer folds"
            if rarest < len(folds)
            else "use fewer folds or another seed"
        )
        raise DataError(f"{table.path}: {listed(lacking, limit=5)} of {len(folds)}; {advice}")
