"""Figures from numbers: each function takes finished numbers and writes one PNG.

Colours are those of Okabe and Ito, which stay apart for colour-blind readers; lines also differ in
style. Nothing here touches matplotlib's global state, so it is safe in threads and notebooks.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cascade.config import CLASSES
from cascade.errors import DataError
from cascade.files import atomic_path
from cascade.metrics.curves import (
    PrecisionRecallCurve,
    ReliabilityBins,
    RocBand,
    RocCurve,
    precision_recall_points,
    reliability_bins,
    roc_band,
    roc_curve_points,
)
from cascade.metrics.segmentation import IOU_LIMIT

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, PURPLE, GREY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#6B6B6B"
_LINES = ((BLUE, "-"), (ORANGE, "--"), (GREEN, "-."), (PURPLE, ":"), ("#000000", "-"))
_DPI = 160

PathLike = str | os.PathLike[str]


def _figure(width: float, height: float) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _save(figure: Figure, path: PathLike) -> Path:
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": None})
    return Path(path)


def _tidy(axes: Axes, title: str, across: str, up: str) -> None:
    axes.set_title(title, fontsize=10, loc="left")
    axes.set_xlabel(across, fontsize=9)
    axes.set_ylabel(up, fontsize=9)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#E3E3E3", linewidth=0.6)
    axes.set_axisbelow(True)


def _legend(axes: Axes, **options: Any) -> None:
    axes.legend(fontsize=8, frameon=False, handlelength=2.6, **options)


def _score_text(metrics: Mapping[str, Any], name: str) -> str:
    """A score with its interval, such as ``0.872 (0.836–0.906)``."""
    if metrics.get(name) is None:
        return "undefined"
    interval = metrics.get("intervals", {}).get(name)
    return f"{metrics[name]:.3f}" + (f" ({interval[0]:.3f}–{interval[1]:.3f})" if interval else "")


def _counts_text(metrics: Mapping[str, Any]) -> str:
    text = f"n = {metrics['n']:,}"
    return f"{text}, {metrics['positives']:,} malignant" if "positives" in metrics else text


def plot_confusion_matrix(metrics: Mapping[str, Any], path: PathLike) -> Path:
    """Draw counts and, beside them, shares of each true class.

    Args:
        metrics: from :func:`cascade.metrics.classification.classification_metrics`.
        path: the PNG to write.
    """
    counts = np.array(metrics["confusion_matrix"])
    totals = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, totals, out=np.zeros(counts.shape), where=totals > 0)
    figure = _figure(6.6, 3.5)
    figure.suptitle(
        f"Confusion matrix at cutoff {metrics['cutoff']:.3g}: {_counts_text(metrics)}\n"
        f"accuracy {_score_text(metrics, 'accuracy')}",
        fontsize=10,
    )
    left, right = figure.subplots(1, 2)
    _draw_matrix(left, shares, [[f"{cell:,}" for cell in row] for row in counts], "images")
    known = [bool(total) for total in totals]
    texts = [
        [f"{cell:.1%}" if known[row] else "no image" for cell in shares[row]] for row in (0, 1)
    ]
    _draw_matrix(right, shares, texts, "share of the true class")
    return _save(figure, path)


def _draw_matrix(axes: Axes, shares: np.ndarray, texts: list[list[str]], title: str) -> None:
    axes.imshow(shares, cmap="Blues", vmin=0.0, vmax=1.0)
    axes.set_title(title, fontsize=9)
    axes.set_xticks((0, 1), CLASSES, fontsize=9)
    axes.set_yticks((0, 1), CLASSES, fontsize=9, rotation=90, va="center")
    axes.set_xlabel("called", fontsize=9)
    axes.set_ylabel("truth", fontsize=9)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    for row in (0, 1):
        for column in (0, 1):
            color = "white" if shares[row, column] > 0.5 else "black"
            text = texts[row][column]
            axes.text(column, row, text, ha="center", va="center", color=color, fontsize=13)


def plot_roc(
    curve: RocCurve, metrics: Mapping[str, Any], path: PathLike, *, band: RocBand | None = None
) -> Path:
    """Draw a ROC curve with its bootstrap band and the point at the cutoff.

    Args:
        curve: from :func:`cascade.metrics.curves.roc_curve_points`.
        metrics: the same images' metrics, for the title and the point.
        path: the PNG to write.
        band: from :func:`cascade.metrics.curves.roc_band`.
    """
    figure = _figure(4.6, 4.6)
    axes = figure.subplots()
    axes.plot((0, 1), (0, 1), color=GREY, linestyle=":", linewidth=1, label="chance")
    if band is not None:
        axes.fill_between(
            band.false_positive_rate,
            band.low,
            band.high,
            color=BLUE,
            alpha=0.18,
            linewidth=0,
            label="95 % band",
        )
    axes.plot(curve.false_positive_rate, curve.true_positive_rate, color=BLUE, label="classifier")
    if metrics["recall"] is not None and metrics["specificity"] is not None:
        point = (1 - metrics["specificity"], metrics["recall"])
        label = f"cutoff {metrics['cutoff']:.3g}"
        axes.plot(*point, "o", color=ORANGE, markeredgecolor="white", markersize=8, label=label)
    _unit_square(axes)
    title = f"ROC: AUC {_score_text(metrics, 'roc_auc')}\n{_counts_text(metrics)}"
    _tidy(axes, title, "false positive rate (1 − specificity)", "true positive rate (sensitivity)")
    _legend(axes, loc="lower right")
    return _save(figure, path)


def _unit_square(axes: Axes) -> None:
    axes.set_aspect("equal")
    axes.set_xlim(-0.01, 1.01)
    axes.set_ylim(-0.01, 1.01)


def plot_precision_recall(
    curve: PrecisionRecallCurve, metrics: Mapping[str, Any], path: PathLike
) -> Path:
    """Draw a precision-recall curve as steps, as average precision sums it.

    Args:
        curve: from :func:`cascade.metrics.curves.precision_recall_points`.
        metrics: the same images' metrics, for the title and the point.
        path: the PNG to write.
    """
    figure = _figure(4.6, 4.6)
    axes = figure.subplots()
    chance = f"chance ({curve.prevalence:.3f})"
    axes.axhline(curve.prevalence, color=GREY, linestyle=":", linewidth=1, label=chance)
    recall = np.r_[0.0, curve.recall]
    precision = np.r_[curve.precision[:1], curve.precision]
    axes.step(recall, precision, where="pre", color=BLUE, label="classifier")
    if metrics["precision"] is not None:
        point = (metrics["recall"], metrics["precision"])
        label = f"cutoff {metrics['cutoff']:.3g}"
        axes.plot(*point, "o", color=ORANGE, markeredgecolor="white", markersize=8, label=label)
    _unit_square(axes)
    score = _score_text(metrics, "average_precision")
    title = f"Precision-recall: average precision {score}\n{_counts_text(metrics)}"
    _tidy(axes, title, "recall (sensitivity)", "precision")
    _legend(axes, loc="best")
    return _save(figure, path)


def plot_reliability(bins: ReliabilityBins, metrics: Mapping[str, Any], path: PathLike) -> Path:
    """Draw what the classifier said against what was true, and how many images each bin holds.

    Args:
        bins: from :func:`cascade.metrics.curves.reliability_bins`.
        metrics: the same images' metrics, for the title.
        path: the PNG to write.
    """
    figure = _figure(4.6, 5.4)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    upper.plot((0, 1), (0, 1), color=GREY, linestyle=":", linewidth=1, label="perfect")
    filled = bins.counts > 0
    upper.plot(
        bins.mean_probability[filled],
        bins.frequency[filled],
        "o-",
        color=BLUE,
        markersize=5,
        label="classifier, one point a bin",
    )
    upper.set_ylim(-0.02, 1.02)
    upper.set_xlim(-0.01, 1.01)
    title = (
        f"Reliability: ECE {_score_text(metrics, 'ece')}\n"
        f"Brier {_score_text(metrics, 'brier')}, {_counts_text(metrics)}"
    )
    _tidy(upper, title, "", "share that is malignant")
    _legend(upper, loc="upper left")
    middles, width = (bins.edges[:-1] + bins.edges[1:]) / 2, bins.edges[1] * 0.9
    lower.bar(middles, bins.counts, width=width, color=BLUE)
    lower.set_yscale("symlog", linthresh=10)
    lower.set_ylim(0, max(10, bins.counts.max() * 2))
    _tidy(lower, "", "probability of malignant", "images (log)")
    return _save(figure, path)


def plot_iou_histogram(values: Sequence[float], metrics: Mapping[str, Any], path: PathLike) -> Path:
    """Draw how many images reach which IoU, with the limit of the thresholded score.

    Args:
        values: IoU of each image, zeros included.
        metrics: from :func:`cascade.metrics.segmentation.segmentation_metrics`.
        path: the PNG to write.
    """
    figure = _figure(6.0, 3.8)
    axes = figure.subplots()
    edges = np.linspace(0.0, 1.0, 41)
    heights, _ = np.histogram(values, edges)
    below = edges[:-1] < IOU_LIMIT - 1e-9
    colors = np.where(below, ORANGE, BLUE)
    axes.bar(
        edges[:-1], heights, width=0.025, align="edge", color=colors, edgecolor="white", lw=0.4
    )
    failed = int(np.sum(np.asarray(values) < IOU_LIMIT))
    label = f"{IOU_LIMIT}: {failed:,} of {len(values):,} below count as 0"
    axes.axvline(IOU_LIMIT, color="black", linestyle="--", linewidth=1, label=label)
    mean = f"mean {metrics['mean_iou']:.3f}"
    axes.axvline(metrics["mean_iou"], color=GREEN, linestyle="-", linewidth=1.4, label=mean)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.28 * heights.max())  # room for the legend above a bar of misses
    title = (
        f"IoU of each image: mean {_score_text(metrics, 'mean_iou')},\n"
        f"thresholded {_score_text(metrics, 'mean_thresholded_iou')}\n"
        f"{_counts_text(metrics)}, {metrics['missed']:,} missed (IoU 0)"
    )
    _tidy(axes, title, "IoU with the truth", "images")
    _legend(axes, loc="upper left")
    return _save(figure, path)


def plot_history(history: Mapping[str, Sequence[float | None]], path: PathLike) -> Path:
    """Draw training curves: losses, scores in [0, 1], and each other column by itself.

    Args:
        history: column to its value per epoch, ``None`` where there is none: ``epoch``,
            ``train_loss``, ``validation_loss``, ``learning_rate`` and any metrics; see
            :func:`read_history`.
        path: the PNG to write.

    Raises:
        DataError: there is no ``epoch`` column or nothing else to draw.
    """
    if "epoch" not in history or len(history) < 2 or not history["epoch"]:
        raise DataError("a history needs the column epoch, another one and at least one row")
    columns = {
        name: np.array([math.nan if value is None else value for value in values], np.float64)
        for name, values in history.items()
    }
    panels = _panels({name: values for name, values in columns.items() if name != "epoch"})
    wide = min(3, len(panels))
    figure = _figure(3.6 * wide, 3.0 * math.ceil(len(panels) / wide))
    grid = figure.subplots(math.ceil(len(panels) / wide), wide, squeeze=False).ravel()
    for axes, (title, names) in zip(grid, panels.items(), strict=False):
        for (color, line), name in zip(_LINES * len(names), names, strict=False):
            label = name.replace("_", " ")
            marker = "o" if len(columns["epoch"]) < 2 else None
            axes.plot(
                columns["epoch"],
                columns[name],
                line,
                color=color,
                label=label,
                marker=marker,
                lw=1.5,
            )
        _tidy(axes, title if len(names) > 1 else names[0].replace("_", " "), "epoch", "")
        axes.xaxis.get_major_locator().set_params(integer=True)
        if len(names) > 1:
            _legend(axes, loc="best")
    for axes in grid[len(panels) :]:
        axes.set_visible(False)
    return _save(figure, path)


def _panels(columns: Mapping[str, np.ndarray]) -> dict[str, list[str]]:
    """Which columns share a panel, by the panel's title."""
    losses = [name for name in columns if name.endswith("loss")]
    scores = [
        name
        for name, values in columns.items()
        if name not in losses and name != "learning_rate" and _within_unit(values)
    ]
    panels = {"loss": losses, "scores": scores}
    for name in columns:
        if name not in losses and name not in scores:
            panels[name.replace("_", " ")] = [name]
    return {title: names for title, names in panels.items() if names}


