"""The one cascade that a service holds, and what it says about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from cascade.config import CLASSES
from cascade.errors import ConfigError
from cascade.imaging import ImageLimits
from cascade.models.artifact import INTENDED_USE, read_document
from cascade.models.exported import read_exported
from cascade.models.runtimes import choose_runtime
from cascade.pipeline import Cascade
from cascade.serving.rest.schemas import ModelDescription, ModelReference
from cascade.serving.rest.settings import ServiceSettings
from cascade.serving.rest.sharing import combined, on_gpu, side_by_side, suitable_concurrency
from cascade.version import __version__

_LONGEST_LIST = 16
_LARGEST_CARD = 1_000_000


@dataclass(frozen=True)
class ServedModel:
    """A cascade that is ready to predict.

    Attributes:
        cascade: with the cutoff that is used unless a request names an operating point.
        name: of its file.
        digest: SHA-256 of its tensors.
        runtime: what computes it.
        sensitivity: the operating point that it was loaded with.
        document: what its file says about it.
        card: the model card.
    """

    cascade: Cascade
    name: str = "cascade"
    digest: str = ""
    runtime: str = "torch"
    sensitivity: float | None = None
    document: Mapping[str, Any] = field(default_factory=dict)
    card: str | None = None

    @property
    def reference(self) -> ModelReference:
        """What every answer says of the model."""
        return ModelReference(version=__version__, digest=self.digest, runtime=self.runtime)

    @property
    def operating_points(self) -> dict[str, float]:
        """Sensitivity, as text such as ``"0.90"``, to cutoff."""
        return dict(getattr(self.cascade.classifier, "operating_points", {}))

    def shareable(self) -> ServedModel:
        """The same model, which several threads may ask at the same time."""
        return replace(self, cascade=combined(self.cascade)) if on_gpu(self.cascade) else self

    @property
    def together(self) -> Cascade:
        """The cascade for requests that are computed at the same time, with the same answers."""
        return side_by_side(self.cascade) or self.cascade

    @property
    def concurrency(self) -> int:
        """How many requests are worth computing at once."""
        return suitable_concurrency(self.cascade)

    def at(self, operating_point: float | None) -> tuple[ServedModel, float | None]:
        """The same model with another cutoff, and the sensitivity that it stands for.

        Raises:
            ConfigError: the model has no such operating point; those that it has are listed.
        """
        if operating_point is None:
            return self, self._known_sensitivity()
        other = Cascade(
            self.cascade.segmenter,
            self.cascade.classifier,
            operating_point=operating_point,
            coverage=self.cascade.coverage,
            safeguards=self.cascade.safeguards,
            limits=self.cascade.limits,
        )
        return replace(self, cascade=other), operating_point

    def _known_sensitivity(self) -> float | None:
        if self.sensitivity is not None:
            return self.sensitivity
        points = self.operating_points.items()
        return next((float(name) for name, cut in points if cut == self.cascade.cutoff), None)

    def describe(self) -> ModelDescription:
        """All that is known about the model, without its long lists."""
        described = self.cascade.describe()
        return ModelDescription(
            **self.reference.model_dump(),
            name=self.name,
            intended_use=self.document.get("intended_use", INTENDED_USE),
            classes=CLASSES,
            segmenter=shortened(described["segmenter"]),
            classifier=shortened(described["classifier"]),
            cutoff=self.cascade.cutoff,
            operating_points=self.operating_points,
            coverage=self.cascade.coverage,
            safeguards=shortened(described["safeguards"]),
            provenance=shortened(self.document.get("provenance", {})),
            metrics=shortened(self.document.get("metrics", {})),
            card=self.card,
        )

    def warm_up(self) -> None:
        """Predict an invented image in each way, so that no client need wait for buffers.

        Raises:
            CascadeError: the model cannot predict.
        """
        together = self.together
        self.cascade(_spot())
        if together is not self.cascade:
            together(_spot())


def load_model(settings: ServiceSettings) -> ServedModel:
    """Read the model that the settings name.

    Raises:
        CascadeError: it cannot be read, or has no such operating point.
    """
    path, runtime = choose_runtime(settings.model, settings.runtime, settings.device)
    cascade = Cascade.load(
        path,
        device=settings.device,
        runtime=runtime,
        threads=None if runtime == "torch" else settings.threads,
        operating_point=settings.operating_point,
        coverage=settings.coverage,
        limits=ImageLimits(
            max_pixels=int(settings.max_megapixels * 1e6),
            max_bytes=int(settings.max_body_mb * 1e6),
        ),
    )
    document = read_document(path) if runtime == "torch" else read_exported(path).document
    digest = str(document["tensors_sha256"])
    return ServedModel(
        cascade=cascade,
        name=path.name,
        digest=digest,
        runtime=runtime,
        sensitivity=settings.operating_point,
        document=document,
        card=find_card(path, digest),
    )


def find_card(model: Path, digest: str) -> str | None:
    """The model card beside a model, if it names this model's digest.

    Args:
        model: its file or folder.
        digest: SHA-256 of its tensors, which ``cascade card`` writes into a card.
    """
    folders = (model, model.parent) if model.is_dir() else (model.parent,)
    candidates = [model.with_suffix(".md"), *(folder / "README.md" for folder in folders)]
    for path in candidates:
        try:
            if not path.is_file() or path.stat().st_size > _LARGEST_CARD:
                continue
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            continue  # a card that cannot be read is none
        if digest in text:
            return text
    return None


def shortened(value: Any) -> Any:
    """Plain JSON values, with long lists replaced by their length."""
    if isinstance(value, Mapping):
        return {str(key): shortened(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        if len(value) > _LONGEST_LIST:
            return {"count": len(value)}
        return [shortened(item) for item in value]
    return value


def _spot() -> np.ndarray:
    """A dark spot on skin, ``(450, 600, 3)`` uint8."""
    rows, columns = np.mgrid[-1:1:450j, -1.33:1.33:600j]
    inside = (rows**2 + columns**2 < 0.25)[..., None]
    image = np.where(inside, (96, 60, 48), (222, 176, 150)).astype(np.float64)
    image += np.random.default_rng(0).normal(0, 3, image.shape)
    return np.clip(image, 0, 255).astype(np.uint8)


def check_model(settings: ServiceSettings) -> str:
    """Refuse a model that is not there before anything starts; returns the runtime for it.

    Raises:
        ConfigError: there is no such file or folder, or the runtime is not for it.
        ModelFileError: there is no default model.
        MissingExtraError: its runtime is not installed.
    """
    if settings.model is not None and not Path(settings.model).exists():
        raise ConfigError(f"--model {settings.model}: there is no such file or folder")
    return choose_runtime(settings.model, settings.runtime, settings.device)[1]
