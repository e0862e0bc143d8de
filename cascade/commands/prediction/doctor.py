"""``cascade doctor``: what is installed, what is wrong with it, and how to repair it."""

from __future__ import annotations

import configparser
import importlib
import importlib.metadata
import os
import platform
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from cascade.command_line.machine_checks import Finding, check_data, check_device, check_disks
from cascade.command_line.outputs import say
from cascade.command_line.parser import (
    OK,
    PARTIAL,
    REPOSITORY,
    CommandParser,
    command,
    default_folder,
)
from cascade.errors import CascadeError
from cascade.version import __version__

Versions = Callable[[str], str | None]
"""Name of a distribution to its version, or ``None`` if it is not installed."""

PURPOSES = {
    "dicom": "reads DICOM files",
    "highdicom": "writes DICOM results of predict",
    "heif": "reads HEIC files of telephones",
    "jxl": "reads JPEG XL files",
    "export": "writes and runs cascades as ONNX graphs",
    "explain": "draws heat maps of torch networks",
    "openvino": "runs them faster on processors of Intel",
    "hdf5": "prepares data sets in HDF5 files",
    "ray": "predicts on a cluster",
    "completion": "lets a shell complete commands and flags",
    "test": "runs the tests",
}
"""Extras, and what each is for."""
OPENCV = ("opencv-python-headless", "opencv-python", "opencv-contrib-python-headless",
          "opencv-contrib-python")  # fmt: skip
TRAINING = (
    "torch", "torchvision", "segmentation-models-pytorch", "timm", "albumentations", "albucore",
    "scikit-learn", "scipy", "matplotlib", "ImageHash",
)  # fmt: skip
"""What exported cascades do without, so that requirements/serve.txt leaves it out."""
OLDEST_PYTHON = (3, 11)
OLDEST_TORCH = (2, 10)
"""Before this, a crafted .pth file could run code in spite of ``weights_only``."""


def build_parser() -> CommandParser:
    """The command's flags."""
    parser = CommandParser(
        "cascade doctor",
        "Say which versions, devices and data there are, how much room the disks have, what is "
        "wrong and how to repair it. Ends with 3 if something is wrong.",
        example="cascade doctor --data_path dataset",
    )
    parser.add_shared(data_path=None)
    return parser


@command(build_parser)
def main(arguments: Any) -> int:
    """Run the command; returns its exit code."""
    findings = examine(arguments.data_path)
    for finding in findings:
        line = f"{finding.state:<6} {finding.subject:<28} {finding.message}"
        say(line, wrong=finding.state == "error")
    errors = sum(finding.state == "error" for finding in findings)
    say()
    found = f"{errors} error{'s' * (errors > 1)} found"
    say(found if errors else "everything that is needed is there")
    return PARTIAL if errors else OK


def examine(data_path: str | None = None) -> list[Finding]:
    """Look at this machine's installation, and at a data folder, by default ``dataset``."""
    findings = [
        Finding("ok", "cascade", f"{__version__} in {Path(__file__).resolve().parents[2]}"),
        check_python(sys.version_info[:2]),
        Finding("ok", "system", f"{platform.system()} {platform.machine()}, {_cores()} cores"),
        *check_kind(requirements(), installed_version),
        *check_opencv(installed_version),
    ]
    torch = installed_version("torch")
    if torch is not None and check_torch(torch).state != "error":
        findings += check_device()
    findings += [*check_extras(installed_version), _default_model(), *_shipped_exports()]
    folder = default_folder("dataset") if data_path is None else data_path
    return [*findings, *check_data(folder, asked=data_path is not None), *check_disks()]


