"""How a process that lives for weeks keeps the heap of glibc from growing.

Left alone, glibc gives each thread an arena of its own, and raises the size from which on memory is
mapped apart whenever such memory is freed. Images and feature maps then come from the heap, and
whatever small thing lies behind them keeps their memory from the system.
"""

from __future__ import annotations

import ctypes
import os
import sys

MAPPED_FROM = 2**22
"""Bytes from which on a block is mapped by itself and given back when it is freed."""

ARENAS = 2

_ARENA_MAX = (-8, ARENAS, "MALLOC_ARENA_MAX")  # numbers of mallopt in malloc.h
_IMAGES_GO_BACK = (
    (-3, MAPPED_FROM, "MALLOC_MMAP_THRESHOLD_"),  # fixes it, too
    (-1, 2**25, "MALLOC_TRIM_THRESHOLD_"),
    _ARENA_MAX,
)
_FEATURE_MAPS_STAY = (
    (-3, 2**25, "MALLOC_MMAP_THRESHOLD_"),
    (-1, 2**27, "MALLOC_TRIM_THRESHOLD_"),
    _ARENA_MAX,
)


def bound_heap(*, keep_feature_maps: bool = False) -> bool:
    """Give freed images back to the system; call it before there are other threads.

    A variable of glibc in the environment, such as ``MALLOC_ARENA_MAX``, counts instead.

    Args:
        keep_feature_maps: keep up to 128 MB for the next image. Torch on a CPU takes its feature
            maps from this heap, and needs half as long again if each comes from the system.

    Returns:
        Whether anything was set; not without glibc.
    """
    if not sys.platform.startswith("linux"):
        return False
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):
        return False
    settings = _FEATURE_MAPS_STAY if keep_feature_maps else _IMAGES_GO_BACK
    wanted = [(what, value) for what, value, name in settings if name not in os.environ]
    return any([library.mallopt(what, value) == 1 for what, value in wanted])
