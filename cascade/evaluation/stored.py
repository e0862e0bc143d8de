"""Scores of predictions that were made before, row by row, without running a model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from cascade.cluster.tables import mask_file
from cascade.data.spreadsheet import listed
from cascade.data.tables import match_stem
from cascade.errors import DataError
from cascade.evaluation.cases import Case, classification_of, segmentation_of
from cascade.evaluation.diagnosis_scores import diagnosis_scores
from cascade.evaluation.stages import Evaluation
from cascade.fields import columns, open_columns
from cascade.imaging import read_mask
from cascade.metrics.segmentation import PixelCounts, count_pixels
from cascade.pipeline.prediction import Prediction
from cascade.reliability import Diagnoses

if TYPE_CHECKING:
    from cascade.data.tables import Record, Table

_COLUMNS = columns(Prediction)


def evaluate_rows(
    rows: Iterable[Mapping[str, Any]],
    table: Table,
    *,
    cutoff: float,
    diagnoses: Diagnoses | None = None,
    seed: int = 0,
) -> Evaluation:
    """Score rows end to end; what each stage costs the other takes a model to find out.

    Args:
        rows: as :func:`cascade.cluster.tables.read_rows` gives them; those of other images are
            left out.
        table: records with labels, masks or both. Masks are scored where rows hold them.
        cutoff: probability of malignant from which a case counts as malignant.
        diagnoses: those that the model tells apart, to score them, too.
        seed: seed of the bootstrap intervals.

    Raises:
        DataError: an image has no row, or two, or a row with an error.
    """
    wanted = {record.stem for record in table}
    found: dict[str, Mapping[str, Any]] = {}
    for row in rows:
        stem = match_stem(row["name"])
        if stem in wanted and found.setdefault(stem, row) is not row:
            raise DataError(f"{row['path']}: is the second row named {row['name']}; remove one")
    missing = [record.name for record in table if record.stem not in found]
    if missing:
        raise DataError(f"{len(missing)} of {len(table)} images have no row: {listed(missing)}")
    cases = [_case(record, found[record.stem], diagnoses) for record in table]
    parts = {
        "segmentation": segmentation_of(cases, seed=seed),
        "classification": classification_of(cases, cutoff=cutoff, seed=seed),
        "diagnoses": diagnosis_scores(cases, diagnoses, seed=seed),
    }
    metrics = {name: part for name, part in parts.items() if part is not None}
    return Evaluation(tuple(cases), metrics, cutoff)


def _case(record: Record, row: Mapping[str, Any], diagnoses: Diagnoses | None) -> Case:
    if row["error"]:
        raise DataError(
            f"{record.name}: cannot be evaluated: {row['error']}. A missing prediction is an "
            "error; mend the image or take its row out of the table"
        )
    return Case(
        record,
        label=row["label"],
        probability=row["probability_malignant"],
        counts=_counts(record, row),
        area_fraction=row["area_fraction"],
        warnings=_words(row["warnings"], "; "),
        prediction={name: row[name] for name in (*_COLUMNS, *_told(row, diagnoses).values())},
        mask_issues=_words(row["mask_issues"], "; "),
        prediction_set=_words(row["prediction_set"], " "),
        out_of_distribution_score=row["out_of_distribution_score"],
        diagnoses={
            name: row[column]
            for name, column in _told(row, diagnoses).items()
            if row[column] is not None
        },
    )


def _told(row: Mapping[str, Any], diagnoses: Diagnoses | None) -> dict[str, str]:
    """Diagnosis to column, of those that a row has."""
    names = () if diagnoses is None else diagnoses.names
    pairs = zip(names, open_columns(Prediction, names), strict=True)
    return {name: column for name, column in pairs if column in row}


def _words(cell: str | None, separator: str) -> tuple[str, ...]:
    return tuple(cell.split(separator)) if cell else ()


def _counts(record: Record, row: Mapping[str, Any]) -> PixelCounts | None:
    mask = mask_file(row)
    if record.mask_path is None or mask is None:
        return None
    truth = read_mask(record.mask_path, shape=(row["height"], row["width"]))
    return count_pixels(truth, read_mask(mask, shape=truth.shape, predicted=True))
