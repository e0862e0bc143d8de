"""The settings of the page, kept where the script that Streamlit runs can find them."""

from __future__ import annotations

import functools
import logging
import os
from dataclasses import dataclass
from pathlib import Path

from cascade.errors import ConfigError, ModelFileError
from cascade.imaging import ImageLimits
from cascade.models.artifact import default_model, read_document
from cascade.models.runtimes import Runtime

log = logging.getLogger(__name__)

LIBRARY_MODEL = "Default cascade"
"""What the page calls the cascade that comes with the library."""

LARGEST_UPLOAD_MB, LARGEST_MEGAPIXELS = 1000, 1000


@dataclass(frozen=True)
class PageSettings:
    """What is decided when the page is started; its users cannot change it.

    Attributes:
        model: file or folder of the cascade that is chosen first; ``None`` for the one that comes
            with the library.
        models: folder with more cascades to choose from.
        runtime: what computes the networks; ``auto`` goes by the model.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        max_upload_mb: largest file in megabytes.
        max_megapixels: largest image in millions of pixels.
        max_images: most images on one page.
    """

    model: Path | None = None
    models: Path | None = None
    runtime: Runtime = "auto"
    device: str = "auto"
    max_upload_mb: int = 20
    max_megapixels: float = 25.0
    max_images: int = 20

    def __post_init__(self) -> None:
        if not 1 <= self.max_upload_mb <= LARGEST_UPLOAD_MB:
            raise ConfigError(
                f"max_upload_mb is {self.max_upload_mb}; give 1 to {LARGEST_UPLOAD_MB} megabytes"
            )
        if not 0.01 <= self.max_megapixels <= LARGEST_MEGAPIXELS:
            raise ConfigError(
                f"max_megapixels is {self.max_megapixels:g}; give 0.01 to {LARGEST_MEGAPIXELS}"
            )
        if self.max_images < 1:
            raise ConfigError(f"max_images is {self.max_images}; it must be at least 1")

    @property
    def limits(self) -> ImageLimits:
        """What images are accepted."""
        return ImageLimits(
            max_pixels=int(self.max_megapixels * 1e6), max_bytes=self.max_upload_mb * 1_000_000
        )

    @functools.cached_property
    def choices(self) -> dict[str, Path | None]:
        """Name to path of each cascade, the one that is chosen first in front.

        In the folder of models these are the ``.safetensors`` files with both stages, and the
        folders that ``cascade export`` wrote. Users of the page see the names alone.

        Raises:
            ConfigError: the folder of models cannot be listed, or holds no cascade.
        """
        first = LIBRARY_MODEL if self.model is None else self.model.name
        found: dict[str, Path | None] = {first: self.model}
        if self.models is None:
            return found
        try:
            names = sorted(os.listdir(self.models))  # noqa: PTH208 - names are what is needed
        except OSError as error:
            raise ConfigError(
                f"--models {self.models}: cannot be listed ({error.strerror}); name a folder with "
                "cascades"
            ) from error
        paths = [self.models / name for name in names if _is_cascade(self.models / name)]
        if not paths:
            raise ConfigError(
                f"--models {self.models}: has neither .safetensors files with both stages nor "
                "folders that cascade export wrote"
            )
        own = (self.model or default_model()).resolve()
        for path in paths:
            if path.resolve() != own:
                name = path.name if path.name not in found else f"{self.models.name}/{path.name}"
                found[name] = path
        return found


def _is_cascade(path: Path) -> bool:
    """Whether a path looks like a cascade, from its header alone."""
    if (path / "cascade.json").is_file():
        return True
    if path.suffix.lower() != ".safetensors":
        return False
    try:
        stages = read_document(path)["stages"]
    except ModelFileError as error:
        log.warning("not offered as a model: %s", error)
        return False
    return {"segmenter", "classifier"} <= set(stages)


_current = PageSettings()


def use_settings(settings: PageSettings) -> None:
    """Make these the settings of the page in this process."""
    global _current
    _current = settings


def current_settings() -> PageSettings:
    """The settings of the page in this process; the defaults where nobody chose any."""
    return _current
