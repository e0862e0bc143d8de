"""What a cascade says about itself, as tables and as lines to read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cascade.config import CLASSES
from cascade.evaluation.html import ReportTable

SAFEGUARD_TITLE = "Mask quality, prediction sets and out-of-distribution images"
SAFEGUARD_NOTE = (
    "Limits, cutoffs and prediction sets were fitted on validation images and applied unchanged. "
    "Where mask quality fell below a second limit, the cascade classified the whole image instead "
    "of the masked crop (whole-image fallback). Shares have Wilson intervals that count patients "
    "or lesions; differences have paired bootstrap intervals."
)
NUMBER_HEADERS = ("what", "value", "95 % interval")
REASON_HEADERS = ("mask issue", "images")
SET_HEADERS = (
    "coverage asked for", "n", *(f"{name} within its set" for name in CLASSES), "abstained",
    "right where one class is left",
)  # fmt: skip
POINT_HEADERS = (
    "target on validation", "cutoff", "sensitivity here", "specificity here",
    "target within the sensitivity's interval",
)  # fmt: skip

_NAMES = {"roc_auc": "ROC AUC", "brier": "Brier score"}
_SIDES = {
    "with_fallback": "with the fallback",
    "without_fallback": "without it (the masked crop for all)",
}


def safeguard_tables(safeguards: Mapping[str, Any]) -> list[ReportTable]:
    """Tables of what there is.

    Args:
        safeguards: from :func:`cascade.evaluation.safeguard_metrics.safeguards_of`.
    """
    quality, outside = safeguards.get("mask_quality"), safeguards.get("out_of_distribution")
    sets = _set_rows(safeguards.get("conformal"))
    points = _point_rows(safeguards.get("operating_points"))
    about_masks = "Mask quality and out-of-distribution images"
    about_sets = "Prediction sets; a set of both classes is an abstention"
    about_points = "Operating points: each cutoff was chosen for a target sensitivity"
    candidates = (
        (NUMBER_HEADERS, _number_rows(quality, outside), about_masks),
        (REASON_HEADERS, _reason_rows(quality), "Mask issues; one mask may have several"),
        (SET_HEADERS, sets, about_sets),
        (POINT_HEADERS, points, about_points),
    )
    return [ReportTable(headers, rows, text) for headers, rows, text in candidates if rows]


def safeguard_lines(safeguards: Mapping[str, Any]) -> list[str]:
    """The same in a line each, for the terminal."""
    lines = []
    if quality := safeguards.get("mask_quality"):
        line = f"masks of low quality: {_count(quality, 'low_quality')}"
        line += f", whole-image fallbacks: {quality['whole_image']}"
        if change := quality["classification"]["with_minus_without"]["roc_auc"]:
            line += f"; ROC AUC with minus without the fallback {_signed(change)}"
        lines.append(line)
    lines += [
        f"prediction sets at coverage {level['asked']:g} hold "
        + " and ".join(f"{name} {_shown(level['coverage'][name])}" for name in CLASSES)
        + f"; abstained {level['abstained']:.3f}"
        for level in (safeguards.get("conformal") or {}).get("levels", [])
        if level["asked"] == safeguards["conformal"]["asked"]
    ]
    if out_of_distribution := safeguards.get("out_of_distribution"):
        lines.append(f"out-of-distribution images: {_count(out_of_distribution, 'detected')}")
    if points := safeguards.get("operating_points"):
        reached = [
            f"{target} gives {_shown(point['sensitivity'])} / {_shown(point['specificity'])}"
            for target, point in points.items()
        ]
        lines.append(f"operating points, sensitivity / specificity here: {', '.join(reached)}")
    return lines


def _number_rows(
    quality: Mapping[str, Any] | None, outside: Mapping[str, Any] | None
) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    if quality is not None:
        limits = _interval(quality, "share")
        rows.append(("masks of low quality", _count(quality, "low_quality"), limits))
        rows.append(("whole-image fallbacks among them", str(quality["whole_image"]), ""))
        rows.append(("images without any lesion", f"{quality['no_lesion']} of {quality['n']}", ""))
        for kind, part in quality["mean_iou"].items():
            if part["n"]:
                name = f"mean IoU of {kind.replace('_', '-')} masks"
                rows.append((name, f"{part['mean_iou']:.4f} (n = {part['n']})", ""))
        rows += _comparison_rows(quality["classification"])
    if outside is not None:
        name = f"out-of-distribution images (expected: {outside['false_alarm']:g})"
        rows.append((name, _count(outside, "detected"), _interval(outside, "share")))
    return rows


def _comparison_rows(compared: Mapping[str, Any]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for key, name in _NAMES.items():
        for side, title in _SIDES.items():
            shown = _shown(compared[side][key], compared["undefined"].get(key, ""))
            rows.append((f"{name} {title}", shown, ""))
        if (change := compared["with_minus_without"][key]) is not None:
            low, high = change["interval"]
            difference = f"{change['difference']:+z.4f}"
            rows.append((f"{name} with minus without", difference, f"{low:+z.4f} – {high:+z.4f}"))
        elif key not in compared["undefined"]:
            reason = compared["undefined"]["with_minus_without"]
            rows.append((f"{name} with minus without", _shown(None, reason), ""))
    return rows


def _reason_rows(quality: Mapping[str, Any] | None) -> list[tuple[str, ...]]:
    reasons = (quality or {}).get("reasons", {})
    ordered = sorted(reasons.items(), key=lambda item: (-item[1], item[0]))
    return [(reason, str(count)) for reason, count in ordered]


def _set_rows(sets: Mapping[str, Any] | None) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for level in (sets or {}).get("levels", []):
        used = " (in use)" if sets is not None and level["asked"] == sets["asked"] else ""
        held = [
            _with_interval(level["coverage"][name], level["intervals"][name]) for name in CLASSES
        ]
        right = _shown(level["accuracy_if_answered"])
        asked = f"{level['asked']:g}{used}"
        rows.append((asked, str(level["n"]), *held, f"{level['abstained']:.4f}", right))
    return rows


def _point_rows(points: Mapping[str, Any] | None) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for target, point in (points or {}).items():
        (cleared, alarms), (missed, found) = point["confusion_matrix"]
        shares = []
        for name, right, wrong in (
            ("sensitivity", found, missed),
            ("specificity", cleared, alarms),
        ):
            shown = _with_interval(point[name], point["intervals"][name])
            counts = f"; {right} of {right + wrong}" if right + wrong else ""
            shares.append(shown + counts if counts else point["undefined"][name])
        within = {True: "yes", False: "no", None: "–"}[point["target_within_interval"]]
        rows.append((target, f"{point['cutoff']:.4f}", *shares, within))
    return rows


def _count(part: Mapping[str, Any], name: str) -> str:
    return f"{part[name]} of {part['n']} ({part['share']:.4f})"


def _interval(part: Mapping[str, Any], name: str) -> str:
    low, high = part["intervals"][name]
    return f"{low:.4f} – {high:.4f}"


def _with_interval(value: float | None, interval: Sequence[float] | None) -> str:
    if value is None or interval is None:
        return "–"
    return f"{value:.4f} ({interval[0]:.4f} – {interval[1]:.4f})"


def _signed(change: Mapping[str, Any]) -> str:
    low, high = change["interval"]
    return f"{change['difference']:+z.4f} ({low:+z.4f} to {high:+z.4f})"


def _shown(value: float | None, reason: str = "") -> str:
    if value is not None:
        return f"{value:.4f}"
    return f"– ({reason})" if reason else "–"
