"""A forest plot: differences with their intervals, one line each, around zero."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cascade.errors import DataError
from cascade.evaluation.mask_mode_comparison import ModeResult, with_interval
from cascade.evaluation.plots import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    PathLike,
    _figure,
    _save,
    _tidy,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_STYLES = ((BLUE, "o"), (ORANGE, "s"), (GREEN, "^"), (PURPLE, "D"))
_STEP = 0.28
"""Distance of the lines of one mode; modes are 1 apart."""


def plot_differences(results: Sequence[ModeResult], path: PathLike) -> Path:
    """Draw each mode's difference to the whole image, one line for each kind of masks.

    Args:
        results: from :func:`cascade.evaluation.mask_mode_comparison.compare_mask_modes`; the one
            without a difference is the reference.
        path: the PNG to write.

    Raises:
        DataError: there is no reference, or nothing to compare with it.
    """
    whole = [result for result in results if result.difference is None]
    compared = [result for result in results if result.difference is not None]
    if not whole or not compared:
        raise DataError("a plot of differences needs the whole image and one more mode")
    modes = list(dict.fromkeys(result.scores.mode for result in compared))
    kinds = list(dict.fromkeys(result.scores.masks for result in compared))
    figure = _figure(7.4, 1.7 + (0.24 + _STEP * len(kinds)) * len(modes))
    axes = figure.subplots()
    axes.axvline(0, color="black", linewidth=1)
    for result in compared:
        place = kinds.index(result.scores.masks)
        height = modes.index(result.scores.mode) + (place - (len(kinds) - 1) / 2) * _STEP
        _draw(axes, result, height, *_STYLES[place % len(_STYLES)])
    reference = whole[0]
    title = (
        f"Difference in ROC AUC to the whole image ({reference.roc_auc:.3f}), 95 % paired "
        f"intervals\nn = {reference.n:,}, {reference.positives:,} malignant; filled marks: the "
        "interval excludes 0"
    )
    _tidy(axes, title, "ROC AUC of the mode minus that of the whole image", "")
    axes.set_yticks(range(len(modes)), [mode.replace("_", " ") for mode in modes], fontsize=9)
    axes.set_ylim(len(modes) - 0.5, -0.5)
    axes.grid(visible=False, axis="y")
    for border in range(1, len(modes)):
        axes.axhline(border - 0.5, color="#E3E3E3", linewidth=0.6)
    for place, kind in enumerate(kinds):
        color, marker = _STYLES[place % len(_STYLES)]
        axes.plot([], [], marker, color=color, label=f"{kind} masks")
    figure.legend(loc="outside lower center", fontsize=8, frameon=False, ncols=len(kinds))
    return _save(figure, path)


def _draw(axes: Axes, result: ModeResult, height: float, color: str, marker: str) -> None:
    difference = result.difference or 0.0
    interval = result.difference_interval
    certain = False
    if interval is not None:
        low, high = interval
        certain = not low <= 0 <= high
        axes.plot((low, high), (height, height), color=color, linewidth=1.6, solid_capstyle="butt")
    face = color if certain else "white"
    axes.plot(difference, height, marker, color=color, markerfacecolor=face, markersize=6)
    axes.annotate(
        with_interval(difference, interval, signed=True),
        (1.0, height),
        xycoords=axes.get_yaxis_transform(),
        xytext=(6, 0),
        textcoords="offset points",
        va="center",
        fontsize=8,
        color=color if certain else GREY,
    )
