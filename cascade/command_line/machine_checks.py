"""What ``cascade doctor`` asks about this machine: its GPU, its disks and a data folder."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cascade.data.cache import cache_folder
from cascade.data.tables import read_table
from cascade.errors import CascadeError

State = Literal["ok", "note", "error"]

LITTLE_GB, TOO_LITTLE_GB = 2.0, 0.2
"""Free space below which a disk is noted, and is too full for a model and its checkpoints."""
_TABLES = ("train_data.csv", "test_data.csv")


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        state: ``error`` keeps cascade from working or makes it unsafe; ``note`` is worth knowing.
        subject: what was looked at.
        message: what was found, and for an error what to do.
    """

    state: State
    subject: str
    message: str


def check_device() -> list[Finding]:
    """What ``--device auto`` takes, and whether a GPU computes what the CPU does."""
    import torch

    from cascade.models.gpu import has_gpu
    from cascade.models.network import describe_device, resolve_device

    device = resolve_device("auto")
    text = describe_device(device)
    if device.type == "cuda":
        free, total = (bytes / 1e9 for bytes in torch.cuda.mem_get_info(device))
        text += f", {free:.1f} of {total:.1f} GB free"
    if device.type != "cpu":
        wrong = _wrong_on(device)
        return [Finding("error", "device", wrong) if wrong else Finding("ok", "device", text)]
    if has_gpu():
        built = f"is built for CUDA {torch.version.cuda}" if torch.version.cuda else "has no CUDA"
        return [
            Finding(
                "note", "device", f"{text}; there is a GPU that torch cannot use: it {built}; "
                "compare the driver's version in nvidia-smi, and take the torch for it from "
                "pytorch.org"
            )
        ]  # fmt: skip
    return [Finding("ok", "device", text)]


def _wrong_on(device: object) -> str:
    """What is wrong with a small convolution on a device, or nothing."""
    import torch

    generator = torch.Generator().manual_seed(0)
    images = torch.rand(2, 3, 16, 16, generator=generator)
    weights = torch.rand(4, 3, 3, 3, generator=generator)
    expected = torch.nn.functional.conv2d(images, weights)
    try:
        found = torch.nn.functional.conv2d(images.to(device), weights.to(device)).cpu()  # type: ignore[call-overload]
    except RuntimeError as error:
        return f"{device} fails ({str(error).splitlines()[0]}); use --device cpu until it is mended"
    if not torch.allclose(found, expected, rtol=1e-2, atol=1e-2):
        return f"{device} computes wrong numbers; use --device cpu and renew the driver"
    return ""


def check_data(folder: str | os.PathLike[str], *, asked: bool) -> list[Finding]:
    """Whether a data folder has tables that can be read and files for their rows.

    Args:
        folder: with ``train_data.csv``, ``test_data.csv``, ``images_all`` and ``masks_all``.
        asked: the user named it, so that it must be there.
    """
    paths = [Path(folder) / name for name in _TABLES]
    present = [path for path in paths if path.is_file()]
    if not present:
        text = f"{folder}: there is no {' or '.join(_TABLES)}; cascade prepare writes them"
        return [Finding("error" if asked else "note", "data", text)]
    findings = []
    for path in present:
        try:
            table = read_table(path, require_labels=False)
        except CascadeError as error:
            findings.append(Finding("error", f"data, {path.name}", str(error)))
            continue
        classes = Counter(record.label or "without a class" for record in table)
        masks = sum(record.mask_path is not None for record in table)
        text = f"{len(table)} images ({_counted(classes)}), {masks} masks in {Path(folder)}"
        findings.append(Finding("ok", f"data, {path.name}", text))
    return findings


def _counted(classes: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(classes.items()))


def check_disks() -> list[Finding]:
    """Free space and permission to write where models, samples and temporary files go."""
    places = {
        "disk, current folder": Path.cwd(),
        "disk, cache": cache_folder(),
        "disk, temporary": Path(tempfile.gettempdir()),
    }
    return [check_disk(subject, place) for subject, place in places.items()]


def check_disk(subject: str, place: Path) -> Finding:
    """Free space and permission to write in a folder, or in the first one above it that exists."""
    there = next(folder for folder in (place, *place.parents) if folder.is_dir())
    free = shutil.disk_usage(there).free / 1e9
    text = f"{free:.1f} GB free in {place}"
    if not os.access(there, os.W_OK):
        return Finding("error", subject, f"{there} cannot be written to; choose another --output")
    if free < TOO_LITTLE_GB:
        return Finding("error", subject, f"{text}; a training needs more: make room")
    return Finding("note" if free < LITTLE_GB else "ok", subject, text)
