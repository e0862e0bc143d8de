"""Shards on the actors of Ray Data, which schedules them, restarts actors and begins shards again.

Only the numbers of shards and counts of rows pass through Ray: a worker reads images from where
they are, and writes its rows to where they go.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import logging
import os
import re
import socket
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from cascade.cluster.plan import Run
from cascade.cluster.pool import Pool, choose_pool
from cascade.cluster.shards import Finished, predict_shard
from cascade.errors import CascadeError, ConfigError, DataError, MissingExtraError
from cascade.models.cores import usable_cores
from cascade.models.runtimes import choose_runtime, model_identity
from cascade.pipeline import Cascade

_MOST_BLOCKS = 10_000
"""Tasks that Ray plans at once; of more shards, several make one task."""
_OBJECT_STORE_BYTES = 200_000_000
"""Memory that a cluster started here sets aside; no image ever passes through it."""
_ANSWER = ("rows", "failed", "error")


def require_ray() -> None:
    """Complain now rather than later.

    Raises:
        MissingExtraError: Ray Data is not installed.
    """
    try:
        for library in ("pyarrow.parquet", "fsspec", "ray.data"):
            importlib.import_module(library)
    except ImportError as error:
        raise MissingExtraError(
            f"--engine ray needs Ray Data ({error}): pip install '.[ray]'"
        ) from error


@contextlib.contextmanager
def connected() -> Iterator[None]:
    """A connection to the cluster that ``RAY_ADDRESS`` names, else one of this machine alone."""
    import ray

    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    own: dict[str, Any] = {}
    if not os.environ.get("RAY_ADDRESS"):
        own = {
            "num_cpus": usable_cores(),
            "include_dashboard": False,
            "object_store_memory": _OBJECT_STORE_BYTES,
        }
    ray.init(log_to_driver=False, logging_level=logging.ERROR, **own)
    try:
        yield
    finally:
        ray.shutdown()


def pool_of_cluster(*, shards: int, device: str, threads: int | None) -> tuple[Pool, str]:
    """The pool for the cluster that is connected, and the device of its workers.

    Raises:
        ConfigError: there is no room for one worker.
    """
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    there = any(node.get("GPU", 0) >= 1 for node in nodes)
    gpu = device.startswith("cuda") or (device == "auto" and there)
    pool = choose_pool(nodes, shards=shards, gpu=gpu, threads=threads)
    return pool, "cuda" if gpu else "cpu" if device == "auto" else device


def predict_shards(
    run: Run, shards: Sequence[int], *, pool: Pool, model: str | None, load: Mapping[str, Any]
) -> Iterator[Finished]:
    """Predict shards on a pool of actors, in whatever order they are done.

    Args:
        run: the plan.
        shards: numbers of those to predict.
        pool: the actors.
        model: see :meth:`cascade.Cascade.load`, as for ``load``.
        load: its further arguments.

    Raises:
        CascadeError: a worker cannot load the cascade, read the plan or write rows.
    """
    import ray

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    items = [{"shard": shard} for shard in shards]
    done = ray.data.from_items(
        items, override_num_blocks=min(len(items), _MOST_BLOCKS)
    ).map_batches(
        _Worker,
        fn_constructor_kwargs={"run": run, "model": model, "load": dict(load)},
        batch_size=1,
        # one that may shrink: a worker of a lost machine needs the place of one that is done
        compute=ray.data.ActorPoolStrategy(
            min_size=1, max_size=pool.workers, initial_size=pool.workers
        ),
        num_cpus=pool.cpus,
        num_gpus=pool.gpus,
    )
    try:
        for batch in done.iter_batches(batch_size=None):
            for rows, failed, error in zip(*(batch[name] for name in _ANSWER), strict=True):
                if error:
                    raise DataError(str(error))
                yield Finished(int(rows), int(failed))
    except ray.exceptions.RayError as error:
        raise DataError(f"a worker failed: {_last_error(str(error))}") from error


def _last_error(text: str) -> str:
    """The line of a traceback, and of the advice around it, that says what happened."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r"[\w.]*(Error|Exception)\b", line)]
    return (errors or lines or ["unknown"])[-1]


class _Worker:
    """An actor: one loaded cascade that predicts one shard after the other.

    Errors of ours are part of its answer; Ray would bury their words under its own.
    """

    def __init__(self, *, run: Run, model: str | None, load: dict[str, Any]) -> None:
        self._run, self._model, self._load = run, model, load

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Predict the shards whose numbers are given."""
        answers: list[tuple[int, int, str]] = []
        for shard in batch["shard"].tolist():
            try:
                done = predict_shard(self._cascade, self._run, shard)
                answers.append((done.rows, done.failed, ""))
            except CascadeError as error:
                answers.append((0, 0, str(error)))
        return {
            name: np.array(column)
            for name, column in zip(_ANSWER, zip(*answers, strict=True), strict=True)
        }

    @functools.cached_property
    def _cascade(self) -> Cascade:
        if self._run.folder:
            _enter(self._run.folder)
        path, _ = choose_runtime(self._model, self._load["runtime"], "cpu")
        if model_identity(path) != self._run.settings["model_sha256"]:
            raise ConfigError(f"{path}: is another model on {socket.gethostname()}; copy the same")
        return Cascade.load(self._model, **self._load)


def _enter(folder: str) -> None:
    """Go to where relative paths start.

    Raises:
        DataError: this machine has no such folder.
    """
    try:
        os.chdir(folder)
    except OSError as error:
        raise DataError(
            f"{folder}: is not on every machine of the cluster ({error.strerror}), but inputs are "
            "named from there; put them on a file system that all machines share, or give URIs"
        ) from error
