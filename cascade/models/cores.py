"""How many cores this process may use: affinity, the container's quota, ``OMP_NUM_THREADS``."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")
_MEMBERSHIP = Path("/proc/self/cgroup")


def usable_cores(*, cgroups: Path = _CGROUPS, membership: Path = _MEMBERSHIP) -> int:
    """How many threads of this process can compute at once, at least 1.

    ``OMP_NUM_THREADS`` is the user's word and wins. Otherwise it is the number of cores that the
    process may run on, or fewer where the container's quota is smaller; a part of a core counts as
    one. ``os.cpu_count`` knows neither, and threads beyond the quota only get each other stopped.

    Args:
        cgroups: where the control groups are mounted.
        membership: the file that lists this process's groups.
    """
    given = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    if given.isdecimal() and int(given):
        return int(given)
    try:
        cores = float(len(os.sched_getaffinity(0)))
    except AttributeError:  # macOS and Windows have no affinity that can be read
        cores = float(os.cpu_count() or 1)
    return max(1, math.ceil(min([cores, *_quotas(cgroups, membership)])))


def _quotas(cgroups: Path, membership: Path) -> Iterator[float]:
    """Each limit in cores on this process's groups and on those around them."""
    for line in _text(membership).splitlines():
        controllers, _, group = line.partition(":")[2].partition(":")
        if not controllers:
            root = cgroups
        elif "cpu" in controllers.split(","):
            root = next((cgroups / name for name in (controllers, "cpu")
                         if (cgroups / name).is_dir()), cgroups)  # fmt: skip
        else:
            continue
        # a container may see only its own group, at the root, under the name that it has outside
        inner = root / group.strip("/")
        for folder in (inner, *inner.parents):
            quota = _quota(folder)
            if quota is not None:
                yield quota
            if folder == root:
                break


def _quota(folder: Path) -> float | None:
    """The limit of one group: ``cpu.max`` of version 2, or both files of version 1."""
    words = _text(folder / "cpu.max").split()
    if not words:
        words = [*_text(folder / "cpu.cfs_quota_us").split(),
                 *_text(folder / "cpu.cfs_period_us").split()]  # fmt: skip
    if len(words) != 2 or not all(word.isdecimal() and int(word) for word in words):
        return None  # "max" and -1 are no limit
    return int(words[0]) / int(words[1])


def _text(path: Path) -> str:
    """What is in a file of the kernel; nothing where it does not exist."""
    try:
        return path.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        return ""
