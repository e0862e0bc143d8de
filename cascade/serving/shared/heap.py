"""How a process that lives for weeks keeps the heap of glibc from growing.

Left alone, glibc gives each thread an arena of its own, and raises the size from which on memory is
mapped apart whenever such memory is freed. Images and feature maps then come from the heap, and
whatever small thing lies behind them keeps their memory from the system.
"""

from __future__ import annotations

import ctypes
import os
import sys

MAPPED_FROM = 2**20
"""Bytes from which on a block is mapped by itself and given back when it is freed."""

ARENAS = 2

_SETTINGS = (
    (-3, MAPPED_FROM, "MALLOC_MMAP_THRESHOLD_"),  # M_MMAP_THRESHOLD in malloc.h; fixes it, too
    (-8, ARENAS, "MALLOC_ARENA_MAX"),  # M_ARENA_MAX
)


def bound_heap() -> bool:
    """Give freed images back to the system; call it before there are other threads.

    A variable of glibc in the environment, such as ``MALLOC_ARENA_MAX``, counts instead.

    Returns:
        Whether anything was set; not without glibc.
    """
    if not sys.platform.startswith("linux"):
        return False
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):
        return False
    wanted = [(what, value) for what, value, name in _SETTINGS if name not in os.environ]
    return any([library.mallopt(what, value) == 1 for what, value in wanted])
