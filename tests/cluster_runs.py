"""What the tests of predictions on a cluster share; nothing here knows Ray."""

from __future__ import annotations

from cascade.cluster.inputs import planned_inputs
from cascade.cluster.plan import make_run
from cascade.cluster.tables import read_rows
from cascade.command_line.inputs import find_inputs
from cascade.files import csv_line
from cascade.pipeline.rows import COLUMNS

SETTINGS = {"masks": None, "tta": "none", "batch_size": 1, "pixels_per_millimetre": None}


def plan_of(items, *, recursive=True):
    """What a user's words are planned as."""
    found = planned_inputs(
        [str(item) for item in items],
        lambda item: find_inputs([item], recursive=recursive),
        recursive=recursive,
    )
    return list(found)


def run_of(output, items, *, shard_rows=2, **settings):
    """A planned run."""
    return make_run(
        str(output), plan_of(items), settings=SETTINGS | settings, shard_rows=shard_rows
    )


def as_csv(path):
    """Stored rows as ``predictions.csv`` would hold them, without masks."""
    rows = [{**row, "mask": None} for row in read_rows(str(path))]
    columns = (*COLUMNS, *(name for name in rows[0] if name.startswith("diagnosis_")))
    return csv_line(columns) + "".join(csv_line(row[name] for name in columns) for row in rows)