def _within_unit(values: np.ndarray) -> bool:
    known = values[np.isfinite(values)]
    return bool(known.size) and bool(((known >= 0) & (known <= 1)).all())


def read_history(path: PathLike) -> dict[str, list[float | None]]:
    """Read the ``history.csv`` of a training; columns without any number are left out."""
    from cascade.data.tables import read_csv

    columns, rows = read_csv(path)
    table = {name: [_number(row[name]) for row in rows] for name in columns}
    return {
        name: values for name, values in table.items() if any(value is not None for value in values)
    }


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def plot_classification(
    labels: np.ndarray,
    probabilities: np.ndarray,
    metrics: Mapping[str, Any],
    folder: PathLike,
    *,
    groups: Sequence[str | None] | None = None,
    seed: int = 0,
) -> list[Path]:
    """Write each figure that these scores allow; curves need both classes.

    Args:
        labels: ``(N,)`` int, 1 for malignant.
        probabilities: ``(N,)`` float of malignant.
        metrics: their metrics.
        folder: where the PNG files go.
        groups: patient, else lesion, of each image, for the band.
        seed: seed of the band's bootstrap.

    Returns:
        The files written.
    """
    folder = Path(folder)
    bins = reliability_bins(labels, probabilities)
    paths = [
        plot_confusion_matrix(metrics, folder / "confusion_matrix.png"),
        plot_reliability(bins, metrics, folder / "reliability.png"),
    ]
    if metrics["roc_auc"] is not None:
        certain = metrics["intervals"]["roc_auc"] is not None
        band = roc_band(labels, probabilities, groups=groups, seed=seed) if certain else None
        curve = roc_curve_points(labels, probabilities)
        steps = precision_recall_points(labels, probabilities)
        paths += [
            plot_roc(curve, metrics, folder / "roc.png", band=band),
            plot_precision_recall(steps, metrics, folder / "precision_recall.png"),
        ]
    return paths
