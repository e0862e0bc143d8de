"""Which rows of a source are kept, and why the others are not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from cascade.config import CLASSES, check_settings, setting
from cascade.data.grouping import group_names
from cascade.data.locate import unsafe_name
from cascade.data.sources.folder import Link
from cascade.data.sources.rows import SourceRow, SourceTable, Split
from cascade.data.splits import make_splits
from cascade.data.spreadsheet import listed
from cascade.data.tables import Record, Table, match_stem
from cascade.errors import ConfigError, DataError, LeakageError

Indeterminate = Literal["exclude", "benign", "malignant", "error"]


@dataclass(frozen=True)
class PrepareConfig:
    """How a public data set is prepared."""

    link: Link = setting("copy", "how images get into images_all; a link needs no space")
    indeterminate: Indeterminate = setting(
        "exclude", "what becomes of diagnoses between the classes, such as actinic keratosis"
    )
    split: SplitBy = setting(
        "auto",
        "test table: source takes the data set's own, random draws groups, auto takes the data "
        "set's own if it is there",
    )
    test_fraction: float = setting(
        0.2, "share of images drawn for the test table", minimum=0.0, maximum=1.0
    )
    seed: int = setting(0, "seed of the draw", minimum=0)
    skip_missing: bool = setting(False, "leave out rows whose image is missing, and count them")
    without_labels: bool = setting(
        False, "write tables without classes, which suffice to train the segmenter"
    )
    overwrite: bool = setting(False, "replace a data set that was prepared before")
    append: bool = setting(False, "add to a data set that was prepared before")

    def __post_init__(self) -> None:
        check_settings(self)
        if self.overwrite and self.append:
            raise ConfigError("overwrite and append exclude each other; give one of them")


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

    ``official`` are the sides that the source gives; groups of ``existing`` rows stay where they
    are. ``by="auto"`` takes the official sides where the source has both. ``fraction``, in [0, 1],
    is the share of the rows to draw for the test side.

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


_MOST_NAMES = 1000


def with_class(table: SourceTable, config: PrepareConfig) -> tuple[list[SourceRow], dict[str, int]]:
    """Rows that get a class, and how many do not, by reason.

    Raises:
        DataError: the source has no classes, no image is left, or a diagnosis is indeterminate and
            ``config.indeterminate`` is ``error``.
    """
    if config.without_labels:
        return list(table.rows), {}
    if not table.has_labels:
        raise DataError(
            f"{table.why_no_labels}, or use --without_labels to train the segmenter only"
        )
    unsure = [row for row in table.rows if row.label == "indeterminate"]
    if unsure and config.indeterminate == "error":
        places = listed(f"{row.stem} ({row.where})" for row in unsure)
        raise DataError(f"{len(unsure)} diagnoses are indeterminate: {places}")
    excluded: Counter[str] = Counter()
    kept = []
    for row in table.rows:
        if row.label == "indeterminate" and config.indeterminate in CLASSES:
            kept.append(replace(row, label=config.indeterminate))  # type: ignore[arg-type]
        elif row.label in CLASSES:
            kept.append(row)
        else:
            reason = row.why_not or row.attributes.get("diagnosis") or "no diagnosis"
            excluded[f"{row.label}: {reason}"] += 1
    if not kept:
        raise DataError(f"no image is left; excluded: {dict(excluded)}")
    return kept, dict(excluded)


def with_image(
    rows: Sequence[SourceRow], origin: Path, config: PrepareConfig, *, packed: str = ""
) -> tuple[list[SourceRow], list[str]]:
    """Rows whose image is there, and the names of the others.

    ``packed`` is what to do about archives in the folder, which may hold them.

    Raises:
        DataError: images are missing (all are listed) and ``config.skip_missing`` is not set.
    """
    missing = [row.stem or f"no name in {row.where}" for row in rows if row.image is None]
    if len(missing) == len(rows):
        raise DataError(
            f"{origin}: holds none of the {len(rows)} images, e.g. {listed(missing, limit=3)}; "
            f"{packed or 'name the folder that holds images and tables'}"
        )
    if missing and not config.skip_missing:
        raise DataError(
            f"{origin}: {len(missing)} of {len(rows)} images are missing: "
            f"{listed(missing, limit=_MOST_NAMES)}; {packed or 'add them'}, or leave them out with "
            "--skip_missing"
        )
    return [row for row in rows if row.image is not None], missing


def check_names(rows: Sequence[SourceRow], old: Mapping[Split, Sequence[Row]]) -> None:
    """Refuse unsafe and repeated names; two suffixes of one name would share a mask.

    Raises:
        DataError: the names are listed.
    """
    for row in rows:
        reason = unsafe_name(row.stem) or ("holds a /" if "/" in row.stem else None)
        if reason or row.stem.startswith(("=", "+", "-", "@")):
            raise DataError(f"{row.where}: name {row.stem!r} {reason or 'looks like a formula'}")
    places: dict[str, list[str]] = {}
    for row in rows:
        places.setdefault(row.stem, []).append(row.where)
    repeated = sorted(stem for stem, found in places.items() if len(found) > 1)
    if repeated:
        raise DataError(
            f"{len(repeated)} images have more than one row: {listed(repeated)}; {repeated[0]} "
            f"stands in {' and '.join(places[repeated[0]][:2])}; remove all rows but one"
        )
    taken = {match_stem(row["name"]) for table in old.values() for row in table}
    shared = sorted(taken.intersection(row.stem for row in rows))
    if shared:
        raise DataError(
            f"{len(shared)} names are in the data set already: {listed(shared)}; data sets that "
            "share images cannot be merged"
        )
