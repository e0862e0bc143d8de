"""How often a cascade's safeguards fired on labelled images, and what that was worth."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cascade.config import CLASSES
from cascade.evaluation.cases import Case, probabilities, true_labels
from cascade.metrics.classification import confusion_matrix, roc_auc
from cascade.metrics.intervals import (
    WeightedMetric,
    paired_difference,
    plan_resampling,
    share_with_interval,
    weighted_mean,
)
from cascade.metrics.segmentation import iou
from cascade.reliability import ConformalScores, describe_sets

if TYPE_CHECKING:
    from cascade.pipeline import Cascade

COVERAGES = (0.8, 0.95)
"""Coverages of sets that are measured beside the one in use."""

_NOBODY = "no image has both a class and an answer"


def safeguards_of(cascade: Cascade, cases: Sequence[Case], *, seed: int = 0) -> dict[str, Any]:
    """Measure what the cascade has to say about itself; empty if it says nothing.

    Args:
        cascade: its safeguards, the coverage in use and the classifier's operating points.
        cases: what it predicted, at least one.
        seed: seed of the bootstrap.

    Returns:
        ``mask_quality`` (left out where the classifier never uses a mask), ``conformal``,
        ``out_of_distribution`` and ``operating_points``, each only if the cascade has it.
        Intervals are 95 %; those of shares are Wilson's with patients, else lesions, else images
        as count. A number that these images cannot give is ``None``, with its reason in
        ``undefined`` beside it.
    """
    guards = cascade.safeguards
    parts: dict[str, Any] = {}
    if guards.mask_quality_limits is not None and cascade.policy.uses_mask:
        parts["mask_quality"] = _mask_quality(cases, seed)
    if guards.conformal is not None:
        parts["conformal"] = _conformal(cases, guards.conformal, cascade.coverage)
    if guards.out_of_distribution is not None:
        strange = [
            case.out_of_distribution_score is not None and case.out_of_distribution_score > 1
            for case in cases
        ]
        counted = _counted(strange, cases, "detected")
        parts["out_of_distribution"] = {
            **counted,
            "false_alarm": guards.out_of_distribution.false_alarm,
        }
    if points := getattr(cascade.classifier, "operating_points", {}):
        answered = _answered(cases)
        parts["operating_points"] = measure_operating_points(
            points,
            true_labels(answered),
            probabilities(answered),
            [case.record.group for case in answered],
        )
    return parts


def measure_operating_points(
    points: Mapping[str, float],
    labels: np.ndarray,
    scores: np.ndarray,
    groups: Sequence[str],
) -> dict[str, dict[str, Any]]:
    """What cutoffs that were chosen on validation images give on these.

    Args:
        points: target sensitivity as text, such as ``"0.90"``, to its cutoff.
        labels: ``(N,)`` int, 1 for malignant; N may be 0.
        scores: ``(N,)`` probabilities of malignant.
        groups: patient, else lesion, else image of each.

    Returns:
        For each target ``cutoff``, ``sensitivity``, ``specificity``, ``confusion_matrix``
        ``[[tn, fp], [fn, tp]]``, Wilson's ``intervals``, ``target_within_interval`` of the
        sensitivity, and ``undefined``.
    """
    measured = {}
    owners = np.array(groups, object)
    for target, cutoff in sorted(points.items(), key=lambda item: float(item[0])):
        called = scores >= cutoff
        shares = {
            name: _share(right[labels == label], owners[labels == label].tolist())
            for name, label, right in (("sensitivity", 1, called), ("specificity", 0, ~called))
        }
        found = shares["sensitivity"][1]
        measured[target] = {
            "cutoff": float(cutoff),
            **{name: value for name, (value, _) in shares.items()},
            "confusion_matrix": confusion_matrix(labels, scores, cutoff=cutoff),
            "intervals": {name: interval for name, (_, interval) in shares.items()},
            "target_within_interval": None
            if found is None
            else found[0] <= float(target) <= found[1],
            "undefined": {
                name: f"no {kind} image has an answer"
                for name, kind in zip(shares, reversed(CLASSES), strict=True)
                if shares[name][0] is None
            },
        }
    return measured


def _answered(cases: Sequence[Case]) -> list[Case]:
    return [case for case in cases if case.record.label and case.probability is not None]


def _share(
    right: np.ndarray, groups: Sequence[str]
) -> tuple[float, list[float]] | tuple[None, None]:
    return share_with_interval(right, groups) if right.size else (None, None)


def _counted(flags: Sequence[bool], cases: Sequence[Case], name: str) -> dict[str, Any]:
    """How many of all images, and their share."""
    share, interval = _share(np.array(flags, bool), [case.record.group for case in cases])
    return {"n": len(cases), name: sum(flags), "share": share, "intervals": {"share": interval}}


def _mask_quality(cases: Sequence[Case], seed: int) -> dict[str, Any]:
    """Masks of low quality; an image without any lesion has no mask that could be."""
    found = [case for case in cases if case.area_fraction]
    low_quality = [case for case in found if case.mask_issues]
    trusted = [case for case in found if not case.mask_issues]
    return {
        **_counted([bool(case.mask_issues) for case in cases], cases, "low_quality"),
        "whole_image": sum(case.masked_crop_probability is not None for case in cases),
        "no_lesion": len(cases) - len(found),
        "reasons": dict(Counter(_kind(text) for case in low_quality for text in case.mask_issues)),
        "classification": _with_and_without(_answered(cases), seed),
        "mean_iou": {"low_quality": _mean_iou(low_quality), "trusted": _mean_iou(trusted)},
    }


def _kind(reason: str) -> str:
    """A reason without its numbers: which sign, and beyond which side of the limit."""
    return re.sub(r" is [^,]+, (below|above) the limit of .*", r" is \1 the limit", reason)


def _mean_iou(cases: Sequence[Case]) -> dict[str, Any]:
    values = [iou(case.counts) for case in cases if case.counts is not None]
    return {"n": len(values), "mean_iou": float(np.mean(values)) if values else None}


def _with_and_without(cases: Sequence[Case], seed: int) -> dict[str, Any]:
    """Whole images for masks of low quality against the masked crop for all, on the same images."""
    crops = [case.masked_crop_probability for case in cases]
    labels, scores = true_labels(cases), probabilities(cases)
    of_crops = np.where([crop is None for crop in crops], scores, np.array(crops, np.float64))
    values = {
        "roc_auc": (roc_auc, scores, of_crops),
        "brier": (weighted_mean, (scores - labels) ** 2, (of_crops - labels) ** 2),
    }
    undefined = _why_undefined(cases)
    whole = np.ones((1, labels.size))
    measured: dict[str, dict[str, Any]] = {
        side: {
            name: None if name in undefined else float(metric(labels, pair[place], whole)[0])
            for name, (metric, *pair) in values.items()
        }
        for place, side in enumerate(("with_fallback", "without_fallback"))
    }
    groups = [case.record.group for case in cases]
    differences = {
        name: None
        if name in undefined or "with_minus_without" in undefined
        else _difference(metric, labels, pair, groups, seed)
        for name, (metric, *pair) in values.items()
    }
    return {
        "n": len(cases),
        **measured,
        "with_minus_without": differences,
        "undefined": undefined,
    }


def _why_undefined(cases: Sequence[Case]) -> dict[str, str]:
    """Reasons by the name of the number that these cases cannot give."""
    if not cases:
        return dict.fromkeys(("roc_auc", "brier", "with_minus_without"), _NOBODY)
    labels = true_labels(cases)
    undefined = {}
    if len(set(labels.tolist())) < 2:
        undefined["roc_auc"] = f"all {len(cases)} images are {cases[0].record.label}"
    plan = plan_resampling(labels.size, groups=[case.record.group for case in cases], strata=labels)
    if all(case.masked_crop_probability is None for case in cases):
        undefined["with_minus_without"] = "no mask of low quality was replaced by the whole image"
    elif plan.smallest_stratum < 2:
        undefined["with_minus_without"] = "a class has one group only; nothing to resample"
    return undefined


def _difference(
    metric: WeightedMetric,
    labels: np.ndarray,
    pair: Sequence[np.ndarray],
    groups: Sequence[str],
    seed: int,
) -> dict[str, Any]:
    first, second = pair
    difference, low, high = paired_difference(metric, labels, first, second, groups, seed)
    return {"difference": difference, "interval": [low, high]}


def _conformal(cases: Sequence[Case], scores: ConformalScores, asked: float) -> dict[str, Any]:
    """What the sets hold, at the coverage in use and at two others."""
    answered = _answered(cases)
    if not answered:
        return {"asked": asked, "levels": [], "undefined": {"levels": _NOBODY}}
    labels, chances = true_labels(answered), probabilities(answered)
    groups = np.array([case.record.group for case in answered], object)
    levels = []
    for coverage in sorted({*COVERAGES, asked}):
        sets = scores.prediction_set(chances, coverage)
        intervals = {}
        for label, name in enumerate(CLASSES):
            own = labels == label
            holds = np.array([name in kept for kept in sets])
            intervals[name] = _share(holds[own], groups[own].tolist())[1]
        levels.append({"asked": coverage, **describe_sets(sets, labels), "intervals": intervals})
    return {"asked": asked, "levels": levels, "undefined": {}}
