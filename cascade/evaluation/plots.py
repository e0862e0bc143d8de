"""Figures from numbers: each function takes finished numbers and writes one PNG.

Colours are those of Okabe and Ito, which stay apart for colour-blind readers; lines also differ in
style. A figure is so narrow that its text stays readable on a telephone. Nothing here touches
matplotlib's global state, so it is safe in threads and notebooks.
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
from cascade.evaluation.score_table import score_text
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
WIDTH, _DPI = 4.0, 200
LABEL_PT, SMALL_PT = 10, 9

PathLike = str | os.PathLike[str]


def new_figure(width: float, height: float) -> Figure:
    """A figure of so many inches, apart from matplotlib's global state."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Figure, path: PathLike) -> Path:
    """Write a figure as PNG; the same figure gives the same bytes."""
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": None})
    return Path(path)


def label_axes(axes: Axes, title: str, across: str, up: str) -> None:
    """Give axes their texts, and the look that all figures share."""
    axes.set_title(title, fontsize=LABEL_PT, loc="left")
    axes.set_xlabel(across, fontsize=LABEL_PT)
    axes.set_ylabel(up, fontsize=LABEL_PT)
    axes.tick_params(labelsize=SMALL_PT)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#E3E3E3", linewidth=0.6)
    axes.set_axisbelow(True)


def _legend(axes: Axes, **options: Any) -> None:
    axes.legend(fontsize=SMALL_PT, frameon=False, handlelength=2.2, **options)


def _unit_square(axes: Axes) -> None:
    axes.set_aspect("equal")
    axes.set_xlim(-0.01, 1.01)
    axes.set_ylim(-0.01, 1.01)


def _mark_cutoff(axes: Axes, point: tuple[float, float], cutoff: float) -> None:
    label = f"cutoff {cutoff:.3g}"
    axes.plot(*point, "o", color=ORANGE, markeredgecolor="white", markersize=8, label=label)


def _score(metrics: Mapping[str, Any], name: str) -> str:
    return score_text(metrics.get(name), metrics.get("intervals", {}).get(name))


def _counts(metrics: Mapping[str, Any]) -> str:
    text = f"n = {metrics['n']:,}"
    return f"{text}, {metrics['positives']:,} malignant" if "positives" in metrics else text


def plot_confusion_matrix(metrics: Mapping[str, Any], path: PathLike) -> Path:
    """Draw counts, and below each its share of the true class.

    Args:
        metrics: from :func:`cascade.metrics.classification.classification_metrics`.
        path: the PNG to write.
    """
    counts = np.array(metrics["confusion_matrix"])
    totals = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, totals, out=np.zeros(counts.shape), where=totals > 0)
    figure = new_figure(WIDTH, 4.0)
    axes = figure.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0.0, vmax=1.0)
    title = f"Confusion matrix at cutoff {metrics['cutoff']:.3g}\n{_counts(metrics)}"
    label_axes(axes, title, "predicted class", "true class")
    axes.set_xticks((0, 1), CLASSES)
    axes.set_yticks((0, 1), CLASSES, rotation=90, va="center")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.grid(visible=False)
    for row, column in np.ndindex(counts.shape):
        share = f"{shares[row, column]:.1%} of {CLASSES[row]}" if totals[row] else "no image"
        color = "white" if shares[row, column] > 0.5 else "black"
        for text, down, size in ((f"{counts[row, column]:,}", -0.08, 15), (share, 0.18, SMALL_PT)):
            place = (column, row + down)
            axes.text(*place, text, ha="center", va="center", color=color, fontsize=size)
    return save_figure(figure, path)


