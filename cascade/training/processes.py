"""Several processes that train one network together, each with its share of every batch.

``torchrun``, ``accelerate launch`` or a queue starts them and tells them their places in RANK,
WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT. The first one, the main process, alone writes
files and tells how it goes. All functions also work for a process that trains alone.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import time
from collections.abc import Iterator, Sequence

import torch
from torch import distributed

from cascade.errors import CascadeError, ConfigError, DeviceError, TrainingError
from cascade.progress import only_errors

_TIMEOUT = datetime.timedelta(hours=24)  # the main process may write masks for hours
_ERROR_SECONDS = 3.0


@contextlib.contextmanager
def joined(device: str = "auto") -> Iterator[None]:
    """Join the other processes for the block, where there are some.

    ``device`` is that of the training; with CUDA each process takes one GPU.

    Raises:
        ConfigError: the environment tells of several processes, but not which this one is.
        DeviceError: there are fewer GPUs than processes, or the device cannot be shared.
        TrainingError: another process has ended, so this one cannot go on.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or distributed.is_initialized():
        yield
        return
    try:
        rank, local = int(os.environ["RANK"]), int(os.environ["LOCAL_RANK"])
    except KeyError as error:
        raise ConfigError(
            f"WORLD_SIZE is {os.environ['WORLD_SIZE']}, but {error.args[0]} is not set; start the "
            "processes with torchrun, or unset WORLD_SIZE"
        ) from error
    if rank:
        only_errors(f"process {rank}: ")
    try:
        _take_device(device, local)
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        distributed.init_process_group(backend, timeout=_TIMEOUT)
        yield
        distributed.destroy_process_group()
    except (CascadeError, RuntimeError) as error:
        if rank:  # most errors are those of all; whoever started the processes ends this one now
            time.sleep(_ERROR_SECONDS)
        if isinstance(error, CascadeError) or not _is_lost_connection(error):
            raise
        raise TrainingError(
            "another process has ended, and this one cannot go on alone; what the other one said "
            "tells why, and --resume goes on"
        ) from error


def _take_device(device: str, local: int) -> None:
    if device.partition(":")[0] == "mps" or ":" in device:
        raise DeviceError(
            f"device {device!r} cannot be shared by several processes; use --device cuda, where "
            "each takes the GPU of its place, or cpu"
        )
    if device == "cpu" or not torch.cuda.is_available():
        return
    if local >= torch.cuda.device_count():
        raise DeviceError(
            f"there are more processes than the {torch.cuda.device_count()} GPUs of this machine; "
            "start fewer, or train with --device cpu"
        )
    torch.cuda.set_device(local)


def _is_lost_connection(error: RuntimeError) -> bool:
    words = ("gloo", "Connection", "Socket", "NCCL")
    return isinstance(error, distributed.DistError) or any(word in str(error) for word in words)


def count() -> int:
    """How many processes train together."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def rank() -> int:
    """The place of this process, from 0 on."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def is_main() -> bool:
    """Whether this process writes the files."""
    return rank() == 0


def gather(values: torch.Tensor) -> list[torch.Tensor]:
    """The values of all processes, on the CPU; they are of one shape and type everywhere."""
    own = values.detach().cpu().contiguous()
    if count() == 1:
        return [own]
    found = [torch.empty_like(own) for _ in range(count())]
    distributed.all_gather(found, own)
    return found


def total(values: torch.Tensor) -> torch.Tensor:
    """The sum over all processes, where ``values`` is."""
    if count() == 1:
        return values
    values = values.clone()
    distributed.all_reduce(values)
    return values


def wait() -> None:
    """Go on when all processes have come here."""
    gather(torch.zeros(1))


@contextlib.contextmanager
def main_first() -> Iterator[None]:
    """Do the block in the main process, and then in the others, which find what it has written."""
    if not is_main():
        wait()
    yield
    if is_main():
        wait()


def own_share(items: Sequence[int]) -> list[int]:
    """The part of a batch that belongs to this process; the parts differ by one at most."""
    size, more = divmod(len(items), count())
    start = rank() * size + min(rank(), more)
    return list(items[start : start + size + (rank() < more)])
