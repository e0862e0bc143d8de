"""Labels that scores contradict, as a table and a contact sheet."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cascade.config import CLASSES
from cascade.data.locate import match_stem
from cascade.data.spreadsheet import listed, read_csv
from cascade.data.tables import Record
from cascade.errors import CascadeError, DataError
from cascade.evaluation.overlays import contact_sheet
from cascade.files import write_csv
from cascade.imaging import read_image, write_image
from cascade.metrics.label_issues import label_issues

TABLE_FILE, SHEET_FILE = "label_issues.csv", "label_issues.jpg"
COLUMNS = ("rank", "name", "class", "suggested_class", "score", "probability_malignant")
_SHOWN = 40
_FOLD_COLUMNS = {"fold", "logit"}
_PROBABILITY = ("probability_malignant", "probability")


@dataclass(frozen=True)
class Scores:
    """Probabilities of malignant by the stem of the image's name.

    ``out_of_fold`` tells whether the table is that of a cross-validation.
    """

    path: Path
    probabilities: Mapping[str, float]
    out_of_fold: bool


@dataclass(frozen=True)
class LabelIssue:
    """A label that its score contradicts; see :class:`cascade.metrics.label_issues.LabelIssues`."""

    record: Record
    suggested: str
    score: float
    probability: float


def read_scores(path: str | os.PathLike[str]) -> Scores:
    """Read ``out_of_fold.csv``, or any table with a name and a probability.

    Rows without a probability, such as those of images that failed, are left out.

    Raises:
        DataError: the file lacks a column, an image has two rows, or a probability is none.
    """
    path = Path(path)
    columns, rows = read_csv(path)
    column = next((name for name in _PROBABILITY if name in columns), None)
    if column is None or "name" not in columns:
        raise DataError(
            f"{path}: needs the columns name and probability_malignant (or probability); give the "
            "out_of_fold.csv of cascade cls-train --folds, or predictions"
        )
    found: dict[str, float] = {}
    for row in rows:
        text, stem = row[column].strip(), match_stem(row["name"])
        if not text:
            continue
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not 0 <= value <= 1:
            raise DataError(f"{path}: {column} of {row['name']} is {text!r}, not a probability")
        if stem in found:
            raise DataError(f"{path}: more than one row for {row['name']}; keep one")
        found[stem] = value
    return Scores(path, found, out_of_fold=set(columns) >= _FOLD_COLUMNS)


def find_label_issues(records: Sequence[Record], scores: Scores) -> tuple[list[LabelIssue], int]:
    """The labels that the scores contradict, lowest score first, and how many labels were scored.

    Raises:
        DataError: no image has a score, or those that have are of one class.
    """
    if not scores.probabilities:
        raise DataError(f"{scores.path}: no row has a probability; all images failed")
    scored = [record for record in records if match_stem(record.name) in scores.probabilities]
    if not scored:
        raise DataError(
            f"{scores.path}: none of its {len(scores.probabilities)} images is in the data set, "
            f"e.g. {listed(sorted(scores.probabilities), limit=3)}"
        )
    labels = np.array([CLASSES.index(record.label or "") for record in scored])
    malignant = np.array([scores.probabilities[match_stem(record.name)] for record in scored])
    try:
        found = label_issues(labels, malignant)
    except DataError as error:
        raise DataError(f"{scores.path}: {error}") from error
    issues = [
        LabelIssue(
            scored[index],
            CLASSES[1 - int(labels[index])],
            float(found.scores[index]),
            float(malignant[index]),
        )
        for index in found.issues
    ]
    return issues, len(scored)


def write_label_issues(folder: Path, issues: Sequence[LabelIssue]) -> None:
    """Write ``label_issues.csv`` and a contact sheet of the first 40, ``label_issues.jpg``.

    Raises:
        DataError: the folder cannot be written to.
    """
    rows = (
        {
            "rank": rank,
            "name": issue.record.name,
            "class": issue.record.label,
            "suggested_class": issue.suggested,
            "score": issue.score,
            "probability_malignant": issue.probability,
        }
        for rank, issue in enumerate(issues, start=1)
    )
    write_csv(folder / TABLE_FILE, COLUMNS, rows)
    tiles, captions = [], []
    for rank, issue in enumerate(issues[:_SHOWN], start=1):
        try:
            tiles.append(read_image(issue.record.image_path, short_side=240).pixels)
        except CascadeError:  # the check says what is wrong with it
            continue
        captions.append(
            f"{rank}: {issue.record.name}\nclass: {issue.record.label}\n"
            f"score {issue.score:.2f}, malignant {issue.probability:.2f}"
        )
    if tiles:
        write_image(folder / SHEET_FILE, contact_sheet(tiles, captions))