def plot_counts(counts: np.ndarray, names: Sequence[str], title: str, path: PathLike) -> Path:
    """Draw a confusion matrix of several classes, each cell by its share of the true class.

    Args:
        counts: ``(K, K)``: rows are the truth, columns what was named.
        names: of the K classes.
        title: what the figure says.
        path: the PNG to write.
    """
    totals = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, totals, out=np.zeros(counts.shape), where=totals > 0)
    side = 2.2 + 0.6 * len(names)
    figure = new_figure(max(WIDTH, side), max(WIDTH, side))
    axes = figure.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0.0, vmax=1.0)
    label_axes(axes, title, "named diagnosis", "true diagnosis")
    axes.set_xticks(range(len(names)), names, rotation=40, ha="right")
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.grid(visible=False)
    for row, column in np.ndindex(counts.shape):
        color = "white" if shares[row, column] > 0.5 else "black"
        style: dict[str, Any] = {"ha": "center", "va": "center", "color": color}
        axes.text(column, row, f"{counts[row, column]:,}", fontsize=SMALL_PT, **style)
    return save_figure(figure, path)


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
    figure = new_figure(WIDTH, 4.4)
    axes = figure.subplots()
    axes.plot((0, 1), (0, 1), color=GREY, linestyle=":", linewidth=1, label="chance")
    if band is not None:
        rates = band.false_positive_rate
        style: dict[str, Any] = {"color": BLUE, "alpha": 0.18, "linewidth": 0}
        axes.fill_between(rates, band.low, band.high, label="95 % band", **style)
    axes.plot(curve.false_positive_rate, curve.true_positive_rate, color=BLUE, label="classifier")
    if metrics["recall"] is not None and metrics["specificity"] is not None:
        _mark_cutoff(axes, (1 - metrics["specificity"], metrics["recall"]), metrics["cutoff"])
    _unit_square(axes)
    title = f"ROC curve: AUC {_score(metrics, 'roc_auc')}\n{_counts(metrics)}"
    label_axes(
        axes, title, "false positive rate (1 − specificity)", "true positive rate (sensitivity)"
    )
    _legend(axes, loc="lower right")
    return save_figure(figure, path)


def plot_precision_recall(
    curve: PrecisionRecallCurve, metrics: Mapping[str, Any], path: PathLike
) -> Path:
    """Draw a precision-recall curve as steps, as average precision sums it.

    Args:
        curve: from :func:`cascade.metrics.curves.precision_recall_points`.
        metrics: the same images' metrics, for the title and the point.
        path: the PNG to write.
    """
    figure = new_figure(WIDTH, 4.6)
    axes = figure.subplots()
    chance = f"chance ({curve.prevalence:.3f})"
    axes.axhline(curve.prevalence, color=GREY, linestyle=":", linewidth=1, label=chance)
    recall = np.r_[0.0, curve.recall]
    precision = np.r_[curve.precision[:1], curve.precision]
    axes.step(recall, precision, where="pre", color=BLUE, label="classifier")
    if metrics["precision"] is not None:
        _mark_cutoff(axes, (metrics["recall"], metrics["precision"]), metrics["cutoff"])
    _unit_square(axes)
    score = _score(metrics, "average_precision")
    title = f"Precision-recall curve\naverage precision {score}\n{_counts(metrics)}"
    label_axes(axes, title, "recall (sensitivity)", "precision")
    _legend(axes, loc="best")
    return save_figure(figure, path)


def plot_reliability(bins: ReliabilityBins, metrics: Mapping[str, Any], path: PathLike) -> Path:
    """Draw what the classifier said against what was true, and how many images each bin holds.

    Args:
        bins: from :func:`cascade.metrics.curves.reliability_bins`.
        metrics: the same images' metrics, for the title.
        path: the PNG to write.
    """
    figure = new_figure(WIDTH, 5.2)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    upper.plot((0, 1), (0, 1), color=GREY, linestyle=":", linewidth=1, label="perfect calibration")
    filled = bins.counts > 0
    points = (bins.mean_probability[filled], bins.frequency[filled])
    upper.plot(*points, "o-", color=BLUE, markersize=5, label="classifier, one point a bin")
    upper.set_ylim(-0.02, 1.32)  # room for the legend above the points
    upper.set_yticks(np.linspace(0.0, 1.0, 6))
    upper.set_xlim(-0.01, 1.01)
    error = _score(metrics, "ece")
    title = (
        f"Calibration: error {error}\nBrier score {_score(metrics, 'brier')}\n{_counts(metrics)}"
    )
    label_axes(upper, title, "", "share that is malignant")
    _legend(upper, loc="upper left")
    middles, width = (bins.edges[:-1] + bins.edges[1:]) / 2, bins.edges[1] * 0.9
    lower.bar(middles, bins.counts, width=width, color=BLUE)
    lower.set_yscale("symlog", linthresh=10)
    lower.yaxis.set_major_formatter("{x:.0f}")
    lower.set_ylim(0, max(10, bins.counts.max() * 2))
    label_axes(lower, "", "predicted probability of malignant", "images (log)")
    return save_figure(figure, path)


