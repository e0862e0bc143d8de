"""What commands write to the terminal and beside their results."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cascade.command_line.next_command import next_command
from cascade.errors import ConfigError, DataError
from cascade.progress import is_quiet, silenced

if TYPE_CHECKING:
    from cascade.training.cross_validation import CrossValidation


def say(text: str = "", *, wrong: bool = False) -> None:
    """Write one line of results to standard output.

    Of several processes only the main one does, and under ``--quiet`` none but what is ``wrong``.
    """
    if silenced() or (is_quiet() and not wrong):
        return
    write_output(text + "\n")


def write_output(text: str) -> None:
    """Write to standard output at once.

    Raises:
        BrokenPipeError: nobody reads it any more.
        DataError: it goes to a file that cannot be written, on a full disk for instance.
    """
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is still held
        raise DataError(f"standard output cannot be written ({error.strerror})") from error


def printable(text: str) -> str:
    """Keep control characters of a file's name off the terminal."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def say_next(name: str, arguments: Any) -> None:
    """Name the command that people type after this one, if there is any."""
    following = next_command(name, arguments)
    if following is not None:
        say(f"next: {following}")


def refuse_to_replace(arguments: Any, *paths: str | Path, flag: str = "--output") -> None:
    """Stop before anything is read or computed where an earlier result would be lost.

    Args:
        arguments: parsed flags; ``--overwrite`` permits it, and so does ``--resume``.
        paths: files to write, and folders to write to, which may exist as long as they are empty.
        flag: what the user names another place with.

    Raises:
        ConfigError: one is there and nothing was said about it, or both were said.
    """
    refuse_taken(arguments, [path for path in map(Path, paths) if _is_taken(path)], flag=flag)


def refuse_taken(arguments: Any, taken: Sequence[str | Path], *, flag: str = "--output") -> None:
    """As :func:`refuse_to_replace`, of what is known to be there.

    Raises:
        ConfigError: something is there and nothing was said about it, or both were said.
    """
    resume = arguments.get("resume")  # None for a command that cannot go on
    if resume and arguments.overwrite:
        raise ConfigError("--resume keeps earlier results and --overwrite replaces them; give one")
    if taken and not (resume or arguments.overwrite):
        onward = "" if resume is None else "go on with it (--resume), "
        raise ConfigError(
            f"{taken[0]}: exists already; {onward}replace it (--overwrite) or choose another place "
            f"({flag})"
        )


def _is_taken(path: Path) -> bool:
    return any(path.iterdir()) if path.is_dir() else os.path.lexists(path)


def found_files(folder: str | Path, patterns: Iterable[str]) -> list[Path]:
    """The files of a folder that match a pattern, such as those that an earlier run wrote."""
    return [path for pattern in patterns for path in sorted(Path(folder).glob(pattern))]


def say_table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Write a table with aligned columns to standard output."""
    widths = [max(len(str(row[i])) for row in (headers, *rows)) for i in range(len(headers))]
    for row in (headers, ["-" * width for width in widths], *rows):
        say("  ".join(str(cell).ljust(width) for cell, width in zip(row, widths, strict=True)))


def finish_training(output: str, metrics: Mapping[str, Any]) -> None:
    """Draw the training curves and say where the best network is."""
    from cascade.evaluation.plots import plot_history, read_history

    if silenced():  # the main process of several does it
        return
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
