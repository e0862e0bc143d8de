"""A training's folder: what it was asked to do, and whether it may go on there."""

from __future__ import annotations

import datetime
import hashlib
import json
import logging
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import torch
import torchvision
import yaml

from cascade.config import TrainConfig, to_dict
from cascade.data.splits import Splits, make_splits
from cascade.data.tables import Record, Table
from cascade.errors import ConfigError, DataError
from cascade.files import write_text
from cascade.models.network import Network
from cascade.training import processes
from cascade.training.images_seen import (
    division_of,
    image_marks,
    images_seen,
    learnt_from,
    require_unseen,
    without_images,
)
from cascade.training.state import LAST, PREVIOUS
from cascade.training.tracking import TRACKER_FILE
from cascade.version import __version__

log = logging.getLogger(__name__)

CONFIG_FILE = "config.yaml"
_WITHOUT_EFFECT = {"cache_gigabytes", "checkpoint_minutes", "num_workers", "tracker"}
"""Settings that change no result, so a training may go on with others."""


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Settings that are not what they were: ``name: [before, now]``, ``None`` for an absent one.

    Those that change no result are left out; runs of earlier versions may have stored them.
    """
    return {
        key: [before.get(key), now.get(key)]
        for key in sorted({*before, *now} - _WITHOUT_EFFECT)
        if before.get(key) != now.get(key)
    }


def open_run(
    folder: Path,
    settings: Mapping[str, Any],
    *,
    resume: bool,
    overwrite: bool = False,
    resume_changed: bool = False,
    results: Sequence[str] = (),
    store_changes: bool = True,
) -> None:
    """Claim a folder for a training before anything is computed.

    A run that is resumed must have the same settings and data, or with ``resume_changed`` at least
    the same division into training and validation images, unless it has saved nothing yet.
    ``results`` are patterns of further files that a new run must not find, because they are those
    of another. Without ``store_changes`` the stored settings stay where a run goes on with others,
    until :func:`note_changes` is told that it does. Of several processes only the main one does
    it, and all go on when it is done.

    Raises:
        ConfigError: another run is there, or a resumed run has other settings or data.
        DataError: the folder cannot be written to.
    """
    if processes.is_main():
        _claim(folder, settings, resume, overwrite, resume_changed, results, store_changes)
    processes.wait()


def _claim(
    folder: Path,
    settings: Mapping[str, Any],
    resume: bool,
    overwrite: bool,
    resume_changed: bool,
    results: Sequence[str],
    store_changes: bool,
) -> None:
    existing = folder / CONFIG_FILE
    if resume:
        if not existing.is_file():
            raise ConfigError(f"{folder}: there is no run to resume; start without --resume")
        for left in list(folder.glob(".*.tmp")):  # of a write that was killed
            left.unlink()
        changed = differences(_read_settings(existing), settings)
        if not changed:
            return
        if _holds_weights(folder):
            _require_compatible(folder, changed, resume_changed)
            if not store_changes and any((folder / name).is_file() for name in (LAST, PREVIOUS)):
                return
        else:  # such as a training that diverged in its first epoch
            _clear(folder, results)
    elif existing.exists() and not overwrite:
        raise ConfigError(
            f"{folder}: holds a run already; go on with it (--resume), replace it (--overwrite) or "
            "choose another folder (--output)"
        )
    else:
        _clear(folder, results)
    _write_settings(existing, settings)


def note_changes(folder: Path, changed: Mapping[str, Sequence[Any]]) -> None:
    """Store the other settings that a resumed training goes on with; see :func:`differences`."""
    path = folder / CONFIG_FILE
    if processes.is_main() and path.is_file():
        now = {key: new for key, (_, new) in changed.items()}
        _write_settings(path, {**_read_settings(path), **now})


def _require_compatible(
    folder: Path, changed: Mapping[str, list[Any]], resume_changed: bool
) -> None:
    listed = "; ".join(f"{key} was {old!r}, is {new!r}" for key, (old, new) in changed.items())
    if not resume_changed:
        raise ConfigError(
            f"{folder}: cannot resume with other settings or data: {listed}; use the same "
            "ones, another --output, or go on with these (--resume_changed)"
        )
    if _DIVISION & set(changed):
        raise ConfigError(
            f"{folder}: cannot resume with another division, whose validation images may have "
            f"trained the network: {listed}; start a new run with --initial_model"
        )
    log.warning("warning: going on with other settings or data: %s", listed)


def _read_settings(path: Path) -> dict[str, Any]:
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
        if not isinstance(settings, dict) or not all(isinstance(key, str) for key in settings):
            raise ValueError("it holds no settings")
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ConfigError(
            f"{path}: is damaged ({' '.join(str(error).split())}), so nobody can tell whether the "
            "run may go on; start again with --overwrite"
        ) from error
    return settings


def _write_settings(path: Path, settings: Mapping[str, Any]) -> None:
    write_text(path, yaml.safe_dump(dict(settings), sort_keys=False, allow_unicode=True))


def _holds_weights(folder: Path) -> bool:
    """Whether a training, or one of its folds, has left anything that a resume would keep."""
    return any(any(folder.rglob(name)) for name in ("best.safetensors", LAST, PREVIOUS, _FINISHED))


_DIVISION = {"splits_digest", "table_digest", "folds", "fold_seed", "validation_fraction"}


def _clear(folder: Path, results: Sequence[str]) -> None:
    """Remove what a resume must not take for this run's, before its settings are written."""
    for pattern in (
        "best.safetensors",
        LAST,
        PREVIOUS,
        "history.csv",
        TRACKER_FILE,
        ".*.tmp",
        *results,
    ):
        for path in list(folder.glob(pattern)):
            try:
                path.unlink()
            except OSError as error:
                raise DataError(f"{path}: cannot be replaced ({error.strerror})") from error


