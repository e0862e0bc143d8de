"""Results on disk: numbers first, then the images and the page made from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cascade.evaluation.cases import CASE_COLUMNS, Case, probabilities, true_labels
from cascade.evaluation.html import ReportFigure, ReportSection, ReportTable, write_report
from cascade.evaluation.overlays import contact_sheet, overlay
from cascade.evaluation.plots import plot_classification, plot_iou_histogram
from cascade.evaluation.safeguard_report import SAFEGUARD_NOTE, safeguard_tables
from cascade.evaluation.score_table import CLASSIFICATION_ROWS, SEGMENTATION_ROWS
from cascade.evaluation.stages import Evaluation
from cascade.evaluation.subgroup_report import (
    SUBGROUP_HEADERS,
    SUBGROUP_NOTE,
    by_column,
    column_title,
    has_areas,
    subgroup_cells,
    write_subgroups,
)
from cascade.files import write_csv, write_json
from cascade.imaging import read_image, read_mask, write_image
from cascade.metrics.segmentation import iou

WORST = 12
EXAMPLES = 6
Sketch = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray | None]]
"""``(H, W, 3)`` uint8 RGB to the predicted mask ``(H, W)`` bool and, from a cascade, the crop that
the classifier saw."""

METRIC_HEADERS = ("metric", "averaging", "value", "95 % interval")
STAGES = {"truth_mask": "truth mask", "whole_image": "whole image, no mask"}


def metric_rows(
    metrics: Mapping[str, Any], titles: Mapping[str, tuple[str, str]]
) -> list[tuple[str, str, str, str]]:
    """Rows of name, averaging, value and 95 % interval for a person to read."""
    rows = []
    for key, (title, averaging) in titles.items():
        value, interval = metrics[key], metrics["intervals"].get(key)
        reason = metrics.get("undefined", {}).get(key, "undefined")
        shown = f"{value:.4f}" if value is not None else f"– ({reason})"
        limits = f"{interval[0]:.4f} – {interval[1]:.4f}" if interval else ""
        rows.append((title, averaging, shown, limits))
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
            text = f"{change['difference']:+.4f} ({low:+.4f} – {high:+.4f})"
            rows.append((f"predicted mask minus {title}", "", "", "", "", text))
    return rows


STAGE_HEADERS = ("classifier's input", "n", "ROC AUC", "balanced accuracy", "F1",
                 "ROC AUC difference (paired 95 %)")  # fmt: skip


def write_evaluation(
    folder: Path,
    evaluation: Evaluation,
    *,
    title: str,
    about: Mapping[str, Any],
    sketch: Sketch | None = None,
    more: Sequence[ReportSection] = (),
) -> None:
    """Write ``metrics.json``, ``predictions.csv``, plots, worst cases and ``report.html``.

    Where the metrics hold ``subgroups``, ``subgroups.csv``, ``.md`` and ``.png`` are written, too.

    Args:
        folder: where the files go.
        evaluation: the run.
        title: heading of the page.
        about: model, data, date and other facts, shown on the page and stored with the numbers.
        sketch: predicts an image again, to draw examples and the worst cases; ``None`` for a
            classifier alone.
        more: further sections of the page, before the warnings.
    """
    write_json(folder / "metrics.json", {**evaluation.metrics, "about": dict(about)})
    write_csv(folder / "predictions.csv", CASE_COLUMNS, (case.row() for case in evaluation.cases))
    sections = [
        *_examples_section(folder, evaluation.cases, sketch),
        *_segmentation_section(folder, evaluation, sketch),
        *_classification_section(folder, evaluation, sketch),
        *_safeguards_section(evaluation),
        *_subgroups_section(folder, evaluation),
        *more,
        *_warnings_section(evaluation.cases),
    ]
    write_report(folder / "report.html", title=title, summary=about, sections=sections)


def _examples_section(
    folder: Path, cases: Sequence[Case], sketch: Sketch | None
) -> list[ReportSection]:
    """The first images of the table, neither the best nor the worst."""
    if sketch is None:
        return []
    first = cases[:EXAMPLES]
    with_crops = all(case.probability is not None for case in first)
    captions: list[str] = []
    for case in first:
        captions.append(f"{case.record.stem}\n{case.record.label or 'class unknown'}")
        if with_crops:
            captions.append(f"as the classifier sees it\np {case.probability:.3f}")
    _draw_cases(folder / "examples.png", first, captions, sketch, with_crops=with_crops)
    caption = "Yellow: human outline, cyan: predicted"
    if with_crops:
        caption += ". p is the predicted probability of malignant"
    figure = ReportFigure(folder / "examples.png", caption, "Images with outlines")
    return [ReportSection("The first images of the table", figures=[figure])]


def _segmentation_section(
    folder: Path, evaluation: Evaluation, sketch: Sketch | None
) -> list[ReportSection]:
    metrics = evaluation.metrics.get("segmentation")
    if metrics is None:
        return []
    scored = [case for case in evaluation.cases if case.counts is not None]
    values = {case.record.name: iou(case.counts) for case in scored if case.counts is not None}
    plot_iou_histogram(list(values.values()), metrics, folder / "iou_histogram.png")
    worst = sorted(scored, key=lambda case: (values[case.record.name], case.record.name))[:WORST]
    captions = [f"{case.record.stem}\nIoU {values[case.record.name]:.3f}" for case in worst]
    _draw_cases(folder / "worst_segmentation.png", worst, captions, sketch)
    return [
        ReportSection(
            "Segmentation",
            f"{metrics['n']} images at their original size; {metrics['missed']} lesions were "
            "missed and count as 0.",
            tables=[
                ReportTable(
                    METRIC_HEADERS,
                    metric_rows(metrics, SEGMENTATION_ROWS),
                )
            ],
            figures=[
                ReportFigure(
                    folder / "iou_histogram.png",
                    "IoU of each image",
                    "Histogram of the lesion's IoU over images",
                ),
                ReportFigure(
                    folder / "worst_segmentation.png",
                    "Lowest IoU. Yellow: human outline, cyan: predicted",
                    "Images with the lowest IoU and their outlines",
                    wide=True,
                ),
            ],
        )
    ]


def _classification_section(
    folder: Path, evaluation: Evaluation, sketch: Sketch | None
) -> list[ReportSection]:
    metrics = evaluation.metrics.get("classification")
    if metrics is None:
        return []
    answered = [
        case
        for case in evaluation.cases
        if case.probability is not None and case.record.label is not None
    ]
    labels, scores = true_labels(answered), probabilities(answered)
    groups = [case.record.group for case in answered]
    figures = plot_classification(labels, scores, metrics, folder, groups=groups)
    error = np.abs(labels - scores)
    order = np.argsort(-error, kind="stable")[:WORST]
    worst = [answered[index] for index in order]
    captions = [
        f"{case.record.stem}\n{case.record.label}, p {case.probability:.3f}" for case in worst
    ]
    _draw_cases(folder / "worst_classification.png", worst, captions, sketch)
    tables = [ReportTable(METRIC_HEADERS, metric_rows(metrics, CLASSIFICATION_ROWS))]
    if stages := evaluation.metrics.get("stages"):
        tables.append(
            ReportTable(
                STAGE_HEADERS, stage_rows(stages), caption="What the first stage costs the second"
            )
        )
    return [
        ReportSection(
            "Classification",
            f"{metrics['n']} images, {metrics['positives']} malignant; malignant from probability "
            f"{metrics['cutoff']:.3g} on; the cascade abstained on {metrics['abstained']}.",
            tables=tables,
            figures=[
                *(ReportFigure(path, _title(path), _title(path)) for path in figures),
                ReportFigure(
                    folder / "worst_classification.png",
                    "Largest errors. p is the probability of malignant",
                    "Images with the largest classification errors",
                    wide=True,
                ),
            ],
        )
    ]


def _safeguards_section(evaluation: Evaluation) -> list[ReportSection]:
    tables = safeguard_tables(evaluation.metrics.get("safeguards") or {})
    if not tables:
        return []
    return [ReportSection("When not to trust it", SAFEGUARD_NOTE, tables=tables)]


def _subgroups_section(folder: Path, evaluation: Evaluation) -> list[ReportSection]:
    rows = evaluation.metrics.get("subgroups")
    if not rows:
        return []
    write_subgroups(folder, rows)
    figure = ReportFigure(
        folder / "subgroups.png", "ROC AUC by subgroup", "ROC AUC and interval of each subgroup"
    )
    tables = [
        ReportTable(SUBGROUP_HEADERS, [subgroup_cells(row) for row in part], column_title(column))
        for column, part in by_column(rows).items()
    ]
    figures = [figure] if has_areas(rows) else []
    return [ReportSection("Subgroups", SUBGROUP_NOTE, tables=tables, figures=figures)]


def _warnings_section(cases: Sequence[Case]) -> list[ReportSection]:
    counts: dict[str, int] = {}
    for case in cases:
        for warning in case.warnings:
            counts[warning] = counts.get(warning, 0) + 1
    if not counts:
        return []
    rows = [(text, str(count)) for text, count in sorted(counts.items(), key=lambda i: -i[1])]
    return [ReportSection("Warnings", tables=[ReportTable(("warning", "images"), rows)])]


def _title(path: Path) -> str:
    words = path.stem.replace("_", " ")
    return "ROC curve" if path.stem == "roc" else words.capitalize()


def _draw_cases(
    path: Path,
    cases: Sequence[Case],
    captions: Sequence[str],
    sketch: Sketch | None,
    *,
    with_crops: bool = False,
) -> None:
    """A contact sheet of images with true and predicted outlines, and the crops if asked for."""
    tiles: list[np.ndarray] = []
    for case in cases:
        image = read_image(case.record.image_path).pixels
        truth = None
        if case.record.mask_path is not None:
            truth = read_mask(case.record.mask_path, shape=image.shape[:2])
        predicted, crop = sketch(image) if sketch is not None else (None, None)
        tiles.append(overlay(image, truth, predicted))
        if crop is not None and with_crops:
            tiles.append(crop)
    write_image(path, contact_sheet(tiles, list(captions)))
