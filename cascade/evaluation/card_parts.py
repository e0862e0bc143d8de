"""What a model card says about one evaluation, taken from the files that the evaluation wrote."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cascade.config import CLASSES
from cascade.data.spreadsheet import read_csv
from cascade.errors import DataError
from cascade.evaluation.diagnosis_scores import diagnosis_note, diagnosis_tables
from cascade.evaluation.metadata import (
    METADATA_HEADERS,
    METADATA_NOTE,
    metadata_rows,
    metadata_sentences,
)
from cascade.evaluation.report import PLOT_TITLES
from cascade.evaluation.safeguard_metrics import measure_operating_points
from cascade.evaluation.safeguard_report import safeguard_tables
from cascade.evaluation.score_table import (
    CLASSIFICATION_ROWS,
    METRIC_HEADERS,
    SEGMENTATION_ROWS,
    STAGE_HEADERS,
    WARNING_HEADERS,
    markdown_table,
    markdown_text,
    metric_rows,
    stage_rows,
    warning_rows,
)
from cascade.evaluation.subgroups import subgroup_tables
from cascade.files import read_json

CALIBRATION = ("brier", "ece", "log_loss")
PLOTS = ("reliability", "roc", "iou_histogram", "subgroups")
"""Figures that a card may show; none of them holds an image of a patient."""

_MOST_WARNINGS = 10
_LONGEST_LIST = 12


@dataclass(frozen=True)
class EvaluationFolder:
    """An evaluation as it lies on disk.

    Attributes:
        path: the folder.
        metrics: ``metrics.json``.
        predictions: rows of ``predictions.csv``; empty where there is none.
    """

    path: Path
    metrics: Mapping[str, Any]
    predictions: Sequence[Mapping[str, str]]

    @property
    def title(self) -> str:
        """The data that was evaluated on, else the folder's name."""
        return str(self.metrics.get("about", {}).get("data") or self.path.resolve().name)


def read_evaluation(folder: Path) -> EvaluationFolder:
    """Read what ``cascade evaluate`` wrote.

    Raises:
        DataError: ``metrics.json`` is missing or is not a JSON object.
    """
    metrics = read_json(folder / "metrics.json")
    if not isinstance(metrics, dict):
        raise DataError(f"{folder / 'metrics.json'}: is not a JSON object; evaluate again")
    table = folder / "predictions.csv"
    rows = read_csv(table)[1] if table.is_file() else []
    return EvaluationFolder(folder, metrics, rows)


def evaluation_part(
    folder: EvaluationFolder, title: str, points: Mapping[str, float], figures: Mapping[str, str]
) -> dict[str, Any]:
    """One evaluation for the card's template; what does not exist is empty.

    Args:
        folder: the evaluation.
        title: its heading.
        points: target sensitivity to cutoff, as stored with the classifier.
        figures: name of a plot in :data:`PLOTS` to its address in the card.
    """
    metrics = folder.metrics
    about, classification = metrics.get("about") or {}, metrics.get("classification") or {}
    ranking = {k: v for k, v in CLASSIFICATION_ROWS.items() if k not in CALIBRATION}
    calibration = {k: v for k, v in CLASSIFICATION_ROWS.items() if k in CALIBRATION}
    return {
        "title": markdown_text(title),
        "about": fact_table({k: v for k, v in about.items() if k != "model_sha256"}),
        "segmentation": metrics.get("segmentation") or {},
        "segmentation_table": _scores(metrics.get("segmentation"), SEGMENTATION_ROWS),
        "classification": classification,
        "classification_table": _scores(classification, ranking),
        "calibration_table": _scores(classification, calibration),
        "diagnoses": _diagnoses(metrics.get("diagnoses")),
        "metadata": _metadata(metrics.get("metadata")),
        "stages_table": _table(STAGE_HEADERS, stage_rows(metrics.get("stages") or {})),
        "safeguards": _safeguards(folder, points),
        "subgroups": [
            (table.caption, markdown_table(table.headers, table.rows))
            for table in subgroup_tables(metrics.get("subgroups") or [])
        ],
        "warnings_table": _warnings(folder.predictions),
        "figures": {
            name: f"![{PLOT_TITLES[name]}]({address})" for name, address in figures.items()
        },
    }


