"""What ``--limit`` leaves of tables and inputs, for a first try."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from cascade.errors import ConfigError

if TYPE_CHECKING:
    from cascade.data.splits import Splits
    from cascade.data.tables import Table

Item = TypeVar("Item")
log = logging.getLogger(__name__)


def first(
    arguments: Any, items: Iterable[Item], *, source: object = "the inputs"
) -> Iterable[Item]:
    """The first items, as many as ``--limit`` says, and a warning; all without it.

    Args:
        arguments: parsed flags with ``limit``.
        items: in the order in which they would be used; no more than needed are drawn.
        source: what they are, in words.

    Raises:
        ConfigError: the limit is below 1.
    """
    limit = arguments.limit
    if limit is None:
        return items
    if limit < 1:
        raise ConfigError(f"--limit {limit}: give 1 or more, or leave it out")
    log.warning("warning: --limit %d: only the first %d of %s are used", limit, limit, source)
    return itertools.islice(items, limit)


def first_rows(arguments: Any, table: Table, splits: Splits | None = None) -> Table:
    """The first rows of a table.

    A division is made of the whole table before, so that it stays the one that later trainings use.

    Args:
        arguments: parsed flags with ``limit``.
        table: in the order of its rows.
        splits: the division that a training follows.

    Raises:
        ConfigError: the limit is below 1, or leaves nothing to train or to validate with.
    """
    if arguments.limit is None or arguments.limit >= len(table) > 0:
        return table
    source = f"the {len(table)} rows of {table.path}"
    table = replace(table, records=tuple(first(arguments, table.records, source=source)))
    if splits is None:
        return table
    for rows, use in zip(splits.parts(table), ("trains", "validates"), strict=True):
        if not rows:
            raise ConfigError(
                f"--limit {arguments.limit}: none of the first {len(table)} rows {use}; give more"
            )
    return table
