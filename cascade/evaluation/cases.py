"""One row of an evaluation, and the numbers over many rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cascade.config import CLASSES
from cascade.metrics.classification import classification_metrics
from cascade.metrics.segmentation import PixelCounts, dice, iou, segmentation_metrics

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
        mask_quality: rank of the mask by its own probabilities, see
            :class:`cascade.reliability.MaskQuality`; ``None`` if no cascade made it.
        mask_issues: signs of a wrong mask; empty where it is trusted.
        prediction_set: classes that stay possible; empty where none was computed.
        out_of_distribution_score: above 1 the image does not look like the training's; ``None`` if
            unknown.
        masked_crop_probability: of malignant, had the crop of a mask of low quality been classified
            where the whole image was; else ``None``.
    """

    record: Record
    label: str | None = None
    probability: float | None = None
    counts: PixelCounts | None = None
    area_fraction: float | None = None
    warnings: tuple[str, ...] = ()
    skin_angle: float | None = None
    mask_quality: float | None = None
    mask_issues: tuple[str, ...] = ()
    prediction_set: tuple[str, ...] = ()
    out_of_distribution_score: float | None = None
    masked_crop_probability: float | None = None

    def row(self) -> dict[str, Any]:
        """The case as a row of ``predictions.csv``."""
        distance = self.out_of_distribution_score
        return {
            "name": self.record.name,
            "group": self.record.group,
            "class": self.record.label,
            "predicted": self.label,
            "probability": self.probability,
            "iou": None if self.counts is None else iou(self.counts),
            "dice": None if self.counts is None else dice(self.counts),
            "area_fraction": self.area_fraction,
            "warnings": "; ".join(self.warnings),
            "mask_quality": self.mask_quality,
            "mask_issues": "; ".join(self.mask_issues),
            "prediction_set": " ".join(self.prediction_set),
            # a number that is not finite would leave an empty cell, as if it were unknown
            "out_of_distribution_score": "inf" if distance == math.inf else distance,
            "masked_crop_probability": self.masked_crop_probability,
        }


CASE_COLUMNS = (
    "name", "group", "class", "predicted", "probability", "iou", "dice", "area_fraction",
    "warnings", "mask_quality", "mask_issues", "prediction_set", "out_of_distribution_score",
    "masked_crop_probability",
)  # fmt: skip


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
