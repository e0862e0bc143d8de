"""Cascades in memory, shared by all users of the page and run by one of them at a time."""

from __future__ import annotations

import functools
import logging
import threading
import time
from dataclasses import dataclass

from cascade.models.runtimes import choose_runtime, model_identity
from cascade.pipeline import Cascade
from cascade.serving.page.findings import Finding, Problem, Settings, examine
from cascade.serving.page.settings import PageSettings
from cascade.serving.page.words import OperatingPoint, operating_points

log = logging.getLogger(__name__)

_DIGITS = 12

_loading, _examining = threading.Lock(), threading.Lock()


@dataclass(frozen=True)
class LoadedModel:
    """A cascade that is ready.

    Attributes:
        name: what the page calls it.
        cascade: both stages.
        identity: first digits of the SHA-256 over its tensors.
        points: its operating points, its own one first.
    """

    name: str
    cascade: Cascade
    identity: str
    points: tuple[OperatingPoint, ...]

    @property
    def title(self) -> str:
        """Its name and identity, for reports."""
        return f"{self.name} ({self.identity})"

    def examine(self, name: str, data: bytes, settings: Settings) -> Finding | Problem:
        """Examine one image; see :func:`cascade.serving.page.findings.examine`."""
        with _examining:  # pixels of one image in memory at a time, whoever asks
            start = time.perf_counter()
            result = examine(self.cascade, name, data, settings)
            log.info("an image took %.2f s", time.perf_counter() - start)  # and never its name
            return result


def load_model(settings: PageSettings, name: str) -> LoadedModel:
    """The cascade of a name on the page, read once.

    Raises:
        CascadeError: it cannot be read or run here; the message says why.
    """
    with _loading:
        return _load(settings, name)


@functools.lru_cache(maxsize=2)
def _load(settings: PageSettings, name: str) -> LoadedModel:
    path, runtime = choose_runtime(settings.choices[name], settings.runtime, settings.device)
    cascade = Cascade.load(path, device=settings.device, runtime=runtime, limits=settings.limits)
    identity = model_identity(path)
    points = operating_points(cascade.describe())
    return LoadedModel(name, cascade, identity[:_DIGITS], points)
