"""What is compared: a cascade in each runtime, precision and batch size that this machine has."""

from __future__ import annotations

import importlib.util
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from cascade.errors import ConfigError, MissingExtraError
from cascade.models.artifact import default_model
from cascade.models.exported import default_export, is_exported
from cascade.models.openvino_session import Precision
from cascade.models.runtimes import model_identity, stand_in

PACKAGES = {"torch": "torch", "onnx": "onnxruntime", "openvino": "openvino"}
"""By runtime the package that it needs."""

RuntimeName = Literal["torch", "onnx", "openvino"]
RUNTIMES = get_args(RuntimeName)
PRECISIONS = get_args(Precision)

NAIVE = "naive"
NAIVE_PACKAGES = (
    "torch", "torchvision", "segmentation_models_pytorch", "albumentations",
)  # fmt: skip


@dataclass(frozen=True)
class Configuration:
    """One way to compute the answers.

    Attributes:
        runtime: ``torch``, ``onnx``, ``openvino``, or ``naive`` for the pair to compare with.
        precision: of the arithmetic.
        batch_size: images that pass the networks together.
        model: what the runtime loads; empty for the naive pair.
    """

    runtime: str
    precision: str = "float32"
    batch_size: int = 1
    model: str = ""

    @property
    def name(self) -> str:
        """In words, such as ``onnx float32, batch 8``."""
        return f"{self.runtime} {self.precision}, batch {self.batch_size}"


@dataclass(frozen=True)
class NotMeasured:
    """A configuration, or a whole runtime, that was left out, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class Forms:
    """The same cascade as a ``.safetensors`` file and as an exported folder; one may be absent."""

    file: Path | None
    folder: Path | None

    def of(self, runtime: str) -> Path | None:
        """The form that a runtime runs."""
        return self.file if runtime == "torch" else self.folder


def find_forms(model: str | None, exported: str | None) -> Forms:
    """The forms that a user named, or the export beside a file, or what comes with the library.

    Raises:
        ConfigError: the two are not the same cascade, or both are folders.
        ModelFileError: a form is missing or damaged.
    """
    folder = Path(exported) if exported is not None else None
    if model is not None and (is_exported(model) or Path(model).is_dir()):
        if folder is not None:
            raise ConfigError(
                f"{model} and {exported} are both exported cascades; name a file with --model"
            )
        forms = Forms(None, Path(model))
    elif model is not None:
        forms = Forms(Path(model), folder or stand_in(Path(model)))
    elif folder is not None:
        forms = Forms(None, folder)
    else:
        file, folder = default_model(), default_export()
        forms = Forms(file if file.is_file() else None, folder if is_exported(folder) else None)
    identities = {model_identity(path) for path in (forms.file, forms.folder) if path}
    if len(identities) > 1:
        raise ConfigError(
            f"{forms.file} and {forms.folder} are not the same cascade; export the file again: "
            f"cascade export --model {forms.file} --output FOLDER"
        )
    if not identities:
        raise ConfigError("there is no cascade to measure; name one with --model")
    return forms


def choose(
    forms: Forms,
    *,
    runtimes: Sequence[str] | None,
    precisions: Sequence[str] | None,
    batch_sizes: Sequence[int],
) -> tuple[list[Configuration], list[NotMeasured]]:
    """The configurations to measure, and the runtimes that are left out.

    Args:
        forms: the cascade.
        runtimes: those that must be measured; ``None`` takes what is installed.
        precisions: to try; ``None`` takes all that there are.
        batch_sizes: images at a time.

    Raises:
        ConfigError: a runtime was asked for that cannot run this model, or nothing is left.
        MissingExtraError: a runtime was asked for that is not installed.
    """
    if min(batch_sizes) < 1:
        raise ConfigError(f"batch size {min(batch_sizes)}; it must be at least 1")
    chosen, left_out = [], []
    for runtime in dict.fromkeys(runtimes or RUNTIMES):
        problem = _problem(runtime, forms)
        if problem is None:
            chosen.append(runtime)
        elif runtimes is None:
            left_out.append(NotMeasured(runtime, str(problem)))
        else:
            raise problem
    if not chosen:
        reasons = "; ".join(f"{item.name}: {item.reason}" for item in left_out)
        raise ConfigError(f"there is nothing to measure ({reasons})")
    configurations = [
        Configuration(runtime, precision, size, str(forms.of(runtime)))
        for runtime, precision, size in itertools.product(
            chosen, dict.fromkeys(precisions or PRECISIONS), dict.fromkeys(batch_sizes)
        )
    ]
    return configurations, left_out


def _problem(runtime: str, forms: Forms) -> ConfigError | MissingExtraError | None:
    package = PACKAGES[runtime]
    if importlib.util.find_spec(package) is None:
        return MissingExtraError(
            f"the runtime {runtime} needs {package}, which is not installed: pip install {package}"
        )
    if forms.of(runtime) is None:
        kind = "a .safetensors file (--model)" if runtime == "torch" else "a folder (--exported)"
        return ConfigError(f"the runtime {runtime} needs the cascade as {kind}; none was named")
    return None


def require_naive() -> Configuration:
    """The naive pair, batch 1 in float32.

    Raises:
        MissingExtraError: a package that it is written with is not installed.
    """
    missing = [name for name in NAIVE_PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingExtraError(f"--naive needs {', '.join(missing)}: pip install .")
    return Configuration(NAIVE)
