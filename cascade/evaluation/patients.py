"""An evaluation with patients: each case's context, and whether context helps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from cascade.evaluation.cases import Case, probabilities, true_labels
from cascade.metrics.patients import context_metrics
from cascade.pipeline.patients import PatientRows

if TYPE_CHECKING:
    from cascade.evaluation.stages import Evaluation

PATIENT_TITLE = "Lesions compared within their patient"
PATIENT_HEADERS = ("score", "ROC AUC", "minus the probability alone (paired 95 %, by patient)")
PATIENT_NOTE = (
    "Each row below the first joins the probability with the context of the lesion in a logistic "
    "regression, fitted on other patients. An interval that includes 0 shows no difference; one "
    "above 0 shows a gain on these images, for patients chosen and imaged like these."
)
_ROWS = {
    "rank": "with the rank within the patient",
    "ugly_duckling": "with the ugly-duckling score",
    "rank_and_ugly_duckling": "with both",
}


def with_patients(evaluation: Evaluation, *, seed: int = 0) -> Evaluation:
    """Give each case its context and the metrics ``patients``; the same without any patient.

    Args:
        evaluation: of a cascade.
        seed: of folds and bootstrap.
    """
    from cascade.data.grouping import identifiers

    gathered = PatientRows()
    names = []
    for case in evaluation.cases:
        ids = dict(identifiers(case.record.attributes))
        names.append(ids.get("patient_id", ""))
        lesion = ids.get("lesion_id") or case.record.name
        gathered.add(case.prediction, patient=names[-1], lesion=lesion)
    if not any(names):
        return evaluation
    contexts = gathered.contexts()
    cases = tuple(
        replace(case, context=context)
        for case, context in zip(evaluation.cases, contexts, strict=True)
    )
    chosen = [place for place, case in enumerate(cases) if _is_comparable(case)]
    compared = context_metrics(
        true_labels([cases[place] for place in chosen]),
        probabilities([cases[place] for place in chosen]),
        np.array([_place(cases[place]) for place in chosen]),
        np.array([_score(cases[place]) for place in chosen]),
        [names[place] for place in chosen],
        seed=seed,
    )
    patients = {**compared, "left_out": len(cases) - len(chosen)}
    return replace(evaluation, cases=cases, metrics={**evaluation.metrics, "patients": patients})


def _is_comparable(case: Case) -> bool:
    known = case.record.label is not None and case.probability is not None
    return known and math.isfinite(_score(case))


def _score(case: Case) -> float:
    score = None if case.context is None else case.context.ugly_duckling_score
    return math.nan if score is None else score


def _place(case: Case) -> float:
    """Place within the patient, from 0 for the highest probability to 1 for the lowest."""
    if case.context is None or case.context.rank is None:
        return math.nan
    return (case.context.rank - 1) / max(1, case.context.lesions - 1)


def patient_rows(metrics: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Rows of the comparison for a person to read; empty where there is none."""
    if "combinations" not in metrics:
        return []
    rows = [("probability alone", f"{metrics['roc_auc']:.4f}", "")]
    for name, title in _ROWS.items():
        part = metrics["combinations"][name]
        low, high = part["interval"]
        change = f"{part['difference']:+z.4f} ({low:+z.4f} to {high:+z.4f})"
        rows.append((title, f"{part['roc_auc']:.4f}", change))
    alone = f"{metrics['ugly_duckling_roc_auc']:.4f}"
    return [*rows, ("ugly-duckling score alone", alone, "")]


def patient_sentences(metrics: Mapping[str, Any]) -> list[str]:
    """What was compared and what that shows, in plain sentences."""
    said = [
        f"Images with an ugly-duckling score: {metrics['n']}, patients: {metrics['patients']}; "
        f"malignant images: {metrics['positives']}, patients with one: "
        f"{metrics['malignant_patients']}; images left out: {metrics['left_out']}."
    ]
    if "undefined" in metrics:
        return [*said, f"Not compared: {metrics['undefined']}."]
    for name, title in _ROWS.items():
        low, high = metrics["combinations"][name]["interval"]
        shown = (
            "ranks better than" if low > 0 else "ranks worse than" if high < 0
            else "was not shown to differ from"
        )  # fmt: skip
        said.append(f"The probability {title} {shown} the probability alone.")
    first = metrics["found_first"]
    if first["patients"]:
        said.append(
            f"In {first['patients']} patients with lesions of both classes, the first lesion is "
            f"malignant in {first['probability']:.3f} by probability, {first['ugly_duckling']:.3f} "
            f"by ugly-duckling score and {first['chance']:.3f} by chance."
        )
    return said
