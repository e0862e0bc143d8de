"""Experiment trackers: programs of others that collect the settings and curves of trainings.

Each is an extra. Without a server of its own configured by its own environment variables, it writes
files into the training's folder and connects to nobody.
"""

from __future__ import annotations

import importlib
import json
import os
import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from cascade.errors import MissingExtraError

PROJECT = "cascade"
"""What our runs are grouped under, unless the tracker's own variable names something else."""

# within the libraries, as a folder of a run may have the name of the library itself
_NEEDED = {
    "tensorboard": "tensorboard.compat", "mlflow": "mlflow.tracking", "trackio": "trackio.run",
    "wandb": "wandb.sdk",
}  # fmt: skip


class Tracker(Protocol):
    """What is told how a training goes."""

    def start(self, settings: Mapping[str, Any], run: str | None) -> str:
        """Begin a run with these settings, or go on with ``run``; its identifier."""

    def log(self, row: Mapping[str, float], step: int) -> None:
        """Take the numbers of an epoch; epochs count from 1."""

    def finish(self, summary: Mapping[str, Any]) -> None:
        """End, or pause, with what the training has given so far.

        ``summary`` has at least ``finished``, whether the training is over, and ``epochs``.
        """


def require_tracker(name: str) -> None:
    """Complain now rather than after data were read.

    Raises:
        MissingExtraError: the tracker is not installed.
    """
    if name == "none":
        return
    _set_defaults()
    try:
        importlib.import_module(_NEEDED[name])
    except ImportError as error:
        # an extra must fit the pinned versions, and trackio wants an older pillow
        wanted = name if name == "trackio" else f"'.[{name}]'"
        raise MissingExtraError(
            f"--tracker {name} is not installed ({error}): pip install {wanted}"
        ) from error


def make_tracker(name: str, folder: Path) -> Tracker:
    """The tracker of that name, for the training in a folder.

    Raises:
        MissingExtraError: it is not installed.
    """
    require_tracker(name)
    kinds: dict[str, Any] = {
        "tensorboard": TensorBoard, "mlflow": MLflow, "trackio": Trackio,
        "wandb": WeightsAndBiases,
    }  # fmt: skip
    tracker: Tracker = kinds[name](folder)
    return tracker


class _OfFolder:
    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()


class TensorBoard(_OfFolder):
    """Event files in ``tensorboard/RUN``; settings and summary are its texts."""

    def start(self, settings: Mapping[str, Any], run: str | None) -> str:
        """See :class:`Tracker`."""
        from torch.utils.tensorboard import SummaryWriter

        known, run = run, run or secrets.token_hex(4)
        self._writer: Any = SummaryWriter(str(self.folder / "tensorboard" / run))
        if known is None:
            self._writer.add_text("settings", _as_table(settings), 0)
            self._writer.flush()
        return run

    def log(self, row: Mapping[str, float], step: int) -> None:
        """See :class:`Tracker`."""
        for name, value in row.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def finish(self, summary: Mapping[str, Any]) -> None:
        """See :class:`Tracker`."""
        self._writer.add_text("summary", _as_table(summary), summary["epochs"])
        self._writer.close()


class MLflow(_OfFolder):
    """A run in the database ``mlflow.db``, or where ``MLFLOW_TRACKING_URI`` says."""

    def start(self, settings: Mapping[str, Any], run: str | None) -> str:
        """See :class:`Tracker`."""
        from mlflow.entities import Param
        from mlflow.tracking import MlflowClient

        place = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{self.folder}/mlflow.db"
        self._client: Any = MlflowClient(tracking_uri=place)
        if run is None:
            run = self._new_run()
            settled = [Param(name, _in_words(value)) for name, value in _flat(settings).items()]
            self._client.log_batch(run, params=settled)
        else:
            self._client.update_run(run, status="RUNNING")
        self._run = run
        return run

    def _new_run(self) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or PROJECT
        known = self._client.get_experiment_by_name(name)
        experiment = known.experiment_id if known else self._client.create_experiment(name)
        run = self._client.create_run(experiment, run_name=self.folder.name)
        return str(run.info.run_id)

    def log(self, row: Mapping[str, float], step: int) -> None:
        """See :class:`Tracker`."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(name, float(value), now, step) for name, value in row.items()]
        self._client.log_batch(self._run, metrics=metrics)

    def finish(self, summary: Mapping[str, Any]) -> None:
        """See :class:`Tracker`."""
        for name, value in _flat(summary).items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                self._client.log_metric(self._run, name, float(value))
            else:
                self._client.set_tag(self._run, name, _in_words(value))
        self._client.set_terminated(self._run, "FINISHED" if summary["finished"] else "KILLED")


class Trackio(_OfFolder):
    """A run in Trackio's own local database, or where ``TRACKIO_SERVER_URL`` or a Space says."""

    def start(self, settings: Mapping[str, Any], run: str | None) -> str:
        """See :class:`Tracker`."""
        import trackio

        run = run or f"{self.folder.name}-{secrets.token_hex(4)}"
        self._library: Any = trackio
        trackio.init(
            os.environ.get("TRACKIO_PROJECT") or PROJECT,
            name=run,
            config=dict(settings),
            resume="allow",
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )
        return run

    def log(self, row: Mapping[str, float], step: int) -> None:
        """See :class:`Tracker`."""
        self._library.log(dict(row), step=step)

    def finish(self, summary: Mapping[str, Any]) -> None:
        """See :class:`Tracker`."""
        self._library.log(_flat(summary), step=summary["epochs"])
        self._library.finish()


class WeightsAndBiases(_OfFolder):
    """A run in ``wandb``, offline unless ``WANDB_MODE`` says something else."""

    def start(self, settings: Mapping[str, Any], run: str | None) -> str:
        """See :class:`Tracker`."""
        import wandb

        mode: Any = os.environ.get("WANDB_MODE") or "offline"
        run = run or secrets.token_hex(4)
        folder = Path(os.environ.get("WANDB_DIR") or self.folder)
        folder.mkdir(parents=True, exist_ok=True)
        self._run: Any = wandb.init(
            project=os.environ.get("WANDB_PROJECT") or PROJECT,
            id=run,
            name=self.folder.name,
            dir=str(folder),
            mode=mode,
            resume=None if mode == "offline" else "allow",  # offline it is of no use, and warns
            settings=wandb.Settings(console="off", silent=True, disable_git=True, save_code=False),
        )
        self._run.config.update(dict(settings), allow_val_change=True)
        return run

    def log(self, row: Mapping[str, float], step: int) -> None:
        """See :class:`Tracker`."""
        self._run.log(dict(row), step=step)

    def finish(self, summary: Mapping[str, Any]) -> None:
        """See :class:`Tracker`."""
        self._run.summary.update(dict(summary))
        self._run.finish(exit_code=0 if summary["finished"] else 1)


def _set_defaults() -> None:
    """Send no reports to the makers, and do not keep a training waiting for minutes.

    What the user has set stays.
    """
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")


def _flat(values: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Nested values under names with dots."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        inner = _flat(value, f"{before}{name}.") if isinstance(value, Mapping) else None
        flat.update({f"{before}{name}": value} if inner is None else inner)
    return flat


def _in_words(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _as_table(values: Mapping[str, Any]) -> str:
    """Markdown, with a row for each value."""
    rows = [f"| {name} | {_in_words(value)} |" for name, value in _flat(values).items()]
    return "\n".join(["| name | value |", "|---|---|", *rows])
