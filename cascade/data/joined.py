"""Several data sets as one table, so that they are trained on and divided together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from cascade.data.grouping import group_names
from cascade.data.splits import Splits, require_fitting
from cascade.data.spreadsheet import listed
from cascade.data.tables import Record, Table
from cascade.errors import DataError


def join_tables(tables: Sequence[Table]) -> Table:
    """Put tables one after the other and group their records anew.

    Records that share a patient, a lesion or a ``group_id`` are in one group wherever they come
    from, so a division of the joined table never separates them.

    Returns:
        One table; the masks and images stay where they are.

    Raises:
        DataError: an image is in two of the tables, or some have a class column and some not.
    """
    if len(tables) == 1:
        return tables[0]
    owner: dict[str, int] = {}
    repeated = []
    for number, table in enumerate(tables):
        for record in table:
            if owner.setdefault(record.stem, number) != number:
                repeated.append(record.name)
    paths = " + ".join(str(table.path) for table in tables)
    if repeated:
        raise DataError(
            f"{paths}: {len(repeated)} images are in more than one table: {listed(repeated)}; "
            "leave them out of one, or rename them if they are different images"
        )
    if len({table.labelled for table in tables}) > 1:
        bare = next(table.path for table in tables if not table.labelled)
        raise DataError(f"{paths}: {bare} has no column 'class', the others have one")
    records: list[Record] = [record for table in tables for record in table]
    groups = group_names([item.attributes for item in records], [item.stem for item in records])
    pairs = zip(records, groups, strict=True)
    return Table(
        Path(paths),
        tuple(replace(record, group=group) for record, group in pairs),
        tuple(warning for table in tables for warning in table.warnings),
    )


def join_splits(splits: Sequence[Splits], table: Table) -> Splits:
    """The divisions of several tables as one division of their joined table.

    A stage that is trained on one of the tables and one that is trained on all of them then keep
    the same images for validation.

    Raises:
        DataError: the divisions do not cover the table, or were made of other tables.
        LeakageError: a group that reaches over several tables is on both sides.
    """
    joined = Splits(
        train=tuple(sorted(name for part in splits for name in part.train)),
        validation=tuple(sorted(name for part in splits for name in part.validation)),
        seed=splits[0].seed,
        fraction=sum(len(part.validation) for part in splits) / max(1, len(table)),
        table_digest=table.digest,
    )
    require_fitting(joined, table, source="joined splits")
    return joined
