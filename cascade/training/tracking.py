"""The training's side of an experiment tracker: which run goes on, and what it is still to be told.

A tracker's disk or server may fail at any time. The training then goes on without it.
"""

from __future__ import annotations

import logging
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from cascade.files import file_digest, read_json, write_json
from cascade.models.artifact import read_document
from cascade.training import processes
from cascade.training.trackers import make_tracker

log = logging.getLogger(__name__)

TRACKER_FILE = "tracker.json"


class Tracking:
    """Tells a tracker what the folder of a training holds; as a context, also the end.

    ``tracker.json`` beside the checkpoints remembers the run and how many epochs it was told, so
    that a resumed training goes on with the same run, and tells what an interruption has kept from
    it. Of several processes only the first has a tracker.

    Args:
        name: the tracker, or ``none``.
        folder: of the training.

    Raises:
        MissingExtraError: the tracker is not installed.
    """

    def __init__(self, name: str, folder: Path) -> None:
        self._name = name
        self._folder = folder
        self._tracker = (
            make_tracker(name, folder) if name != "none" and processes.is_main() else None
        )
        self._run: str | None = None
        self._told = 0

    def start(self, settings: Mapping[str, Any], history: Sequence[Mapping[str, float]]) -> None:
        """Begin, or go on with the run of an earlier process; again, it does nothing.

        Args:
            settings: those of the training.
            history: a row for each epoch that is over.
        """
        if self._run is None:
            self._attempt(self._start, settings, len(history))
            self.tell(history)

    def tell(self, history: Sequence[Mapping[str, float]]) -> None:
        """Pass on the epochs that the tracker does not know yet."""
        self._attempt(self._tell, history)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._run is not None:
            self._attempt(self._finish, finished=kind is None)

    def _start(self, settings: Mapping[str, Any], epochs: int) -> None:
        path = self._folder / TRACKER_FILE
        kept = read_json(path) if path.is_file() else {}
        known = kept.get("run") if kept.get("tracker") == self._name else None
        self._told = min(kept["epochs"], epochs) if known else 0
        self._run = self._tracker.start(settings, known)  # type: ignore[union-attr]
        self._remember()

    def _tell(self, history: Sequence[Mapping[str, float]]) -> None:
        for step, row in enumerate(history[self._told :], start=self._told + 1):
            self._tracker.log(row, step)  # type: ignore[union-attr]
            self._told = step
            self._remember()

    def _remember(self) -> None:
        document = {"tracker": self._name, "run": self._run, "epochs": self._told}
        write_json(self._folder / TRACKER_FILE, document)

    def _finish(self, *, finished: bool) -> None:
        about = {"finished": finished, "epochs": self._told, **best_network(self._folder)}
        self._tracker.finish(about)  # type: ignore[union-attr]

    def _attempt(self, action: Callable[..., None], *arguments: Any, **options: Any) -> None:
        """Do it, or else give the tracker up."""
        if self._tracker is None:
            return
        try:
            action(*arguments, **options)
        except Exception as error:  # noqa: BLE001 - whatever it is, the training is worth more
            log.warning(
                "warning: the training goes on without --tracker %s, which failed (%s: %s); what "
                "it misses is in history.csv",
                self._name, type(error).__name__, textwrap.shorten(str(error), 200),
            )  # fmt: skip
            self._tracker = None


def best_network(folder: Path) -> dict[str, Any]:
    """The numbers of a training's best network and its file's digest, if there is one yet.

    ``best_sha256`` is that of the whole file, as ``sha256sum`` tells it.
    """
    path = folder / "best.safetensors"
    if not path.is_file():
        return {}
    document = read_document(path)
    (stage,) = document["stages"]
    numbers = document["metrics"][stage]["validation"]
    continued = document["provenance"][stage].get("continued")
    return {
        **{f"best_{name}": value for name, value in numbers.items()},
        "best_sha256": file_digest(path),
        **({"continued": continued} if continued else {}),
    }
