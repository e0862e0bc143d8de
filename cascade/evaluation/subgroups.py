"""The same scores for parts of a table: by source, diagnosis, age, sex, site and skin tone.

An average hides whom a model serves badly. Groups are those of the table's columns; a blank cell
puts a case into the group "not given". Small groups are marked, never dropped.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from cascade.errors import DataError
from cascade.evaluation.cases import Case, probabilities, true_labels
from cascade.evaluation.forest_plot import ForestRow, plot_forest
from cascade.evaluation.html import ReportTable
from cascade.evaluation.score_table import markdown_table, score_text
from cascade.evaluation.stages import Evaluation
from cascade.files import write_csv, write_text
from cascade.lesion.skin_tone import SKIN_TONES, skin_tone
from cascade.metrics.classification import roc_auc
from cascade.metrics.intervals import (
    RESAMPLES,
    WeightedMetric,
    percentile_interval,
    plan_resampling,
    share_with_interval,
    weighted_mean,
)
from cascade.metrics.segmentation import iou
from cascade.reliability.metadata import BLANK

SKIN_TONE = "skin_tone"
SUBGROUP_COLUMNS = (
    "source", "diagnosis", "age", "sex", "site", "image_kind", "skin_type", SKIN_TONE,
)  # fmt: skip
"""Columns of the table; ``skin_tone`` is computed from image and predicted mask."""

NOT_GIVEN, NOT_READABLE, NOT_MEASURABLE = "not given", "not readable", "not measurable"
AGES = {"under 30": 30.0, "30 to 49": 50.0, "50 to 69": 70.0, "70 and over": math.inf}
"""Names of the age groups, each with the age in years that it lies below."""

FEWEST_CASES, FEWEST_OF_A_CLASS = 20, 5
"""A group below these is marked: its numbers say little."""

FEW = "few cases"
TITLES = {
    "image_kind": "image kind",
    "skin_type": "skin type (Fitzpatrick, from the table)",
    SKIN_TONE: "apparent skin tone (estimated from the image)",
}
SUBGROUP_HEADERS = (
    "group", "n", "malignant", "ROC AUC", "sensitivity", "specificity", "mean probability",
    "prevalence", "mean IoU", "",
)  # fmt: skip
SUBGROUP_NOTE = (
    f'"{FEW}" marks groups of fewer than {FEWEST_CASES} images or with fewer than '
    f"{FEWEST_OF_A_CLASS} of a class. Sensitivity and specificity are those at the cutoff, with "
    "Wilson intervals; the other intervals are bootstraps over patients or lesions. Where the mean "
    "probability is above the prevalence, the group's risk is overstated. Groups differ in more "
    "than their name, for instance in diagnoses: a difference is no cause. The tone of skin is not "
    "measurable where little of it is seen or the image is bluish."
)

_COUNTS = ("n", "n_groups", "labelled", "positives", "abstained", "n_masks")
_VALUES = ("roc_auc", "recall", "specificity", "mean_probability", "prevalence", "mean_iou")
_WITH_INTERVAL = ("roc_auc", "recall", "specificity", "mean_iou")
_COLUMNS = (
    "column", "group", *_COUNTS, *_VALUES,
    *(f"{name}_{end}" for name in _WITH_INTERVAL for end in ("low", "high")),
    "few_cases", "undefined",
)  # fmt: skip
_TALLEST = 60

_LAST = (NOT_MEASURABLE, NOT_READABLE, NOT_GIVEN)


def with_subgroups(
    evaluation: Evaluation, *, columns: Sequence[str] = SUBGROUP_COLUMNS, seed: int = 0
) -> Evaluation:
    """The same evaluation with ``metrics["subgroups"]``, see :func:`evaluate_subgroups`."""
    rows = evaluate_subgroups(evaluation, columns=columns, seed=seed)
    return replace(evaluation, metrics={**evaluation.metrics, "subgroups": rows})


def evaluate_subgroups(
    evaluation: Evaluation,
    *,
    columns: Sequence[str] = SUBGROUP_COLUMNS,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> list[dict[str, Any]]:
    """Score each group of each column.

    Args:
        evaluation: the run; its ``cutoff`` is the operating point.
        columns: what to group by; a column that no case has a value in is left out.
        seed: seed of the bootstrap.
        resamples: number of bootstrap resamples.

    Returns:
        One mapping a group, the largest of a column first (ages and tones in their order), with
        ``column``, ``group``; ``n`` images of ``n_groups`` patients or lesions, ``labelled``
        images, ``positives`` among them, ``abstained``, ``n_masks`` images with a true mask,
        ``few_cases``; ``roc_auc``, ``recall`` and ``specificity`` at the cutoff,
        ``mean_probability`` of malignant beside its ``prevalence`` among answered cases,
        ``mean_iou``; 95 % ``intervals`` (bootstrap over patients or lesions for ``roc_auc`` and
        ``mean_iou``, Wilson for ``recall`` and ``specificity``); and ``undefined``, the reason of
        each number that is ``None``.

    Raises:
        DataError: there are no cases.
    """
    if not evaluation.cases:
        raise DataError("there are no cases to divide into subgroups")
    rows = []
    for column in columns:
        names = [_group(case, column) for case in evaluation.cases]
        if set(names) <= set(_LAST):
            continue
        for name in _ordered(names, column):
            chosen = [
                case for case, own in zip(evaluation.cases, names, strict=True) if own == name
            ]
            scores = _score(chosen, cutoff=evaluation.cutoff, seed=seed, resamples=resamples)
            rows.append({"column": column, "group": name, **scores})
    return rows


def _group(case: Case, column: str) -> str:
    if column == SKIN_TONE:
        return NOT_MEASURABLE if case.skin_angle is None else skin_tone(case.skin_angle)
    text = case.record.attributes.get(column, "").strip()
    if text.lower() in BLANK:
        return NOT_GIVEN
    return _age_group(text) if column == "age" else text


def _age_group(text: str) -> str:
    try:
        years = float(text)
    except ValueError:
        return NOT_READABLE
    if not 0 <= years <= 130:
        return NOT_READABLE
    return next(name for name, limit in AGES.items() if years < limit)


def _ordered(names: Sequence[str], column: str) -> list[str]:
    known = list({"age": AGES, SKIN_TONE: SKIN_TONES}.get(column, ()))

    def rank(name: str) -> tuple[int, int, str]:
        if name in _LAST:
            return len(known) + 1 + _LAST.index(name), 0, name
        place = known.index(name) if name in known else len(known)
        return place, -names.count(name), name

    return sorted(set(names), key=rank)


def _score(cases: Sequence[Case], *, cutoff: float, seed: int, resamples: int) -> dict[str, Any]:
    labelled = [case for case in cases if case.record.label is not None]
    answered = [case for case in labelled if case.probability is not None]
    scored = [case for case in cases if case.counts is not None]
    values: dict[str, tuple[float | None, list[float] | None, str]] = {
        **_classification(answered, cutoff, seed, resamples),
        "mean_iou": _mean_iou(scored, seed, resamples),
    }
    positives = int(true_labels(labelled).sum())
    present = [count for count in (positives, len(labelled) - positives) if count]
    few_of_a_class = bool(present) and min(present) < FEWEST_OF_A_CLASS
    return {
        "n": len(cases),
        "n_groups": len({case.record.group for case in cases}),
        "labelled": len(labelled),
        "positives": positives,
        "abstained": len(labelled) - len(answered),
        "n_masks": len(scored),
        "few_cases": len(cases) < FEWEST_CASES or few_of_a_class,
        **{name: value for name, (value, _, _) in values.items()},
        "intervals": {name: interval for name, (_, interval, _) in values.items()},
        "undefined": {name: reason for name, (value, _, reason) in values.items() if value is None},
    }


def _classification(
    cases: Sequence[Case], cutoff: float, seed: int, resamples: int
) -> dict[str, tuple[float | None, list[float] | None, str]]:
    if not cases:
        nothing = (None, None, "no case has a class and a probability")
        names = ("roc_auc", "recall", "specificity", "mean_probability", "prevalence")
        return dict.fromkeys(names, nothing)
    labels, scores = true_labels(cases), probabilities(cases)
    called = scores >= cutoff
    malignant, benign = labels == 1, labels == 0
    area: tuple[float | None, list[float] | None, str]
    if malignant.all() or benign.all():
        missing = "benign" if malignant.all() else "malignant"
        area = (None, None, f"none of the {len(cases)} images is {missing}")
    else:
        area = (*_resampled(roc_auc, cases, labels, scores, seed, resamples), "")
    return {
        "roc_auc": area,
        "recall": _share(cases, malignant, called, "malignant"),
        "specificity": _share(cases, benign, ~called, "benign"),
        "mean_probability": (float(scores.mean()), None, ""),
        "prevalence": (float(labels.mean()), None, ""),
    }


def _share(
    cases: Sequence[Case], chosen: np.ndarray, right: np.ndarray, name: str
) -> tuple[float | None, list[float] | None, str]:
    """Share of right calls among the chosen cases."""
    if not chosen.any():
        return None, None, f"none of the {len(cases)} images is {name}"
    groups = [case.record.group for case, own in zip(cases, chosen, strict=True) if own]
    return (*share_with_interval(right[chosen], groups), "")


def _mean_iou(
    cases: Sequence[Case], seed: int, resamples: int
) -> tuple[float | None, list[float] | None, str]:
    if not cases:
        return None, None, "no image has a true mask"
    values = np.array([iou(case.counts) for case in cases if case.counts is not None])
    labels = np.zeros(values.size, np.int64)
    return (*_resampled(weighted_mean, cases, labels, values, seed, resamples), "")


def _resampled(
    metric: WeightedMetric,
    cases: Sequence[Case],
    labels: np.ndarray,
    values: np.ndarray,
    seed: int,
    resamples: int,
) -> tuple[float, list[float] | None]:
    """A metric and its bootstrap interval, ``None`` where a class has one group only."""
    groups = [case.record.group for case in cases]
    plan = plan_resampling(
        labels.size, groups=groups, strata=labels, seed=seed, resamples=resamples
    )
    whole = float(metric(labels, values, np.ones((1, labels.size)))[0])
    if plan.smallest_stratum < 2:
        return whole, None
    samples = [metric(labels, values, block) for block in plan.weights()]
    return whole, percentile_interval(np.concatenate(samples))


def by_column(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """The rows of :func:`evaluate_subgroups` by their column's title."""
    parts: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        parts.setdefault(TITLES.get(row["column"], row["column"]), []).append(row)
    return parts


