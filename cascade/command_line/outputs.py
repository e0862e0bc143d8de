"""What commands write to the terminal and beside their results."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cascade.errors import ConfigError

if TYPE_CHECKING:
    from cascade.training.cross_validation import CrossValidation

log = logging.getLogger(__name__)


def say(text: str = "") -> None:
    """Write one line of results to standard output."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def refuse_to_replace(output: Path, *, overwrite: bool) -> None:
    """Stop before anything is computed where the file to write exists and may not be replaced.

    Raises:
        ConfigError: it exists, and ``overwrite`` is off.
    """
    if output.exists() and not overwrite:
        raise ConfigError(f"{output}: exists already; replace it (--overwrite) or name another")


def say_table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Write a table with aligned columns to standard output."""
    widths = [max(len(str(row[i])) for row in (headers, *rows)) for i in range(len(headers))]
    for row in (headers, ["-" * width for width in widths], *rows):
        say("  ".join(str(cell).ljust(width) for cell, width in zip(row, widths, strict=True)))


def finish_training(output: str, metrics: Mapping[str, Any]) -> None:
    """Draw the training curves and say where the best network is."""
    from cascade.evaluation.plots import plot_history, read_history

    folder = Path(output)
    history = read_history(folder / "history.csv")
    history.pop("seconds", None)
    plot_history(history, folder / "curves.png")
    best = metrics["validation"]
    say(f"best epoch {best['epoch']:.0f}: {metrics['monitor']} {best[metrics['monitor']]:.4f}")
    say(f"written: {folder / 'best.safetensors'}, history.csv, curves.png, config.yaml")


def finish_cross_validation(result: CrossValidation) -> None:
    """Show each fold, the scores of all images together, and where the ensemble is."""
    from cascade.evaluation.score_table import classification_lines

    say_table(
        ("fold", "images", "malignant", "ROC AUC", "average precision", "best epoch"),
        [
            (
                str(fold["fold"]), str(fold["n"]), str(fold["positives"]),
                f"{fold['roc_auc']:.4f}", f"{fold['average_precision']:.4f}",
                f"{fold['best_epoch']:.0f}",
            )
            for fold in result.folds
        ],
    )  # fmt: skip
    say()
    say("out of fold, each image judged by the one network that never saw it:")
    for line in classification_lines(result.metrics):
        say(line)
    say()
    say(
        f"written: {result.folder / 'ensemble.safetensors'}, out_of_fold.csv, "
        "cross_validation.json and the run of each fold"
    )
