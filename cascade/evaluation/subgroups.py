"""The same scores for parts of a table: by source, diagnosis, age, sex, site and skin tone.

An average hides whom a model serves badly. Groups are those of the table's columns; a blank cell
puts a case into the group "not given". Small groups are marked, never dropped.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from cascade.errors import DataError
from cascade.evaluation.cases import Case, probabilities, true_labels
from cascade.evaluation.stages import Evaluation
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

SKIN_TONE = "skin_tone"
SUBGROUP_COLUMNS = ("source", "diagnosis", "age", "sex", "site", "image_kind", SKIN_TONE)
"""Columns of the table; ``skin_tone`` is computed from image and predicted mask."""

NOT_GIVEN, NOT_READABLE, NOT_MEASURABLE = "not given", "not readable", "not measurable"
AGES = {"under 30": 30.0, "30 to 49": 50.0, "50 to 69": 70.0, "70 and over": math.inf}
"""Names of the age groups, each with the age in years that it lies below."""

FEWEST_CASES, FEWEST_OF_A_CLASS = 20, 5
"""A group below these is marked: its numbers say little."""

_BLANK = {"", "nan", "na", "n/a", "none", "null", "unknown"}
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
    if text.lower() in _BLANK:
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
