"""Which rows of a source are kept, and why the others are not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from cascade.config import CLASSES
from cascade.data.locate import unsafe_name
from cascade.data.sources.division import Row
from cascade.data.sources.options import PrepareConfig
from cascade.data.sources.rows import SourceRow, SourceTable, Split
from cascade.data.spreadsheet import listed
from cascade.data.tables import match_stem
from cascade.errors import DataError

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
            "isic2018_task1 has no classes; name a metadata table of its images with --labels "
            "(isic metadata download), or use --without_labels to train the segmenter only"
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
            reason = row.attributes.get("diagnosis") or "no diagnosis"
            excluded[f"{row.label}: {reason}"] += 1
    if not kept:
        raise DataError(f"no image is left; excluded: {dict(excluded)}")
    return kept, dict(excluded)


def with_image(
    rows: Sequence[SourceRow], origin: Path, config: PrepareConfig
) -> tuple[list[SourceRow], list[str]]:
    """Rows whose image is there, and the names of the others.

    Raises:
        DataError: images are missing (all are listed) and ``config.skip_missing`` is not set.
    """
    missing = [row.stem for row in rows if row.image is None]
    if missing and not config.skip_missing:
        raise DataError(
            f"{origin}: {len(missing)} of {len(rows)} images are missing: "
            f"{listed(missing, limit=_MOST_NAMES)}; add them, or leave them out with --skip_missing"
        )
    if len(missing) == len(rows):
        raise DataError(f"{origin}: holds none of the {len(rows)} images")
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
    repeated = sorted(stem for stem, n in Counter(row.stem for row in rows).items() if n > 1)
    if repeated:
        raise DataError(f"{len(repeated)} images have more than one row: {listed(repeated)}")
    taken = {match_stem(row["name"]) for table in old.values() for row in table}
    shared = sorted(taken.intersection(row.stem for row in rows))
    if shared:
        raise DataError(
            f"{len(shared)} names are in the data set already: {listed(shared)}; data sets that "
            "share images cannot be merged"
        )
