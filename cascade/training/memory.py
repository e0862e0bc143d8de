"""Memory of a training on the CPU: what a step frees, the next step takes again.

A step allocates and frees activations of many megabytes. glibc maps each such array anew, and the
kernel then clears it page by page.
"""

from __future__ import annotations

import contextlib
import ctypes
import sys
from collections.abc import Iterator

import torch

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4  # names of mallopt(3)
_KEPT = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, 2**31 - 1))
_USUAL = ((_MMAP_MAX, 65_536), (_MMAP_THRESHOLD, 2**25), (_TRIM_THRESHOLD, 2**26))
"""What glibc itself arrives at in a process that has freed large arrays."""


@contextlib.contextmanager
def kept_memory(device: torch.device) -> Iterator[bool]:
    """Keep freed memory in the process within the block; afterwards it goes back to the system.

    Gives whether that is so: it needs glibc, and only a network on the CPU gains.
    """
    library = _glibc() if device.type == "cpu" else None
    if library is None:
        yield False
        return
    try:
        yield all([library.mallopt(what, value) == 1 for what, value in _KEPT])
    finally:
        for what, value in _USUAL:
            library.mallopt(what, value)
        library.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "mallopt") and hasattr(library, "malloc_trim") else None
