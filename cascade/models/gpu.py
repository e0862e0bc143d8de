"""Whether torch can compute on a GPU; asked without loading torch where there is none."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import sys
from pathlib import Path

_NVML = "nvml.dll" if sys.platform == "win32" else "libnvidia-ml.so.1"
_AMD_DRIVER = Path("/dev/kfd")


def torch_uses_gpu(device: str = "auto") -> bool:
    """Whether torch is installed and a device means a GPU.

    ``cuda``, ``cuda:N`` and ``mps`` do; whether the device exists is checked when the networks
    are moved to it. ``auto`` does where torch sees a CUDA device. Torch takes seconds to load, so
    it is asked only where a driver reports a GPU.
    """
    if importlib.util.find_spec("torch") is None or device == "cpu":
        return False
    if device != "auto":
        return device.startswith(("cuda", "mps"))
    if not has_gpu():
        return False
    import torch

    return torch.cuda.is_available()


def has_gpu() -> bool:
    """Whether the driver of NVIDIA or AMD reports a GPU that this process may see.

    NVIDIA's management library is asked, because it leaves CUDA untouched: a process in which CUDA
    was started can no longer fork workers that use it.
    """
    if os.environ.get("CUDA_VISIBLE_DEVICES", "all") in ("", "-1"):
        return False
    if _AMD_DRIVER.exists():
        return True
    try:
        library = ctypes.CDLL(_NVML)
    except OSError:
        return False
    count = ctypes.c_uint(0)
    if library.nvmlInit_v2() != 0:
        return False
    counted = library.nvmlDeviceGetCount_v2(ctypes.byref(count)) == 0
    library.nvmlShutdown()
    return counted and count.value > 0
