"""The scores under each corruption as a table, a plot and a section of the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cascade.data.corruptions import CORRUPTIONS, STRENGTHS
from cascade.evaluation import plots
from cascade.evaluation.html import ReportFigure, ReportSection, ReportTable
from cascade.evaluation.overlays import fitted
from cascade.evaluation.score_table import score_text
from cascade.files import write_csv
from cascade.imaging import encode_jpeg, read_image
from cascade.robustness.trial import changed_images

if TYPE_CHECKING:
    from cascade.data.tables import Record

TITLE = "Robustness: the same images, corrupted"
NOTE = (
    "Each image was predicted again with {count} corruptions at {strengths} strengths. A fall is "
    "the score of the unchanged images minus that of the corrupted ones, with paired 95 % "
    "intervals over patients or lesions; the last line is the mean over all. Corruptions are "
    "drawn: they stand for other clinics and cameras, and do not replace images from there."
)
HEADERS = (
    "corruption", "strength", "mean IoU", "fall", "ROC AUC", "fall", "sensitivity", "specificity"
)  # fmt: skip
_TILE_PX = 220
_COLUMNS = (
    "corruption", "strength", "amount", "mean_iou", "iou_fall", "iou_fall_low", "iou_fall_high",
    "roc_auc", "auc_fall", "auc_fall_low", "auc_fall_high", "sensitivity", "specificity",
    "unanswered",
)  # fmt: skip
_FALLS = {"iou_fall": "mean IoU", "auc_fall": "ROC AUC"}


def corruption_section(
    folder: Path, scores: Mapping[str, Any], example: Record, *, seed: int
) -> ReportSection:
    """Write ``corruptions.csv`` and ``corruptions.png``; returns the page's section.

    Args:
        folder: where the files go.
        scores: from :func:`cascade.robustness.corrupted_scores`.
        example: an image that shows what the corruptions do.
        seed: that of the scores.
    """
    rows = scores["rows"]
    falls = {name: scores[name] for name in (*_FALLS, "intervals")}
    mean = {"corruption": "mean", "strength": "all", **falls}
    write_csv(folder / "corruptions.csv", _COLUMNS, [_flat(row) for row in (*rows, mean)])
    figures = []
    if any(row[name] is not None for row in rows for name in _FALLS):
        path = _plot(rows, folder / "corruptions.png")
        figures.append(ReportFigure(path, "Falls", "fall of each corruption", drawn=True))
    image = read_image(example.image_path).pixels
    figures += [
        ReportFigure(encode_jpeg(fitted(pixels, _TILE_PX)), name, f"{name}, {STRENGTHS[-1]}")
        for name, pixels in changed_images(image, example.name, seed)
    ]
    note = NOTE.format(count=len(CORRUPTIONS), strengths=len(STRENGTHS))
    return ReportSection(
        TITLE, note, [ReportTable(HEADERS, [_cells(row) for row in (*rows, mean)])], figures
    )


def corruption_lines(scores: Mapping[str, Any]) -> list[str]:
    """What the command says: the mean falls and the worst corruption of each."""
    lines = []
    for name, title in _FALLS.items():
        mean = scores[name]
        if mean is None:
            continue
        changed = [row for row in scores["rows"] if row[name] is not None]
        worst = max(changed, key=lambda row: row[name])
        lines.append(
            f"fall of the {title}: {score_text(mean, scores['intervals'][name])} "
            f"on average, {worst[name]:.3f} with {worst['strength']} {worst['corruption']}"
        )
    return lines


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    intervals = row["intervals"]
    return (
        row["corruption"],
        row["strength"],
        *(
            score_text(row.get(name), intervals.get(name))
            for name in (
                "mean_iou", "iou_fall", "roc_auc", "auc_fall", "sensitivity", "specificity"
            )
        ),
    )  # fmt: skip


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    flat = {name: value for name, value in row.items() if name != "intervals"}
    for name in _FALLS:
        low, high = row["intervals"].get(name) or (None, None)
        flat |= {f"{name}_low": low, f"{name}_high": high}
    return flat


def _plot(rows: Sequence[Mapping[str, Any]], path: Path) -> Path:
    """Two panels, a line for each corruption, a mark for each strength."""
    drawn = [name for name in _FALLS if any(row[name] is not None for row in rows)]
    figure = plots.new_figure(plots.WIDTH, 0.6 + 3.1 * len(drawn))
    panels = figure.subplots(len(drawn), 1, squeeze=False)[:, 0]
    marks = ((plots.BLUE, "o"), (plots.ORANGE, "s"), (plots.PURPLE, "D"))
    for axes, name in zip(panels, drawn, strict=True):
        axes.axvline(0, color=plots.GREY, linestyle=":", linewidth=1)
        for strength, (colour, mark) in zip(STRENGTHS, marks, strict=True):
            values = [row[name] for row in rows if row["strength"] == strength]
            axes.plot(values, range(len(values)), mark, color=colour, markersize=4, label=strength)
        axes.set_yticks(range(len(CORRUPTIONS)), [kind.name for kind in CORRUPTIONS])
        axes.invert_yaxis()
        plots.label_axes(axes, f"Fall of the {_FALLS[name]}", "unchanged minus corrupted", "")
        axes.legend(fontsize=plots.SMALL_PT, frameon=False)
    return plots.save_figure(figure, path)
