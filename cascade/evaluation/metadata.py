"""An evaluation with age, sex and site: whether they help where they are known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from cascade.config import CLASSES
from cascade.errors import ConfigError, DataError
from cascade.evaluation.cases import Case, true_labels
from cascade.metrics.classification import classification_metrics, roc_auc
from cascade.metrics.intervals import (
    WeightedMetric,
    paired_difference,
    plan_resampling,
    weighted_mean,
)
from cascade.reliability import Metadata, MetadataFusion, Safeguards, describe_sets
from cascade.reliability.metadata import FIELDS

if TYPE_CHECKING:
    from cascade.evaluation.stages import Evaluation

METADATA_TITLE = "Age, sex and site beside the image"
METADATA_HEADERS = ("score", "image alone", "with metadata", "difference (paired 95 %)")
METADATA_NOTE = (
    "All other numbers here are those of the images alone. An interval that includes 0 shows no "
    "difference; for the ROC AUC one above 0 shows a gain, for the Brier score one below 0."
)
_ROWS = {
    "roc_auc": "ROC AUC",
    "brier": "Brier score",
    "log_loss": "log loss",
    "ece": "calibration error",
    "recall": "sensitivity at the cutoff",
    "specificity": "specificity at the cutoff",
}


def with_metadata(evaluation: Evaluation, safeguards: Safeguards, *, seed: int = 0) -> Evaluation:
    """The same evaluation with the metrics ``metadata``; without a fusion, or columns, as it is.

    Args:
        evaluation: of a cascade, which saw the images alone.
        safeguards: of the cascade.
        seed: of the bootstrap.

    Raises:
        DataError: a cell of the table is not what it may be.
    """
    fusion = safeguards.metadata
    chosen = [
        case
        for case in evaluation.cases
        if case.record.label is not None and case.prediction.get("image_probability") is not None
    ]
    if fusion is None:
        return evaluation
    known = [_known(case) for case in chosen]
    if not any(fusion.used(item) for item in known):
        return evaluation
    found = _compared(chosen, known, fusion, safeguards, evaluation.cutoff, seed)
    return replace(evaluation, metrics={**evaluation.metrics, "metadata": found})


def _known(case: Case) -> Metadata:
    try:
        return Metadata.of(case.record.attributes)
    except ConfigError as error:
        raise DataError(f"{case.record.name}: {error}") from error


def _compared(
    cases: Sequence[Case],
    known: Sequence[Metadata],
    fusion: MetadataFusion,
    safeguards: Safeguards,
    cutoff: float,
    seed: int,
) -> dict[str, Any]:
    labels = true_labels(cases)
    alone = np.array([case.prediction["image_probability"] for case in cases], np.float64)
    fused = np.array(
        [fusion.probability(chance, item) for chance, item in zip(alone, known, strict=True)]
    )
    used = [fusion.used(item) for item in known]
    found: dict[str, Any] = {
        "n": len(cases),
        "positives": int(labels.sum()),
        "used": {name: sum(name in names for names in used) for name in FIELDS},
        "none_used": sum(not names for names in used),
        "cutoff": cutoff,
        "image_alone": _scores(labels, alone, cutoff),
        "with_metadata": _scores(labels, fused, cutoff),
        "differences": _differences(cases, labels, alone, fused, seed),
    }
    if fusion.conformal is not None and safeguards.conformal is not None:
        own = [fusion.conformal if names else safeguards.conformal for names in used]
        found["sets"] = describe_sets(
            [scores.prediction_set(chance)[0] for scores, chance in zip(own, fused, strict=True)],
            labels,
        )
    return found


def _scores(labels: np.ndarray, chances: np.ndarray, cutoff: float) -> dict[str, float | None]:
    measured = classification_metrics(labels, chances, cutoff=cutoff, resamples=1)
    return {name: measured[name] for name in _ROWS}


def _differences(
    cases: Sequence[Case], labels: np.ndarray, alone: np.ndarray, fused: np.ndarray, seed: int
) -> dict[str, Any]:
    """With metadata minus image alone, resampled by patient or lesion; empty where undefined."""
    groups = [case.record.group for case in cases]
    plan = plan_resampling(labels.size, groups=groups, strata=labels)
    if len(np.unique(labels)) < len(CLASSES) or plan.smallest_stratum < 2:
        return {}
    parts: dict[str, tuple[WeightedMetric, np.ndarray, np.ndarray]] = {
        "roc_auc": (roc_auc, fused, alone),
        "brier": (weighted_mean, (fused - labels) ** 2, (alone - labels) ** 2),
    }
    differences = {}
    for name, (metric, first, second) in parts.items():
        difference, low, high = paired_difference(metric, labels, first, second, groups, seed)
        differences[name] = {"difference": difference, "interval": [low, high]}
    return differences


def metadata_rows(metrics: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Rows of the comparison for a person to read."""
    rows = []
    for name, title in _ROWS.items():
        values = [metrics[part][name] for part in ("image_alone", "with_metadata")]
        shown = ["–" if value is None else f"{value:.4f}" for value in values]
        change = metrics["differences"].get(name)
        text = change and "{:+.4f} ({:+.4f} to {:+.4f})".format(
            change["difference"], *change["interval"]
        )
        rows.append((title, *shown, text or ""))
    return rows


def metadata_sentences(metrics: Mapping[str, Any]) -> list[str]:
    """What was known and what it shows, in plain sentences."""
    used = ", ".join(f"{name} of {count}" for name, count in metrics["used"].items())
    said = [f"{metrics['n']} images, {metrics['positives']} malignant; used: {used}."]
    change = metrics["differences"].get("roc_auc")
    if change is None:
        return [*said, "Not compared: both classes are needed, each of two patients or lesions."]
    low, high = change["interval"]
    shown = (
        "ranks better than" if low > 0 else "ranks worse than" if high < 0
        else "was not shown to rank differently from"
    )  # fmt: skip
    said.append(f"The probability with metadata {shown} that of the image alone.")
    if sets := metrics.get("sets"):
        shares = ", ".join(
            f"{name} {'–' if share is None else format(share, '.3f')}"
            for name, share in sets["coverage"].items()
        )
        said.append(
            f"Prediction sets with metadata at coverage 0.9 hold the true class of {shares}."
        )
    return said
