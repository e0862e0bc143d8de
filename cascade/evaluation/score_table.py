"""Scores as rows of tables for page and card and as lines for the terminal.

What was averaged is named beside each number.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
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


METRIC_HEADERS = ("metric", "value", "95 % interval", "averaging")
STAGES = {"truth_mask": "truth mask", "whole_image": "whole image, no mask"}
STAGE_HEADERS = ("classifier's input", "n", "ROC AUC", "balanced accuracy", "F1",
                 "ROC AUC difference (paired 95 %)")  # fmt: skip
STAGE_TITLE = "What the predicted mask changes for the classifier"
WARNING_HEADERS = ("warning", "images")

_HEADLINES = {
    "segmentation": {"mean_iou": "mean IoU", "dice": "Dice"},
    "classification": {
        "roc_auc": "ROC AUC",
        "recall": "sensitivity at the cutoff",
        "specificity": "specificity at the cutoff",
        "ece": "calibration error",
    },
    "diagnoses": {"balanced_accuracy": "balanced accuracy of the diagnoses"},
    "corruptions": {
        "iou_fall": "fall of the mean IoU under corruptions",
        "auc_fall": "fall of the ROC AUC under corruptions",
    },
}


@dataclass(frozen=True)
class Headline:
    """A number that a reader wants first.

    Attributes:
        part: ``segmentation``, ``classification``, ``diagnoses`` or ``corruptions``.
        title: what it is.
        n: number of images.
        value: the number.
        interval: its 95 % limits, if there are any.
    """

    part: str
    title: str
    n: int
    value: float
    interval: Sequence[float] | None


def headlines(metrics: Mapping[str, Any]) -> list[Headline]:
    """The numbers to show first, of what was measured and is defined."""
    found = []
    for part, titles in _HEADLINES.items():
        scores = metrics.get(part) or {}
        for key, title in titles.items():
            if (value := scores.get(key)) is not None:
                limits = scores.get("intervals", {}).get(key)
                found.append(Headline(part, title, scores["n"], value, limits))
    return found


def score_text(value: float | None, interval: Sequence[float] | None = None) -> str:
    """A score with its interval, such as ``0.872 (0.836–0.906)`` or ``0.012 (-0.004 to 0.031)``."""
    if value is None:
        return "–"
    return f"{value:z.3f} ({range_text(interval)})" if interval else f"{value:z.3f}"


def range_text(interval: Sequence[float]) -> str:
    """Limits with three digits, such as ``0.836–0.906`` or ``-0.004 to 0.031``."""
    to = "–" if interval[0] >= 0 else " to "  # a dash between signs is not seen
    return f"{interval[0]:z.3f}{to}{interval[1]:z.3f}"


def limits_text(interval: Sequence[float] | None) -> str:
    """Limits with four digits, such as ``0.8360 – 0.9060``; empty without any."""
    return f"{interval[0]:.4f} – {interval[1]:.4f}" if interval else ""


def metric_rows(
    metrics: Mapping[str, Any], titles: Mapping[str, tuple[str, str]]
) -> list[tuple[str, str, str, str]]:
    """Rows of name, value, 95 % interval and averaging for a person to read."""
    rows = []
    for key, (title, averaging) in titles.items():
        value, interval = metrics[key], metrics["intervals"].get(key)
        reason = metrics.get("undefined", {}).get(key, "undefined")
        shown = f"{value:.4f}" if value is not None else f"– ({reason})"
        rows.append((title, shown, limits_text(interval), averaging))
    return rows


def stage_rows(stages: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """What each choice of mask gives on the images that allow it."""
    rows = []
    for key, title in STAGES.items():
        if key not in stages:
            continue
        other = stages[key]
        for name, metrics in (("predicted mask", other["predicted_mask"]), (title, other)):
            values = [metrics[metric] for metric in ("roc_auc", "balanced_accuracy", "f1")]
            shown = ["–" if value is None else f"{value:.4f}" for value in values]
            row = (name, str(metrics["n"]), *shown, "")
            rows += [] if row in rows else [row]  # the same images were compared before
        if (change := other.get("predicted_minus_this_roc_auc")) is not None:
            low, high = change["interval"]
            text = f"{change['difference']:+z.4f} ({low:+z.4f} – {high:+z.4f})"
            rows.append((f"predicted mask minus {title}", "", "", "", "", text))
    return rows


def warning_rows(warnings: Iterable[str], *, most: int | None = None) -> list[tuple[str, str]]:
    """How many images have each warning, the most frequent first."""
    counts = sorted(Counter(warnings).items(), key=lambda item: (-item[1], item[0]))
    return [(text, str(count)) for text, count in counts[:most]]


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
    return lines


def _head(title: str, metrics: Mapping[str, Any], resamples: int) -> list[str]:
    how = f"95 % intervals: {resamples} bootstrap resamples of {metrics['n_groups']} groups"
    return [title, how, ""]


def _rows(metrics: Mapping[str, Any], titles: Mapping[str, tuple[str, str]]) -> list[str]:
    return [
        f"{title:<24}{shown:>8}  {limits.replace('–', 'to'):<18}{averaging}"
        for title, shown, limits, averaging in metric_rows(metrics, titles)
    ]


def markdown_table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; bars, line ends and angle brackets in cells cannot break it."""
    lines = [
        list(headers),
        ["---"] * len(headers),
        *([markdown_text(c) for c in row] for row in rows),
    ]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def markdown_text(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    flat = " ".join(text.split())
    for character, replacement in (
        ("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("\\", "\\\\"), ("|", "\\|"), ("[", "\\["),
        ("`", "\\`"),
    ):  # fmt: skip
        flat = flat.replace(character, replacement)
    return flat
