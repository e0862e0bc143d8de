"""What a measurement was made on."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

from cascade.version import __version__

PACKAGES = ("torch", "onnxruntime", "openvino", "opencv-python-headless", "numpy")


def processor() -> str:
    """The processor's name."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text(encoding="utf-8").splitlines() if information.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def load_average() -> float | None:
    """Processes that wanted a core in the last minute; ``None`` where the system does not count."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def describe_machine() -> dict[str, Any]:
    """Processor, system, versions, date and load, as plain JSON values."""
    versions = {"cascade": __version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "processor": processor(),
        "cores": os.cpu_count() or 1,
        "system": f"{platform.system()} {platform.machine()}",
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "load_average": load_average(),
        "versions": versions,
    }
