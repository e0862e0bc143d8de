"""The folder of a cross-validation: an ordinary run for each fold, kept once it is finished."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cascade.data.splits import make_splits
from cascade.training.run import CONFIG_FILE, open_run

if TYPE_CHECKING:
    from cascade.data.splits import Splits
    from cascade.data.tables import Table

_FINISHED = "finished"


@dataclass(frozen=True)
class FoldRun:
    """One fold and the folder of its training.

    Attributes:
        number: counted from 0.
        folder: ``fold_N`` in the folder of the cross-validation.
        fold: what trains, and what is held out and chooses nothing.
    """

    number: int
    folder: Path
    fold: Splits

    @property
    def finished(self) -> bool:
        """Whether everything that the fold was to give is on disk."""
        return (self.folder / _FINISHED).is_file()

    @property
    def started(self) -> bool:
        """Whether there is a training to go on with."""
        return (self.folder / CONFIG_FILE).is_file()

    def finish(self) -> None:
        """Mark the fold, after its results were written."""
        (self.folder / _FINISHED).touch()


def open_folds(
    folder: Path,
    folds: Sequence[Splits],
    settings: Mapping[str, Any],
    *,
    resume: bool,
    overwrite: bool = False,
    results: Sequence[str] = (),
) -> list[FoldRun]:
    """Claim a folder for a cross-validation before anything is computed.

    Args:
        folder: where the runs and what comes out of them go.
        folds: the division.
        settings: everything that decides the result, as plain values.
        resume: keep finished folds and go on; the settings must be the same.
        overwrite: replace what is there.
        results: patterns of files that a new run must not find, because they are another's.

    Raises:
        ConfigError: another run is there, or a resumed run has other settings.
    """
    open_run(folder, settings, resume=resume, overwrite=overwrite)
    if not resume:  # a resume must never take what an earlier run left for this one's
        patterns = (f"fold_*/{_FINISHED}", f"fold_*/{CONFIG_FILE}", *results)
        for path in [path for pattern in patterns for path in folder.glob(pattern)]:
            path.unlink()
    return [FoldRun(number, folder / f"fold_{number}", fold) for number, fold in enumerate(folds)]


def inner_splits(table: Table, fold: Splits, *, fraction: float, seed: int) -> Splits:
    """The fold's training part, divided again, so that the held-out part chooses nothing."""
    return make_splits(table.subset(fold.train), fraction=fraction, seed=seed)