def _diagnoses(scores: Mapping[str, Any] | None) -> tuple[str, list[tuple[str, str]]] | None:
    """A note, and caption and table of each thing that was measured of diagnoses."""
    if not scores:
        return None
    tables = diagnosis_tables(scores)
    return markdown_text(diagnosis_note(scores)), [
        (table.caption, markdown_table(table.headers, table.rows)) for table in tables
    ]


def _metadata(scores: Mapping[str, Any] | None) -> tuple[str, str] | None:
    """A note and a table of what age, sex and site changed."""
    if not scores:
        return None
    note = " ".join([*metadata_sentences(scores), METADATA_NOTE])
    return markdown_text(note), markdown_table(METADATA_HEADERS, metadata_rows(scores))


def count_operating_points(
    predictions: Sequence[Mapping[str, str]], points: Mapping[str, float]
) -> dict[str, dict[str, Any]]:
    """What an evaluation measured at the model's operating points, from its predictions alone."""
    rows = [row for row in predictions if row.get("probability_malignant") and row.get("class")]
    if not rows:
        return {}
    return measure_operating_points(
        points,
        np.array([int(row["class"] == CLASSES[1]) for row in rows]),
        np.array([float(row["probability_malignant"]) for row in rows]),
        [row.get("group") or row["name"] for row in rows],
    )


def _safeguards(folder: EvaluationFolder, points: Mapping[str, float]) -> list[tuple[str, str]]:
    """Caption and table of each thing that the cascade says about itself."""
    safeguards = dict(folder.metrics.get("safeguards") or {})
    if "operating_points" not in safeguards:  # such as an evaluation of two files of one stage
        safeguards["operating_points"] = count_operating_points(folder.predictions, points)
    return [
        (table.caption, markdown_table(table.headers, table.rows))
        for table in safeguard_tables(safeguards)
    ]


def fact_table(facts: Mapping[str, Any]) -> str:
    """Names and values as a Markdown table; nested names are joined, empty values left out."""
    return _table(("", "value"), flat_facts(facts).items())


def flat_facts(facts: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested facts as one mapping from name to text; empty values and long lists are left out."""
    flat: dict[str, str] = {}
    for key, value in facts.items():
        name = f"{prefix}{key}".replace("_", " ")
        if isinstance(value, Mapping):
            flat |= flat_facts(value, f"{name}, ")
        elif (text := _fact(value)) and name != "splits digest":  # it stands beside the seed
            flat[name] = Path(text).name if text.startswith("/") else text
    return flat


def _fact(value: Any) -> str:
    if value is None or isinstance(value, Mapping):
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, (list, tuple)):
        simple = all(isinstance(item, (str, int, float)) for item in value)
        return ", ".join(map(_fact, value)) if simple and len(value) <= _LONGEST_LIST else ""
    return str(value)


def _scores(metrics: Mapping[str, Any] | None, titles: Mapping[str, tuple[str, str]]) -> str:
    known = {key: title for key, title in titles.items() if key in (metrics or {})}
    return _table(METRIC_HEADERS, metric_rows({"intervals": {}, **(metrics or {})}, known))


def _warnings(predictions: Sequence[Mapping[str, str]]) -> str:
    given = (text for row in predictions for text in row.get("warnings", "").split("; ") if text)
    return _table(WARNING_HEADERS, warning_rows(given, most=_MOST_WARNINGS))


def _table(headers: Sequence[str], rows: Any) -> str:
    rows = list(rows)
    return markdown_table(headers, rows) if rows else ""
