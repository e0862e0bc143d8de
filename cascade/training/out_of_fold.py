"""Scores of a cross-validation: each image judged by the one network that never saw it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cascade.config import CLASSES
from cascade.data.spreadsheet import listed, read_csv
from cascade.errors import DataError
from cascade.files import write_csv
from cascade.metrics.classification import check_scores

OUT_OF_FOLD_FILE = "out_of_fold.csv"
COLUMNS = ("name", "class", "label", "group", "fold", "logit", "probability")


@dataclass(frozen=True)
class OutOfFold:
    """One row for each image.

    Attributes:
        names: names of the images.
        labels: ``(N,)`` int64, 1 for malignant.
        groups: patient, else lesion, of each image.
        folds: ``(N,)`` int64, the fold in which the image was held out.
        logits: ``(N,)`` float64, logit of malignant less logit of benign, before any calibration.
        probabilities: ``(N,)`` float64 in [0, 1] of malignant.
        sources: where each image comes from, if the table says so.
    """

    names: tuple[str, ...]
    labels: np.ndarray
    groups: tuple[str, ...]
    folds: np.ndarray
    logits: np.ndarray
    probabilities: np.ndarray
    sources: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.names)


def write_out_of_fold(path: str | os.PathLike[str], scores: OutOfFold) -> None:
    """Write scores as CSV, atomically; numbers come back as float32 had them."""
    columns = list(COLUMNS)
    if scores.sources is not None:
        columns.insert(columns.index("fold"), "source")
    write_csv(path, columns, (_row(scores, index) for index in range(len(scores))))


def _row(scores: OutOfFold, index: int) -> dict[str, Any]:
    return {
        "name": scores.names[index],
        "class": CLASSES[int(scores.labels[index])],
        "label": int(scores.labels[index]),
        "group": scores.groups[index],
        "source": None if scores.sources is None else scores.sources[index],
        "fold": int(scores.folds[index]),
        "logit": float(scores.logits[index]),
        "probability": float(scores.probabilities[index]),
    }


def read_out_of_fold(path: str | os.PathLike[str]) -> OutOfFold:
    """Read scores back, strictly.

    Raises:
        DataError: the file is missing, lacks a column, names an image twice, or a cell is not what
            its column says.
    """
    columns, rows = read_csv(path)
    missing = [column for column in COLUMNS if column not in columns]
    if missing:
        raise DataError(
            f"{path}: has no column {', '.join(missing)}; it is not the {OUT_OF_FOLD_FILE} of a "
            "cross-validation (cascade cls-train --folds 5)"
        )
    names = tuple(row["name"] for row in rows)
    if len(set(names)) < len(names):
        repeated = sorted({name for name in names if names.count(name) > 1})
        raise DataError(f"{path}: more than one row for {listed(repeated)}")
    numbers = {column: _numbers(path, rows, column) for column in ("fold", "logit", "probability")}
    unknown = [row["name"] for row in rows if row["class"] not in CLASSES]
    if unknown:
        raise DataError(f"{path}: class is neither benign nor malignant for {listed(unknown)}")
    labels, probabilities = check_scores(
        np.array([CLASSES.index(row["class"]) for row in rows], np.int64),
        numbers["probability"],
        names=names,
    )
    return OutOfFold(
        names=names,
        labels=labels,
        groups=tuple(row["group"] for row in rows),
        folds=numbers["fold"].astype(np.int64),
        logits=numbers["logit"],
        probabilities=probabilities,
        sources=tuple(row["source"] for row in rows) if "source" in columns else None,
    )


def _numbers(
    path: str | os.PathLike[str], rows: Sequence[dict[str, str]], column: str
) -> np.ndarray:
    values = []
    for row in rows:
        try:
            values.append(float(row[column]))
        except ValueError as error:
            raise DataError(
                f"{path}: {column} of {row['name']} is {row[column]!r}, not a number"
            ) from error
    # nine digits are those of a float32; rounding to one gives back exactly what was written
    return np.array(values, np.float32).astype(np.float64)


def join_folds(parts: Sequence[OutOfFold], names: Sequence[str]) -> OutOfFold:
    """The scores of all folds in the order of ``names``, each image exactly once.

    Raises:
        DataError: an image has no score, or more than one.
    """
    together = [name for part in parts for name in part.names]
    if sorted(together) != sorted(names):
        differing = set(together) ^ set(names)
        raise DataError(
            f"the folds hold {len(together)} scores for {len(names)} images"
            + (f", differing in {listed(sorted(differing))}" if differing else "")
            + "; start the cross-validation again with --overwrite"
        )
    place = {name: index for index, name in enumerate(together)}
    order = np.array([place[name] for name in names])

    def pick(values: list[Any]) -> tuple[Any, ...]:
        return tuple(values[index] for index in order)

    def joined(field: str) -> np.ndarray:
        return np.concatenate([getattr(part, field) for part in parts])[order]

    sources = [source for part in parts for source in part.sources or ()]
    return OutOfFold(
        names=tuple(names),
        labels=joined("labels"),
        groups=pick([group for part in parts for group in part.groups]),
        folds=joined("folds"),
        logits=joined("logits"),
        probabilities=joined("probabilities"),
        sources=pick(sources) if len(sources) == len(together) else None,
    )


def require_same_images(
    scores: Sequence[OutOfFold], runs: Sequence[str | Path]
) -> tuple[OutOfFold, ...]:
    """Bring the scores of several runs into one order.

    Raises:
        DataError: the runs differ in images, classes, groups or folds; the difference is named.
    """
    first = scores[0]
    ordered = [first]
    for other, run in zip(scores[1:], runs[1:], strict=True):
        pair = f"{runs[0]} and {run}"
        differing = set(first.names) ^ set(other.names)
        if differing:
            raise DataError(
                f"{pair} judge different images, {len(differing)} are in one only: "
                f"{listed(sorted(differing), limit=5)}; cross-validate both on one table"
            )
        aligned = join_folds([other], first.names)
        for field, advice in (
            ("labels", "cross-validate both on one table"),
            ("groups", "cross-validate both on one table"),
            ("folds", "use the same --folds and --fold_seed"),
        ):
            unlike = [
                name
                for name, one, two in zip(
                    first.names, getattr(first, field), getattr(aligned, field), strict=True
                )
                if one != two
            ]
            if unlike:
                raise DataError(
                    f"{pair} have different {field} for {len(unlike)} images, e.g. "
                    f"{listed(unlike, limit=5)}; {advice}"
                )
        ordered.append(aligned)
    return tuple(ordered)
