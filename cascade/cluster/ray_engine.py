"""Shards on the actors of Ray Data, which schedules them, restarts actors and begins shards again.

Only the numbers of shards and counts of rows pass through Ray: a worker reads images from where
they are, and writes its rows to where they go.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from cascade.cluster.plan import Run
from cascade.cluster.pool import Pool, choose_pool
from cascade.cluster.shards import Finished, predict_shard
from cascade.errors import CascadeError, ConfigError, DataError, MissingExtraError
from cascade.models.cores import usable_cores

_MOST_BLOCKS = 10_000
"""Tasks that Ray plans at once; of more shards, several make one task."""
_OBJECT_STORE_BYTES = 200_000_000
"""Memory that a cluster started here sets aside; no image ever passes through it."""
log = logging.getLogger(__name__)


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
    logging.getLogger("ray.data").setLevel(logging.WARNING)
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
            for rows, failed in zip(batch["rows"], batch["failed"], strict=True):
                yield Finished(int(rows), int(failed))
    except ray.exceptions.RayError as error:
        raise _reason(error) from error


def _reason(error: BaseException) -> CascadeError:
    """The error of ours behind one of Ray's, if there is one."""
    known: BaseException | None = error
    while known is not None:
        if isinstance(known, CascadeError):
            return known
        known = getattr(known, "cause", None) or known.__cause__
    return DataError(f"a worker failed: {str(error).strip().splitlines()[-1]}")


class _Worker:
    """An actor: one loaded cascade that predicts one shard after the other."""

    def __init__(self, *, run: Run, model: str | None, load: dict[str, Any]) -> None:
        from cascade.models.runtimes import choose_runtime, model_identity
        from cascade.pipeline import Cascade

        if run.folder:
            _enter(run.folder)
        path, _ = choose_runtime(model, load["runtime"], "cpu")
        if model_identity(path) != run.settings["model_sha256"]:
            raise ConfigError(f"{path}: is another model on {socket.gethostname()}; copy the same")
        self._run = run
        self._cascade = Cascade.load(model, **load)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Predict the shards whose numbers are given."""
        done = [predict_shard(self._cascade, self._run, int(shard)) for shard in batch["shard"]]
        return {
            "rows": np.array([item.rows for item in done]),
            "failed": np.array([item.failed for item in done]),
        }


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
