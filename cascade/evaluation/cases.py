"""One row of an evaluation, and the numbers over many rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from cascade.config import CLASSES
from cascade.fields import columns, open_columns, row
from cascade.lesion.patient import PatientContext
from cascade.metrics.classification import classification_metrics
from cascade.metrics.segmentation import PixelCounts, dice, iou, segmentation_metrics
from cascade.pipeline.prediction import Prediction

if TYPE_CHECKING:
    from cascade.data.tables import Record


@dataclass(frozen=True)
class Case:
    """What was predicted for one image, and what is true.

    Attributes:
        record: the image and its truth.
        label: predicted class, or ``None`` where the cascade abstained or only segmented.
        probability: of malignant, or ``None``.
        counts: pixels of the predicted against the true mask, or ``None`` without a true mask.
        area_fraction: predicted lesion's share of the image, or ``None`` without a mask.
        warnings: from the prediction.
        skin_angle: apparent tone of the skin around the lesion in degrees, see
            :mod:`cascade.lesion.skin_tone`; ``None`` where it was not or cannot be estimated.
        prediction: the columns of a cascade's prediction; empty if only one stage ran.
        mask_issues: signs of a wrong mask; empty where it is trusted.
        prediction_set: classes that stay possible; empty where none was computed.
        out_of_distribution_score: above 1 the image is out of distribution; ``None`` if unknown.
        masked_crop_probability: of malignant, had the masked crop been classified where the whole
            image was; else ``None``.
        context: what the lesion is among those of its patient; ``None`` where no patient is known.
        diagnoses: probability of each diagnosis; empty where none are told.
    """

    record: Record
    label: str | None = None
    probability: float | None = None
    counts: PixelCounts | None = None
    area_fraction: float | None = None
    warnings: tuple[str, ...] = ()
    skin_angle: float | None = None
    prediction: Mapping[str, Any] = field(default_factory=dict)
    mask_issues: tuple[str, ...] = ()
    prediction_set: tuple[str, ...] = ()
    out_of_distribution_score: float | None = None
    masked_crop_probability: float | None = None
    context: PatientContext | None = None
    diagnoses: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, record: Record, prediction: Prediction, **truth: Any) -> Case:
        """The case of a cascade's prediction; ``truth`` holds the other attributes."""
        return cls(
            record,
            label=prediction.label,
            probability=prediction.probabilities.get(CLASSES[1]),
            area_fraction=prediction.area_fraction,
            warnings=prediction.warnings,
            prediction=row(Prediction, prediction),
            mask_issues=prediction.mask_issues,
            prediction_set=prediction.prediction_set,
            out_of_distribution_score=prediction.out_of_distribution_score,
            diagnoses=prediction.diagnoses,
            **truth,
        )

    def row(self) -> dict[str, Any]:
        """The case as a row of ``predictions.csv``."""
        return dict.fromkeys(CASE_COLUMNS) | {
            "name": self.record.name,
            "group": self.record.group,
            "class": self.record.label,
            "label": self.label,
            "probability_malignant": self.probability,
            "area_fraction": self.area_fraction,
            "warnings": "; ".join(self.warnings),
            **self.prediction,
            "iou": None if self.counts is None else iou(self.counts),
            "dice": None if self.counts is None else dice(self.counts),
            "masked_crop_probability": self.masked_crop_probability,
            **({} if self.context is None else row(PatientContext, self.context)),
        }


CASE_COLUMNS = (
    "name", "group", "class", *columns(Prediction), "iou", "dice", "masked_crop_probability",
)  # fmt: skip


def case_columns(cases: Sequence[Case]) -> tuple[str, ...]:
    """The columns of ``predictions.csv``.

    Those of patients and of diagnoses come last, each only where one is known.
    """
    known = any(case.context is not None for case in cases)
    told = next((case.diagnoses for case in cases if case.diagnoses), {})
    of_patients = columns(PatientContext) if known else ()
    return (*CASE_COLUMNS, *of_patients, *open_columns(Prediction, told))


def segmentation_of(cases: Sequence[Case], *, seed: int = 0) -> dict[str, Any] | None:
    """Segmentation metrics over the cases that have a true mask, or ``None`` without any."""
    scored = [case for case in cases if case.counts is not None]
    if not scored:
        return None
    return segmentation_metrics(
        [case.counts for case in scored if case.counts is not None],
        groups=[case.record.group for case in scored],
        seed=seed,
    )


def classification_of(
    cases: Sequence[Case], *, cutoff: float, seed: int = 0
) -> dict[str, Any] | None:
    """Classification metrics over labelled cases; abstentions are counted beside them."""
    labelled = [case for case in cases if case.record.label is not None]
    answered = [case for case in labelled if case.probability is not None]
    if not answered:
        return None
    metrics = classification_metrics(
        true_labels(answered),
        probabilities(answered),
        cutoff=cutoff,
        groups=[case.record.group for case in answered],
        seed=seed,
        names=[case.record.name for case in answered],
    )
    return {**metrics, "abstained": len(labelled) - len(answered)}


def true_labels(cases: Sequence[Case]) -> np.ndarray:
    """``(N,)`` int64, 1 for malignant."""
    return np.array([CLASSES.index(case.record.label or "") for case in cases], np.int64)


def probabilities(cases: Sequence[Case]) -> np.ndarray:
    """``(N,)`` float64 probabilities of malignant."""
    return np.array([case.probability for case in cases], np.float64)