def plot_iou_histogram(values: Sequence[float], metrics: Mapping[str, Any], path: PathLike) -> Path:
    """Draw how many images reach which IoU, with the limit of the thresholded score.

    Args:
        values: IoU of each image, zeros included.
        metrics: from :func:`cascade.metrics.segmentation.segmentation_metrics`.
        path: the PNG to write.
    """
    figure = new_figure(WIDTH, 3.9)
    axes = figure.subplots()
    edges = np.linspace(0.0, 1.0, 41)
    heights, _ = np.histogram(values, edges)
    colors = np.where(edges[:-1] < IOU_LIMIT - 1e-9, ORANGE, BLUE)
    style: dict[str, Any] = {"width": 0.025, "align": "edge", "edgecolor": "white", "lw": 0.4}
    axes.bar(edges[:-1], heights, color=colors, **style)
    failed = int(np.sum(np.asarray(values) < IOU_LIMIT))
    label = f"{IOU_LIMIT}: {failed:,} of {len(values):,} are below"
    axes.axvline(IOU_LIMIT, color="black", linestyle="--", linewidth=1, label=label)
    mean = f"mean {metrics['mean_iou']:.3f}"
    axes.axvline(metrics["mean_iou"], color=GREEN, linestyle="-", linewidth=1.4, label=mean)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.35 * heights.max())  # room for the legend above a bar of misses
    title = (
        f"IoU of each image: mean {_score(metrics, 'mean_iou')}\n"
        f"{_counts(metrics)}, {metrics['missed']:,} missed (IoU 0)"
    )
    label_axes(axes, title, "IoU of the predicted with the human mask", "images")
    _legend(axes, loc="upper left")
    return save_figure(figure, path)


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
    columns = {name: np.array(values, np.float64) for name, values in history.items()}
    epochs = columns.pop("epoch")
    panels = _panels(columns)
    across = min(2, len(panels))
    down = math.ceil(len(panels) / across)
    figure = new_figure(WIDTH * across, 3.2 * down)
    grid = figure.subplots(down, across, squeeze=False).ravel()
    for axes, (title, names) in zip(grid, panels.items(), strict=False):
        for (color, line), name in zip(_LINES * len(names), names, strict=False):
            marker, label = "o" if len(epochs) < 2 else None, name.replace("_", " ")
            axes.plot(epochs, columns[name], line, color=color, label=label, marker=marker, lw=1.5)
        label_axes(axes, title, "epoch", "")
        axes.xaxis.get_major_locator().set_params(integer=True)
        if len(names) > 1:
            _legend(axes, loc="best")
    for axes in grid[len(panels) :]:
        axes.set_visible(False)
    return save_figure(figure, path)


def _panels(columns: Mapping[str, np.ndarray]) -> dict[str, list[str]]:
    """Which columns share a panel, by the panel's title."""
    panels: dict[str, list[str]] = {"loss": [], "scores": []}
    for name, values in columns.items():
        known = values[np.isfinite(values)]
        title = name.replace("_", " ")
        if name.endswith("loss"):
            title = "loss"
        elif name != "learning_rate" and known.size and known.min() >= 0 and known.max() <= 1:
            title = "scores"
        panels.setdefault(title, []).append(name)
    return {title: names for title, names in panels.items() if names}


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
