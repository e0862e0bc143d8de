"""The settings that results were made with, beside them, so that a run goes on in its own way."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cascade.config import changed_settings
from cascade.errors import ConfigError
from cascade.files import read_json, write_json

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunSettings:
    """What decides the results in a table or folder.

    Attributes:
        path: the file beside the results.
        settings: by the names of their flags; plain JSON values.
    """

    path: Path
    settings: Mapping[str, Any]

    @classmethod
    def of_predictions(cls, table: Path, arguments: Any, **more: Any) -> RunSettings:
        """Those of ``predict`` and ``explain``; ``more`` are further ones."""
        from cascade.models.runtimes import choose_runtime, model_identity

        model, _ = choose_runtime(arguments.model, arguments.runtime, arguments.device)
        common = ("cutoff", "operating_point", "tta", "max_megapixels", "allow_truncated")
        settings = {name: arguments[name] for name in common}
        identity = {"model_sha256": model_identity(model)}
        return cls(table.with_suffix(".settings.json"), {**identity, **settings, **more})

    def go_on(self, *, results: bool) -> None:
        """Refuse to add to results that were made in another way; note the settings of new ones.

        Args:
            results: whether there are any that are kept.

        Raises:
            ConfigError: something differs; the message names it.
            DataError: the file cannot be read or written.
        """
        if not results:
            write_json(self.path, self.settings)
            return
        if not self.path.is_file():
            log.warning(
                "%s: is missing, so nothing says whether the results that are there were made with "
                "the same model and settings", self.path,
            )  # fmt: skip
            return
        differing = changed_settings(read_json(self.path), self.settings)
        if differing:
            raise ConfigError(
                f"{self.path}: the results that are there were made in another way: "
                f"{'; '.join(differing)}. Give the same, start anew (--overwrite) or choose "
                "another --output"
            )
