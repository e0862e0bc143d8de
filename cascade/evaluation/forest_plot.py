"""A forest plot: values with their intervals, one line each, around a reference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cascade.errors import DataError
from cascade.evaluation import plots

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MARKS = ((plots.BLUE, "o"), (plots.ORANGE, "s"), (plots.GREEN, "^"), (plots.PURPLE, "D"))


@dataclass(frozen=True)
class ForestRow:
    """A line of a forest plot; without a value it is the heading of the lines below it.

    Attributes:
        label: at the left, above the interval.
        value: the mark.
        interval: its 95 % limits, if there are any.
        note: at the right, above the interval.
        filled: whether the mark is filled or hollow.
        kind: which colour and mark to use, from 0.
    """

    label: str
    value: float | None = None
    interval: Sequence[float] | None = None
    note: str = ""
    filled: bool = True
    kind: int = 0


def plot_forest(
    rows: Sequence[ForestRow], path: plots.PathLike, *, title: str, across: str, reference: float
) -> Path:
    """Draw values with their intervals, one line each, around a reference.

    Args:
        rows: lines and headings, from top to bottom.
        path: the PNG to write.
        title: what is shown.
        across: label of the axis.
        reference: drawn as a dotted line, such as chance.

    Raises:
        DataError: no row has a value.
    """
    drawn = [row for row in rows if row.value is not None]
    if not drawn:
        raise DataError("a forest plot needs a value")
    figure = plots.new_figure(plots.WIDTH, 1.3 + 0.36 * len(rows))
    axes = figure.subplots()
    axes.axvline(reference, color=plots.GREY, linestyle=":", linewidth=1)
    for place, row in enumerate(rows):
        _draw_forest_row(axes, place, row)
    ends = [reference, *(row.value or 0.0 for row in drawn)]
    ends += [end for row in drawn for end in row.interval or ()]
    margin = 0.03 * ((max(ends) - min(ends)) or 1.0)
    plots.label_axes(axes, title, across, "")
    axes.set_xlim(min(ends) - margin, max(ends) + margin)
    axes.set_ylim(len(rows) - 0.4, -0.8)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    return plots.save_figure(figure, path)


def _draw_forest_row(axes: Axes, place: int, row: ForestRow) -> None:
    heading = row.value is None
    for text, across, side in ((row.label, 0.0, "left"), (row.note, 1.0, "right")):
        axes.text(
            across,
            place - (0.0 if heading else 0.33),
            text.replace("$", r"\$"),  # a dollar would start a formula
            transform=axes.get_yaxis_transform(),
            ha=side,
            va="center",
            fontsize=plots.LABEL_PT if heading else plots.SMALL_PT,
            fontweight="bold" if heading else "normal",
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5},
        )
    if row.value is not None:
        color, mark = _MARKS[row.kind % len(_MARKS)]
        low, high = row.interval or (row.value, row.value)
        axes.plot((low, high), (place, place), color=color, linewidth=1.6)
        face = color if row.filled else "white"
        axes.plot(row.value, place, mark, color=color, markerfacecolor=face, markersize=6)
