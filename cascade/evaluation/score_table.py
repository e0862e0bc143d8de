"""Scores as lines of text, with what was averaged named beside each number."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cascade.metrics.intervals import RESAMPLES

_OVER_IMAGES = "mean over images"
SEGMENTATION_ROWS = {
    "mean_iou": ("mean IoU", f"{_OVER_IMAGES}; ranks ISIC 2016 and 2017"),
    "mean_thresholded_iou": (
        "mean thresholded IoU",
        f"{_OVER_IMAGES}, below 0.65 counts as 0; ranks ISIC 2018",
    ),
    "pooled_iou": ("pooled IoU", "lesion pixels of all images together"),
    "two_class_iou": ("two-class IoU", "mean of the pooled IoU of lesion and of skin"),
    "dice": ("Dice", _OVER_IMAGES),
    "sensitivity": ("sensitivity", _OVER_IMAGES),
    "specificity": ("specificity", _OVER_IMAGES),
    "accuracy": ("pixel accuracy", _OVER_IMAGES),
}
"""Title and averaging of each segmentation score, in the order to show them."""

_AT_CUTOFF = "malignant from the cutoff on"
CLASSIFICATION_ROWS = {
    "roc_auc": ("ROC AUC", "all cutoffs"),
    "average_precision": ("average precision", "all cutoffs, malignant"),
    "auc_at_sensitivity_80": ("AUC at sensitivity 0.8", "under the ROC from there on; perfect 1.0"),
    "partial_auc_above_sensitivity_80": (
        "partial AUC above 0.8",
        "between the ROC and that line; perfect 0.2, chance 0.02",
    ),
    "accuracy": ("accuracy", _AT_CUTOFF),
    "balanced_accuracy": ("balanced accuracy", "mean over classes, the likelier class, ties wrong"),
    "recall": ("sensitivity (recall)", _AT_CUTOFF),
    "specificity": ("specificity", _AT_CUTOFF),
    "precision": ("precision", _AT_CUTOFF),
    "f1": ("F1", f"{_AT_CUTOFF}, malignant class"),
    "macro_f1": ("macro F1", f"{_AT_CUTOFF}, mean over classes"),
    "brier": ("Brier score", "mean squared error, malignant; 0 is best"),
    "ece": ("calibration error", "15 equal-width bins; 0 is best"),
    "log_loss": ("log loss", f"{_OVER_IMAGES}; 0 is best"),
}
"""Title and averaging of each classification score, in the order to show them."""


def segmentation_lines(metrics: Mapping[str, Any], *, resamples: int = RESAMPLES) -> list[str]:
    """Lay out what :func:`cascade.metrics.segmentation.segmentation_metrics` returns."""
    lines = _head(f"{metrics['n']} images", metrics, resamples)
    lines += _rows(metrics, SEGMENTATION_ROWS)
    lines.append(f"missed lesions: {metrics['missed']} with IoU 0, counted above")
    if metrics["both_empty"]:
        lines.append(f"empty in truth and prediction: {metrics['both_empty']}, counted as 1")
    return lines


def classification_lines(metrics: Mapping[str, Any], *, resamples: int = RESAMPLES) -> list[str]:
    """Lay out what :func:`cascade.metrics.classification.classification_metrics` returns."""
    title = f"{metrics['n']} images, {metrics['positives']} malignant, cutoff {metrics['cutoff']:g}"
    lines = _head(title, metrics, resamples) + _rows(metrics, CLASSIFICATION_ROWS)
    for name, counts in zip(("benign", "malignant"), metrics["confusion_matrix"], strict=True):
        lines.append(f"{name + ':':<11}{counts[0]} called benign, {counts[1]} called malignant")
    lines += [f"{name} is undefined: {reason}" for name, reason in metrics["undefined"].items()]
    return lines


def _head(title: str, metrics: Mapping[str, Any], resamples: int) -> list[str]:
    how = f"95 % intervals: {resamples} bootstrap resamples of {metrics['n_groups']} groups"
    return [title, how, ""]


def _rows(metrics: Mapping[str, Any], rows: Mapping[str, tuple[str, str]]) -> list[str]:
    lines = []
    for name, (title, averaging) in rows.items():
        value, interval = metrics[name], metrics["intervals"][name]
        number = "-" if value is None else f"{value:.4f}"
        limits = f"{interval[0]:.4f} to {interval[1]:.4f}" if interval else ""
        lines.append(f"{title:<24}{number:>8}  {limits:<18}{averaging}")
    return lines