def subgroup_tables(rows: Sequence[Mapping[str, Any]]) -> list[ReportTable]:
    """A table for each column; a dash where a number is undefined."""
    return [
        ReportTable(SUBGROUP_HEADERS, [_cells(row) for row in part], title)
        for title, part in by_column(rows).items()
    ]


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        row["group"],
        str(row["n"]),
        str(row["positives"]) if row["labelled"] else "–",
        *(score_text(row[name], row["intervals"].get(name)) for name in _VALUES),
        FEW if row["few_cases"] else "",
    )


def write_subgroups(folder: Path, rows: Sequence[Mapping[str, Any]]) -> list[Path]:
    """Write ``subgroups.csv``, ``subgroups.md`` and, where any ROC AUC exists, ``subgroups.png``.

    Args:
        folder: where the files go.
        rows: from :func:`evaluate_subgroups`.

    Returns:
        The plot, if there is one.
    """
    write_csv(folder / "subgroups.csv", _COLUMNS, (_flat(row) for row in rows))
    parts = ["# Results by subgroup", "", SUBGROUP_NOTE, ""]
    for table in subgroup_tables(rows):
        parts += [f"## {table.caption}", "", markdown_table(table.headers, table.rows), ""]
    write_text(folder / "subgroups.md", "\n".join(parts))
    drawn = [row for row in rows if row["roc_auc"] is not None][:_TALLEST]
    return [_plot(drawn, folder / "subgroups.png")] if drawn else []


def _plot(rows: Sequence[Mapping[str, Any]], path: Path) -> Path:
    """The ROC AUC of each group that has both classes, with its interval and number of images."""
    lines = []
    for title, part in by_column(rows).items():
        lines.append(ForestRow(title.partition(" (")[0]))
        for row in part:
            name = row["group"] if len(row["group"]) <= 30 else row["group"][:29] + "…"
            note = f"n {row['n']:,}, {row['positives']:,} malignant"
            limits, filled = row["intervals"]["roc_auc"], not row["few_cases"]
            lines.append(ForestRow(name, row["roc_auc"], limits, note, filled))
    return plot_forest(
        lines,
        path,
        title="ROC AUC by subgroup, 95 % intervals",
        across=f"ROC AUC (hollow: {FEW}; dotted: chance)",
        reference=0.5,
    )


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    flat = {key: value for key, value in row.items() if key not in ("intervals", "undefined")}
    for name in _WITH_INTERVAL:
        low, high = row["intervals"].get(name) or (None, None)
        flat |= {f"{name}_low": low, f"{name}_high": high}
    flat["few_cases"] = "yes" if row["few_cases"] else "no"
    flat["undefined"] = "; ".join(f"{name}: {why}" for name, why in row["undefined"].items())
    return flat
