"""Scores of the diagnoses that a classifier tells apart, as in ISIC 2018 task 3.

The true diagnosis is the table's column ``diagnosis``. The one that is named is
:meth:`cascade.reliability.Diagnoses.likeliest_of_equals`, because mean recall counts a rare
diagnosis as much as a frequent one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cascade.evaluation.cases import Case
from cascade.evaluation.html import ReportTable
from cascade.evaluation.plots import PathLike, plot_counts
from cascade.evaluation.score_table import METRIC_HEADERS, metric_rows, score_text
from cascade.metrics.multiclass import EACH, multiclass_metrics
from cascade.reliability import Diagnoses, diagnosis_name

DIAGNOSIS_TITLE = "Diagnoses"
DIAGNOSIS_ROWS = {
    "balanced_accuracy": (
        "balanced accuracy",
        "mean sensitivity of the diagnoses; ranks ISIC 2018",
    ),
    "accuracy": ("accuracy", "images"),
    "macro_f1": ("macro F1", "mean over the diagnoses"),
    "mean_roc_auc": ("mean ROC AUC", "one diagnosis against all others, mean over the diagnoses"),
}
"""Title and averaging of each score over all diagnoses, in the order to show them."""

DIAGNOSIS_HEADERS = ("diagnosis", "n", "sensitivity", "specificity", "F1", "ROC AUC")


def diagnosis_scores(
    cases: Sequence[Case], diagnoses: Diagnoses | None, *, seed: int = 0
) -> dict[str, Any] | None:
    """Score the cases whose true diagnosis is one that the classifier tells apart.

    Args:
        cases: of a whole table.
        diagnoses: what the classifier tells apart, or ``None``.
        seed: seed of the bootstrap intervals.

    Returns:
        See :func:`cascade.metrics.multiclass.multiclass_metrics`; with
        ``most_probable_accuracy``, the accuracy if the most probable diagnosis were named; how many
        images are ``without_diagnosis`` and how many the cascade ``abstained`` on; and
        ``other_diagnoses``, the number of images of each diagnosis that it does not know. These
        are left out. ``None`` if nothing is left or no diagnoses are told.
    """
    if diagnoses is None:
        return None
    true = [diagnosis_name(case.record.attributes.get("diagnosis", "")) for case in cases]
    pairs = [(case, name) for case, name in zip(cases, true, strict=True) if name]
    known = [(case, name) for case, name in pairs if name in diagnoses.names]
    scored = [(case, name) for case, name in known if case.diagnoses]
    if not scored:
        return None
    truth = np.array([diagnoses.names.index(name) for _, name in scored])
    chances = np.array([[case.diagnoses[name] for name in diagnoses.names] for case, _ in scored])
    metrics = multiclass_metrics(
        truth,
        chances,
        diagnoses.likeliest_of_equals(chances),
        names=diagnoses.names,
        groups=[case.record.group for case, _ in scored],
        seed=seed,
    )
    others = Counter(name for _, name in pairs if name not in diagnoses.names)
    return {
        **metrics,
        "most_probable_accuracy": float((chances.argmax(axis=1) == truth).mean()),
        "without_diagnosis": len(cases) - len(pairs),
        "abstained": len(known) - len(scored),
        "other_diagnoses": dict(sorted(others.items())),
    }


def diagnosis_note(scores: Mapping[str, Any]) -> str:
    """What was scored, and what was left out, in words."""
    text = (
        f"{scores['n']} images in {scores['n_groups']} groups. The diagnosis that is named has the "
        "largest ratio of its probability to its share of the training images, which balanced "
        "accuracy rewards; the most probable one would be right for "
        f"{scores['most_probable_accuracy']:.3f} of the images."
    )
    if scores["absent"]:
        text += f" Not in this table: {', '.join(scores['absent'])}."
    left_out = [f"{count} {name}" for name, count in scores["other_diagnoses"].items()]
    left_out += [f"{scores['without_diagnosis']} without a diagnosis"] * bool(
        scores["without_diagnosis"]
    )
    left_out += [f"{scores['abstained']} without an answer"] * bool(scores["abstained"])
    return text + (f" Left out: {', '.join(left_out)}." if left_out else "")


def diagnosis_tables(scores: Mapping[str, Any]) -> list[ReportTable]:
    """Scores over all diagnoses, those of each, and what was named for which."""
    names = [one["name"] for one in scores["diagnoses"]]
    matrix = zip(names, scores["confusion_matrix"], strict=True)
    return [
        ReportTable(METRIC_HEADERS, metric_rows(scores, DIAGNOSIS_ROWS)),
        ReportTable(DIAGNOSIS_HEADERS, diagnosis_rows(scores), "Each diagnosis against all others"),
        ReportTable(
            ("true diagnosis", *names),
            [(name, *map(str, counts)) for name, counts in matrix],
            "Confusion matrix: a column for each diagnosis that was named",
        ),
    ]


def diagnosis_rows(scores: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """A row for each diagnosis; a dash where a number is undefined."""
    return [
        (
            one["name"],
            str(one["n"]),
            *(score_text(one[key], one["intervals"][key]) for key in EACH),
        )
        for one in scores["diagnoses"]
    ]


def plot_diagnoses(scores: Mapping[str, Any], path: PathLike) -> Path:
    """Draw the confusion matrix."""
    names = [one["name"] for one in scores["diagnoses"]]
    value, limits = scores["balanced_accuracy"], scores["intervals"]["balanced_accuracy"]
    title = f"Diagnoses: balanced accuracy {score_text(value, limits)}\nn = {scores['n']:,}"
    return plot_counts(np.array(scores["confusion_matrix"]), names, title, path)
