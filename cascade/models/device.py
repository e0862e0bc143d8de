"""Which device computes."""

from __future__ import annotations

import torch

from cascade.errors import DeviceError


def resolve_device(device: str = "auto") -> torch.device:
    """Turn ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps`` into a device that exists.

    ``auto`` takes CUDA where there is one, then Apple's MPS, else the CPU.

    Raises:
        DeviceError: the device asked for is unknown or absent; nothing is silently replaced.
    """
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise DeviceError(f"device {device!r} is unknown; use auto, cpu, cuda or cuda:N") from error
    if chosen.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (chosen.index or 0) >= count:
            raise DeviceError(
                f"device {device!r} was asked for, but torch sees {count} CUDA devices; "
                "use --device auto or --device cpu"
            )
    elif chosen.type == "mps" and not torch.backends.mps.is_available():
        raise DeviceError("device 'mps' was asked for, but it is not available here")
    elif chosen.type not in ("cpu", "mps"):
        raise DeviceError(f"device {device!r} is not supported; use auto, cpu, cuda or cuda:N")
    return chosen


def describe_device(device: torch.device) -> str:
    """A device in words, such as ``cuda:0 (NVIDIA A100)``."""
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"{device.type} ({torch.get_num_threads()} threads)"
