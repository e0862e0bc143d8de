"""Results on disk: numbers first, then the plots and the page made from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cascade.config import CLASSES
from cascade.evaluation.cases import Case, case_columns, probabilities, true_labels
from cascade.evaluation.diagnosis_scores import (
    DIAGNOSIS_TITLE,
    diagnosis_note,
    diagnosis_tables,
    plot_diagnoses,
)
from cascade.evaluation.html import (
    ReportFigure,
    ReportNumber,
    ReportSection,
    ReportTable,
    write_report,
)
from cascade.evaluation.metadata import (
    METADATA_HEADERS,
    METADATA_NOTE,
    METADATA_TITLE,
    metadata_rows,
    metadata_sentences,
)
from cascade.evaluation.overlays import Sketch, fitted, overlay, true_mask
from cascade.evaluation.patients import (
    PATIENT_HEADERS,
    PATIENT_NOTE,
    PATIENT_TITLE,
    patient_rows,
    patient_sentences,
)
from cascade.evaluation.plots import plot_classification, plot_iou_histogram
from cascade.evaluation.safeguard_report import SAFEGUARD_NOTE, SAFEGUARD_TITLE, safeguard_tables
from cascade.evaluation.score_table import (
    CLASSIFICATION_ROWS,
    METRIC_HEADERS,
    SEGMENTATION_ROWS,
    STAGE_HEADERS,
    STAGE_TITLE,
    WARNING_HEADERS,
    headlines,
    metric_rows,
    range_text,
    stage_rows,
    warning_rows,
)
from cascade.evaluation.stages import Evaluation
from cascade.evaluation.subgroups import SUBGROUP_NOTE, subgroup_tables, write_subgroups
from cascade.files import write_csv, write_json
from cascade.imaging import encode_jpeg, read_image
from cascade.metrics.segmentation import iou

FIRST, BEST, WORST = 6, 4, 12
TILE_PX = 420

PLOT_TITLES = {
    "iou_histogram": "IoU of each image",
    "roc": "ROC curve",
    "precision_recall": "Precision-recall curve",
    "reliability": "Calibration: predicted probability against the share that is malignant",
    "confusion_matrix": "Confusion matrix at the cutoff",
    "diagnoses": "Diagnoses: what was named for which",
    "subgroups": "ROC AUC of each subgroup",
}
"""File name of each plot and what it shows, in the order of the page."""


def write_evaluation(
    folder: Path,
    evaluation: Evaluation,
    *,
    title: str,
    about: Mapping[str, Any],
    sketch: Sketch | None = None,
    more: Sequence[ReportSection] = (),
) -> None:
    """Write ``metrics.json``, ``predictions.csv``, the plots and ``report.html``.

    Where the metrics hold ``subgroups``, ``subgroups.csv``, ``.md`` and ``.png`` are written, too.

    Args:
        folder: where the files go.
        evaluation: the run.
        title: heading of the page.
        about: model, data, date and other facts, shown last and stored with the numbers.
        sketch: predicts an image again, to draw examples; ``None`` for a classifier alone.
        more: further sections of the page, after the examples.
    """
    write_json(folder / "metrics.json", {**evaluation.metrics, "about": dict(about)})
    columns = case_columns(evaluation.cases)
    write_csv(folder / "predictions.csv", columns, (case.row() for case in evaluation.cases))
    sections = [
        *_plots(folder, evaluation),
        *_examples(evaluation.cases, sketch),
        *more,
        *_details(folder, evaluation),
    ]
    write_report(
        folder / "report.html",
        title=title,
        summary=_summary(evaluation),
        sections=sections,
        provenance=about,
    )


def _summary(evaluation: Evaluation) -> dict[str, ReportNumber]:
    numbers = {}
    for line in headlines(evaluation.metrics):
        limits = f"95 %: {range_text(line.interval)}" if line.interval else ""
        numbers[line.title] = ReportNumber(f"{line.value:z.3f}", limits)
    labels = [case.record.label for case in evaluation.cases]
    classes = [f"{labels.count(name)} {name}" for name in reversed(CLASSES) if name in labels]
    return {**numbers, "images": ReportNumber(len(labels), ", ".join(classes))}


def _plots(folder: Path, evaluation: Evaluation) -> list[ReportSection]:
    metrics, paths = evaluation.metrics, []
    if "segmentation" in metrics:
        values = [iou(case.counts) for case in evaluation.cases if case.counts is not None]
        path = folder / "iou_histogram.png"
        paths.append(plot_iou_histogram(values, metrics["segmentation"], path))
    if "classification" in metrics:
        answered = _answered(evaluation.cases)
        groups = [case.record.group for case in answered]
        scores = (true_labels(answered), probabilities(answered))
        paths += plot_classification(*scores, metrics["classification"], folder, groups=groups)
    paths.sort(key=lambda path: list(PLOT_TITLES).index(path.stem))
    return [ReportSection("Plots", figures=[_plot(path) for path in paths])] if paths else []


def _plot(path: Path) -> ReportFigure:
    title = PLOT_TITLES[path.stem]
    return ReportFigure(path, title, title, drawn=True)


def _answered(cases: Sequence[Case]) -> list[Case]:
    return [c for c in cases if c.probability is not None and c.record.label is not None]


def _examples(cases: Sequence[Case], sketch: Sketch | None) -> list[ReportSection]:
    """The first images, the best and the worst masks, and the largest errors of the class."""

    def by_iou(case: Case) -> tuple[float, str]:
        return iou(case.counts) if case.counts else 0.0, case.record.name

    def by_error(case: Case) -> tuple[float, str]:
        truth = float(case.record.label == CLASSES[1])
        return -abs(truth - (case.probability or 0.0)), case.record.name

    masks = sorted((case for case in cases if case.counts is not None), key=by_iou)
    chosen: list[tuple[str, Sequence[Case]]] = [
        ("Lowest IoU", masks[:WORST]),
        ("Highest IoU", masks[: -BEST - 1 : -1]),
        ("Largest errors of the predicted probability", sorted(_answered(cases), key=by_error)),
    ]
    if sketch is not None:
        chosen.insert(0, ("First images of the table", cases[:FIRST]))
        chosen[1:3] = reversed(chosen[1:3])
    drawn: dict[str, tuple[bytes, bytes | None]] = {}
    sections = []
    for title, part in chosen:
        figures = []
        for case in part[:WORST]:
            name = case.record.name
            if name not in drawn:
                drawn[name] = _draw(case, sketch)
            image, crop = drawn[name]
            beside = crop if title.startswith("First") else None
            figures.append(ReportFigure(image, _caption(case), f"{name} with contours", beside))
        contours = ["human"] if any(case.record.mask_path for case in part) else []
        contours += ["predicted"] if sketch is not None else []
        if figures:
            sections.append(ReportSection(title, figures=figures, contours=contours))
    return sections


def _caption(case: Case) -> str:
    parts = []
    if case.probability is not None:
        parts.append(f"p {case.probability:.3f}")
    if case.counts is not None:
        parts.append(f"IoU {iou(case.counts):.3f}")
    truth = case.record.label or "class unknown"
    return f"{case.record.stem}\n{truth}\n{', '.join(parts)}"


def _draw(case: Case, sketch: Sketch | None) -> tuple[bytes, bytes | None]:
    """The image with its contours, and the crop, as JPEG."""
    image = read_image(case.record.image_path).pixels
    predicted, crop = sketch(image) if sketch is not None else (None, None)
    drawn = overlay(image, true_mask(case.record, image.shape[:2]), predicted)
    return encode_jpeg(fitted(drawn, TILE_PX)), None if crop is None else encode_jpeg(crop)


def _details(folder: Path, evaluation: Evaluation) -> list[ReportSection]:
    """Every number as a table; what was not measured is left out."""
    metrics = evaluation.metrics
    sections = []
    if scores := metrics.get("segmentation"):
        text = (
            f"{scores['n']} images at their original size; {scores['missed']} lesions were missed "
            "and count as 0."
        )
        tables = [ReportTable(METRIC_HEADERS, metric_rows(scores, SEGMENTATION_ROWS))]
        sections.append(ReportSection("Segmentation", text, tables))
    if scores := metrics.get("classification"):
        text = (
            f"{scores['n']} images, {scores['positives']} malignant; malignant from probability "
            f"{scores['cutoff']:.3g} on; the cascade abstained on {scores['abstained']}."
        )
        tables = [ReportTable(METRIC_HEADERS, metric_rows(scores, CLASSIFICATION_ROWS))]
        sections.append(ReportSection("Classification", text, tables))
    sections += _diagnoses(folder, metrics.get("diagnoses"))
    if stages := metrics.get("stages"):
        table = ReportTable(STAGE_HEADERS, stage_rows(stages))
        sections.append(ReportSection(STAGE_TITLE, tables=[table]))
    if tables := safeguard_tables(metrics.get("safeguards") or {}):
        sections.append(ReportSection(SAFEGUARD_TITLE, SAFEGUARD_NOTE, tables))
    sections += _comparisons(metrics)
    if groups := metrics.get("subgroups"):
        figures = [_plot(path) for path in write_subgroups(folder, groups)]
        sections.append(ReportSection("Subgroups", SUBGROUP_NOTE, subgroup_tables(groups), figures))
    if rows := warning_rows(text for case in evaluation.cases for text in case.warnings):
        sections.append(ReportSection("Warnings", tables=[ReportTable(WARNING_HEADERS, rows)]))
    return sections


def _diagnoses(folder: Path, scores: Mapping[str, Any] | None) -> list[ReportSection]:
    if not scores:
        return []
    figures = [_plot(plot_diagnoses(scores, folder / "diagnoses.png"))]
    text, tables = diagnosis_note(scores), diagnosis_tables(scores)
    return [ReportSection(DIAGNOSIS_TITLE, text, tables, figures)]


def _comparisons(metrics: Mapping[str, Any]) -> list[ReportSection]:
    """The images alone against what is known beside them."""
    sections = []
    if patients := metrics.get("patients"):
        text = " ".join([*patient_sentences(patients), PATIENT_NOTE])
        compared = patient_rows(patients)
        tables = [ReportTable(PATIENT_HEADERS, compared)] if compared else []
        sections.append(ReportSection(PATIENT_TITLE, text, tables))
    if metadata := metrics.get("metadata"):
        text = " ".join([*metadata_sentences(metadata), METADATA_NOTE])
        tables = [ReportTable(METADATA_HEADERS, metadata_rows(metadata))]
        sections.append(ReportSection(METADATA_TITLE, text, tables))
    return sections