def run_settings(
    config: Any, training: TrainConfig, weights: str, initial_model: str | Path | None = None
) -> dict[str, Any]:
    """What decides a training's result beside its images, as plain values."""
    settings = {**to_dict(config), **to_dict(training), "encoder_weights": weights}
    for name in _WITHOUT_EFFECT:
        del settings[name]
    settings["processes"] = processes.count()
    if initial_model is not None:
        settings["initial_model"] = Path(initial_model).name
    return settings


def begin_run(
    network: Network,
    folder: Path,
    settings: Mapping[str, Any],
    table: Table,
    splits: Splits,
    initial_model: str | Path | None,
    *,
    resume: bool,
    overwrite: bool,
    resume_changed: bool,
) -> None:
    """Claim the folder and record in the network how it is made.

    The digests of division and data join the other ``settings``.

    Raises:
        ConfigError: see :func:`open_run`.
        DataError: see :func:`open_run` and :func:`start_from`.
        ModelFileError: see :func:`start_from`.
    """
    train, validation = splits.parts(table)
    settings = {
        **settings,
        "splits_digest": splits.digest,
        "data_digest": data_digest([*train, *validation]),
    }
    open_run(
        folder, settings, resume=resume, overwrite=overwrite, resume_changed=resume_changed,
        store_changes=False,
    )  # fmt: skip
    network.provenance.update(provenance(table, splits, settings))
    if initial_model is not None:
        start_from(network, str(initial_model), splits, settings)
        log.info("starting from %s", initial_model)
    elif settings["encoder_weights"] == "none":
        log.info(
            "starting from random weights; --encoder_weights imagenet downloads pretrained ones, "
            "which train faster and better"
        )


def data_digest(records: Iterable[Record]) -> str:
    """SHA-256 over what a table says of images, and the sizes in bytes of images and masks."""
    rows = [
        [
            record.name, record.label, record.group,
            record.attributes.get("diagnosis"), record.attributes.get("source"),
            *(path and path.stat().st_size for path in (record.image_path, record.mask_path)),
        ]
        for record in sorted(records, key=lambda record: record.name)
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def provenance(table: Table, splits: Splits, settings: Mapping[str, Any]) -> dict[str, Any]:
    """How a network was made, for its file."""
    train, validation = (part.names() for part in splits.parts(table))
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": {
            "cascade": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "torchvision": torchvision.__version__,
            "numpy": numpy.__version__,
        },
        "machine": f"{platform.machine()} {platform.system()}",
        "table": {"name": table.path.name, "images": len(table), "digest": table.digest},
        "splits": {"seed": splits.seed, "fraction": splits.fraction, "digest": splits.digest},
        "trained_on": image_marks([*train, *validation]),
        "validated_on": image_marks(validation),
        "settings": {**settings, "encoder_weights": Path(settings["encoder_weights"]).name},
    }


def start_from(network: Network, path: str, splits: Splits, settings: Mapping[str, Any]) -> None:
    """Begin with the weights of an earlier training, and record what that one has seen.

    Raises:
        DataError: the earlier training learnt from images that are to validate this one.
        ModelFileError: the file is missing or damaged, or holds another architecture.
    """
    before = network.continue_from(path)
    if division_of(before) != settings["splits_digest"]:
        try:
            require_unseen(learnt_from(before), splits.validation, model=path)
        except DataError as error:
            raise DataError(
                f"{path} was trained with another division, on images that are to validate now, "
                "so no epoch could be judged; use the --splits of that training"
            ) from error
    network.provenance.update(images_seen(before, network.provenance))
    network.provenance["initial_model"] = without_images(before)


_FINISHED = "finished"


@dataclass(frozen=True)
class FoldRun:
    """One fold and the folder of its training.

    ``fold`` says what trains, and what is held out and chooses nothing. When the folds were opened,
    there was a training to go on with (``started``), or all that the fold was to give
    (``finished``).
    """

    number: int
    folder: Path
    fold: Splits
    started: bool
    finished: bool

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
    resume_changed: bool = False,
    results: Sequence[str] = (),
) -> list[FoldRun]:
    """Claim a folder for a cross-validation before anything is computed.

    Finished folds stay as they are, also with ``resume_changed``.

    ``results`` are patterns of files that a new run must not find, because they are those of
    another.

    Raises:
        ConfigError: another run is there, or a resumed run has other settings.
    """
    open_run(
        folder, settings, resume=resume, overwrite=overwrite, resume_changed=resume_changed,
        results=(f"fold_*/{_FINISHED}", f"fold_*/{CONFIG_FILE}", *results),
    )  # fmt: skip
    runs = []
    for number, fold in enumerate(folds):
        own = folder / f"fold_{number}"
        started, finished = ((own / name).is_file() for name in (CONFIG_FILE, _FINISHED))
        runs.append(FoldRun(number, own, fold, started, finished))
    processes.wait()  # before one begins, which others would take for one to go on with
    if all(run.finished for run in runs):
        log.info("%s: all %d folds are finished", folder, len(runs))
    return runs


def inner_splits(table: Table, fold: Splits, *, fraction: float, seed: int) -> Splits:
    """The fold's training part, divided again, so that the held-out part chooses nothing."""
    return make_splits(table.subset(fold.train), fraction=fraction, seed=seed)
