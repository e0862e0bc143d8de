"""One shard: its inputs fetched and predicted, its rows written as one file.

A worker that dies begins the shard again. If that happens twice, an input may be what kills it:
then inputs go one at a time, each noted before it is tried, and one that ends the process twice
gets a row that says so.
"""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from cascade.cluster.fetch import fetched, without_content
from cascade.cluster.inputs import Planned
from cascade.cluster.plan import Run
from cascade.cluster.storage import exists, read_bytes, remove, write_bytes
from cascade.cluster.tables import about_rows, mask_cell, to_parquet
from cascade.pipeline import Cascade
from cascade.pipeline.rows import diagnosis_columns, failed_row, predict_rows
from cascade.reliability import Metadata

log = logging.getLogger(__name__)
_CAREFUL_AFTER = 2
_DEATHS = 2


@dataclass(frozen=True)
class Finished:
    """What became of a shard.

    Attributes:
        rows: number of its rows.
        failed: those with an error.
    """

    rows: int
    failed: int


def finished(run: Run, shard: int) -> Finished | None:
    """What became of a shard, if its rows are written, whole, and of this run."""
    about = about_rows(run.path(shard))
    if about is None or about["run"] != run.identity or about["rows"] != run.rows_of(shard):
        return None
    return Finished(about["rows"], about["failed"])


def predict_shard(cascade: Cascade, run: Run, shard: int) -> Finished:
    """Predict the inputs of one shard and write its rows, unless that was done already.

    Args:
        cascade: both stages, as the run's settings say.
        run: the plan.
        shard: its number.

    Raises:
        DataError: the plan cannot be read, or the rows cannot be written.
    """
    done = finished(run, shard)
    if done is not None:
        remove(run.attempts_path(shard))  # left by a process that ended after it wrote the rows
        return done
    planned = run.inputs(shard)
    attempts = _Attempts.begun(run, shard)
    if attempts.before < _CAREFUL_AFTER:
        rows = _together(cascade, run, planned)
    else:
        rows = list(_one_by_one(cascade, run, planned, attempts))
    failed = sum(bool(row["error"]) for row in rows)
    about = {"run": run.identity, "failed": failed, "settings": run.settings,
             "cutoff": cascade.cutoff}  # fmt: skip
    masks = run.settings["masks"]
    told = diagnosis_columns(cascade.diagnoses)
    write_bytes(run.path(shard), to_parquet(rows, masks=masks, about=about, diagnoses=told))
    attempts.forget()
    return Finished(len(rows), failed)


@dataclass
class _Attempts:
    """How often a shard was begun without an end, and which inputs were under way then.

    Attributes:
        path: the file that remembers it.
        before: attempts that were begun before this one.
        under_way: place of the input that is tried alone, or -1.
        deaths: by place, how often the process ended while an input was tried alone.
    """

    path: str
    before: int = 0
    under_way: int = -1
    deaths: dict[str, int] = field(default_factory=dict)

    @classmethod
    def begun(cls, run: Run, shard: int) -> _Attempts:
        path = run.attempts_path(shard)
        known = cls(path)
        if exists(path):
            known = cls(path, **json.loads(read_bytes(path)))
            known.before += 1
            if known.under_way >= 0:
                place = str(known.under_way)
                known.deaths[place] = known.deaths.get(place, 0) + 1
        known.note(-1)
        return known

    def note(self, place: int) -> None:
        """Remember which input is tried now."""
        self.under_way = place
        content = asdict(self)
        del content["path"]
        write_bytes(self.path, json.dumps(content).encode())

    def forget(self) -> None:
        remove(self.path)


def _together(cascade: Cascade, run: Run, planned: Sequence[Planned]) -> list[dict[str, Any]]:
    """All rows; if predicting fails in a way nobody thought of, the rest goes one by one."""
    rows: list[dict[str, Any]] = []
    try:
        rows.extend(_rows(cascade, run, planned))
    except Exception as error:  # noqa: BLE001 - each input has a row, whatever fails
        log.warning("shard goes on one by one after %r", error)
        rows.extend(_alone(cascade, run, item) for item in planned[len(rows) :])
    return rows


def _one_by_one(
    cascade: Cascade, run: Run, planned: Sequence[Planned], attempts: _Attempts
) -> Iterator[dict[str, Any]]:
    for place, item in enumerate(planned):
        if attempts.deaths.get(str(place), 0) >= _DEATHS:
            yield _failed(item, "the process ended while it was predicted, twice")
        else:
            attempts.note(place)
            yield _alone(cascade, run, item)


def _alone(cascade: Cascade, run: Run, item: Planned) -> dict[str, Any]:
    try:
        (row,) = _rows(cascade, run, [item])
    except Exception as error:  # noqa: BLE001 - each input has a row, whatever fails
        return _failed(item, f"could not be predicted ({type(error).__name__}: {error})")
    return row


def _failed(item: Planned, problem: str) -> dict[str, Any]:
    return failed_row(without_content(item, problem))


def _rows(cascade: Cascade, run: Run, planned: Sequence[Planned]) -> Iterator[dict[str, Any]]:
    settings = run.settings
    return predict_rows(
        cascade,
        fetched(planned, most=cascade.limits.max_bytes + 1),
        functools.partial(mask_cell, settings["masks"]),
        tta=settings["tta"],
        batch_size=settings["batch_size"],
        pixels_per_millimetre=settings["pixels_per_millimetre"],
        metadata=Metadata.of(settings),
    )
