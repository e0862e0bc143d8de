"""How many workers a cluster has room for, and what each gets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cascade.errors import ConfigError

THREADS = 4
"""Threads of a worker at most: more of them wait for Python's interpreter lock."""

_SHARING = 4
"""Workers of one GPU at most: each holds its own copy of the networks there."""


@dataclass(frozen=True)
class Pool:
    """Equal workers, each with one loaded cascade.

    Attributes:
        workers: how many.
        cpus: of each, and its threads.
        gpus: of each, a share of one GPU, or 0.
    """

    workers: int
    cpus: int
    gpus: float


def choose_pool(
    nodes: Sequence[Mapping[str, float]], *, shards: int, gpu: bool, threads: int | None = None
) -> Pool:
    """The pool that fills a cluster.

    On the CPU a worker has up to :data:`THREADS` cores. Workers share a GPU, because decoding
    images for it takes more cores than one worker keeps busy.

    Args:
        nodes: the machines, each with its number of ``CPU`` and ``GPU``.
        shards: of the run; more workers than shards would have nothing to do.
        gpu: whether GPUs compute.
        threads: of each worker, instead of a number that fits the machines.

    Raises:
        ConfigError: no machine has room for one worker.
    """
    usable = [node for node in nodes if node.get("CPU", 0) >= 1]
    if gpu:
        usable = [node for node in usable if node.get("GPU", 0) >= 1]
    if not usable:
        raise ConfigError(f"the cluster has no machine with a {'GPU' if gpu else 'CPU'} to use")
    smallest = min(int(node["CPU"]) for node in usable)
    if threads is not None and threads > smallest:
        raise ConfigError(
            f"--threads {threads}: the smallest machine of the cluster has {smallest} CPUs"
        )
    share = 0.0
    if gpu:
        cpus = threads or max(1, min(THREADS, smallest))
        each = min(node["CPU"] // (node["GPU"] * cpus) for node in usable)
        sharing = max(1, min(_SHARING, int(each)))
        share = 1 / sharing
        room = sum(min(int(node["CPU"]) // cpus, int(node["GPU"]) * sharing) for node in usable)
    else:
        cpus = threads or min(THREADS, smallest)
        room = sum(int(node["CPU"]) // cpus for node in usable)
    return Pool(max(1, min(room, shards)), cpus, share)