def installed_version(distribution: str) -> str | None:
    """The version of an installed distribution, or ``None``."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def requirements(extra: str | None = None) -> list[str]:
    """What cascade, or one of its extras, needs, such as ``numpy>=2``.

    From a clone this is what ``setup.cfg`` says now; else what was installed with the package.
    """
    source = REPOSITORY / "setup.cfg"
    if source.is_file():
        parser = configparser.ConfigParser()
        parser.read(source, encoding="utf-8")
        section, key = ("options.extras_require", extra) if extra else ("options", _INSTALL)
        return [line for line in parser[section][key].splitlines() if line]
    listed = importlib.metadata.requires("cascade") or []
    pairs = [line.partition(";")[::2] for line in listed]
    return [
        name.strip()
        for name, marker in pairs
        if (f'extra == "{extra}"' in marker.replace("'", '"') if extra else "extra" not in marker)
    ]


_INSTALL = "install_requires"


def check_python(version: tuple[int, ...]) -> Finding:
    """Whether this Python is new enough."""
    shown = ".".join(str(part) for part in version)
    if version < OLDEST_PYTHON:
        return Finding("error", "python", f"{shown} is too old; make the environment with 3.11 up")
    return Finding("ok", "python", f"{platform.python_version()} in {sys.prefix}")


def check_kind(needed: Sequence[str], versions: Versions) -> list[Finding]:
    """Whether all requirements are there, or at least those of exported cascades."""
    from packaging.requirements import Requirement

    runtime = versions("onnxruntime")
    if versions("torch") is not None or runtime is None:
        return check_requirements(needed, versions)
    kept = [line for line in needed if Requirement(line).name not in TRAINING]
    text = "is not installed: only exported cascades run here; for all else, pip install ."
    return [
        Finding("note", "torch", text),
        Finding("ok", "onnxruntime", runtime),
        *check_requirements(kept, versions),
    ]


def check_requirements(needed: Iterable[str], versions: Versions) -> list[Finding]:
    """Whether each requirement is installed in a version that fits."""
    from packaging.requirements import Requirement

    findings = []
    for line in needed:
        requirement = Requirement(line)
        name, version = requirement.name, versions(requirement.name)
        if name == "opencv-python-headless":
            continue  # check_opencv tells its several wheels apart
        if version is None:
            findings.append(Finding("error", name, f"is not installed; pip install '{line}'"))
        elif name == "torch" and check_torch(version).state == "error":
            findings.append(check_torch(version))
        elif not requirement.specifier.contains(version, prereleases=True):
            findings.append(
                Finding(
                    "error", name, f"is {version}, needed is {requirement.specifier}; "
                    f"pip install '{line}'"
                )
            )  # fmt: skip
        else:
            findings.append(Finding("ok", name, version))
    return findings


def check_torch(version: str) -> Finding:
    """Whether torch is new enough to read weights from others safely."""
    parts = tuple(int(part) for part in version.split("+")[0].split(".")[:2])
    if parts < OLDEST_TORCH:
        return Finding(
            "error", "torch", f"is {version}; before 2.10 a crafted weights file could run code, "
            "so it is refused; pip install 'torch>=2.10'"
        )  # fmt: skip
    return Finding("ok", "torch", version)


def check_opencv(versions: Versions) -> list[Finding]:
    """Whether exactly one OpenCV wheel is installed and can be used.

    All of them bring the same folder ``cv2``, so two overwrite each other, and taking one away
    leaves a ``cv2`` without contents.
    """
    found = [name for name in OPENCV if versions(name) is not None]
    repair = f"pip uninstall -y {' '.join(found)} && pip install opencv-python-headless"
    if not found:
        return [Finding("error", OPENCV[0], f"is not installed; pip install {OPENCV[0]}")]
    if len(found) > 1:
        return [
            Finding(
                "error", "opencv", f"{' and '.join(found)} overwrite each other's files; {repair}"
            )
        ]
    if not _works("cv2", "imdecode"):
        return [Finding("error", found[0], f"is installed but has no contents; {repair}")]
    return [Finding("ok", found[0], str(versions(found[0])))]


def _works(module: str, attribute: str) -> bool:
    try:
        return hasattr(importlib.import_module(module), attribute)
    except ImportError:
        return False


def check_extras(versions: Versions) -> list[Finding]:
    """Which optional parts are installed."""
    from packaging.requirements import Requirement

    findings = []
    for extra, purpose in PURPOSES.items():
        missing = [
            name
            for name in (Requirement(line).name for line in requirements(extra))
            if versions(name) is None
        ]
        if missing:
            text = f"not installed ({', '.join(missing)}); it {purpose}: pip install '.[{extra}]'"
        else:
            text = f"installed; it {purpose}"
        findings.append(Finding("note" if missing else "ok", f"extra {extra}", text))
    return findings


def _default_model() -> Finding:
    """Whether the file that ``cascade predict`` takes by default can be read."""
    from cascade.models.artifact import default_model, read_artifact

    path = default_model()
    if not path.is_file():
        return Finding("note", "default model", f"there is no {path}; name one with --model")

    try:
        read_artifact(path, needs=("segmenter", "classifier"))
    except CascadeError as error:
        return Finding("error", "default model", str(error))
    return Finding("ok", "default model", str(path))


def _shipped_exports() -> list[Finding]:
    """Whether the form of it that runs without torch can be read, and the fast model."""
    from cascade.models.exported import default_export
    from cascade.models.named import SHIPPED, shipped_models

    fast = shipped_models() / SHIPPED["fast"]
    return [_export("default model, exported", default_export()), _export("fast model", fast)]


def _export(what: str, path: Path) -> Finding:
    from cascade.models.exported import STAGES, is_exported, read_exported

    if not is_exported(path):
        return Finding("note", what, f"there is no {path}")
    try:
        exported = read_exported(path)
        for stage in STAGES:
            exported.graph(stage)
    except CascadeError as error:
        return Finding("error", what, str(error))
    return Finding("ok", what, str(path))


def _cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
