"""Predict every image of a table again and again, each time changed in another way."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from cascade.config import CLASSES
from cascade.data.corruptions import AMOUNTS, STRENGTHS, Kind, corrupted_images
from cascade.errors import DataError
from cascade.imaging import read_image, read_mask
from cascade.lesion.masking import reduce_mask
from cascade.metrics.classification import roc_auc
from cascade.metrics.intervals import (
    RESAMPLES,
    WeightedMetric,
    percentile_interval,
    plan_resampling,
    weighted_mean,
)
from cascade.metrics.segmentation import count_pixels, iou
from cascade.pipeline.prediction import Failure
from cascade.progress import progress

if TYPE_CHECKING:
    from cascade.data.tables import Record, Table
    from cascade.pipeline import Cascade
    from cascade.pipeline.augmented_views import TestTimeAugmentation

CLEAN = ("none", "")
"""The images as they are."""
UNKNOWN = -1
"""Label of an image without a class."""


@dataclass
class Answers:
    """What was predicted for one kind: for each image in turn, ``NaN`` where there is nothing.

    Attributes:
        probabilities: of malignant.
        overlaps: IoU with the true mask, which was moved with the pixels.
    """

    probabilities: list[float] = field(default_factory=list)
    overlaps: list[float] = field(default_factory=list)


def corrupted_scores(
    cascade: Cascade,
    table: Table,
    *,
    tta: TestTimeAugmentation = "none",
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> dict[str, Any]:
    """Score a cascade on a table's images under each corruption at each strength.

    Images are changed at the resolution at which the cascade reads them. Where a row has no mask,
    the lesion that was found in the unchanged image says where it is.

    Args:
        cascade: both stages.
        table: records with labels, masks or both.
        tta: test-time augmentation of both stages.
        seed: decides the random choices of each image and the resamples.
        resamples: number of bootstrap resamples over groups.

    Returns:
        ``rows``, one for ``none`` and one for each corruption and strength, with ``corruption``,
        ``strength``, ``amount``, ``mean_iou``, ``roc_auc``, ``sensitivity`` and ``specificity`` at
        the cutoff, ``iou_fall`` and ``auc_fall`` from the unchanged images, ``intervals`` of both
        falls, ``unanswered`` images without a probability; beside them ``n``
        images and both falls averaged over all corruptions and strengths, with ``intervals``.
        Numbers without truth are ``None``.

    Raises:
        DataError: an image cannot be read or predicted.
    """
    answers = {kind: Answers() for kind in (CLEAN, *AMOUNTS)}
    records = list(table)
    for record in progress(records, description="corrupting"):
        _predict_changed(cascade, record, answers, tta, seed)
    labels = np.array([CLASSES.index(r.label) if r.label else UNKNOWN for r in records], np.int64)
    groups = [record.group for record in records]
    rows = [_row(kind, one, labels, cascade.cutoff) for kind, one in answers.items()]
    scores: dict[str, Any] = {"n": len(records), "rows": rows, "intervals": {}}
    for name, metric, values in (
        ("iou_fall", weighted_mean, {kind: one.overlaps for kind, one in answers.items()}),
        ("auc_fall", roc_auc, {kind: one.probabilities for kind, one in answers.items()}),
    ):
        falls = _falls(metric, labels, values, groups, seed, resamples)
        for row in rows:
            row[name], row["intervals"][name] = falls.get(
                (row["corruption"], row["strength"]), (None, None)
            )
        scores[name], scores["intervals"][name] = falls.get(("mean", ""), (None, None))
    return scores


def _predict_changed(
    cascade: Cascade,
    record: Record,
    answers: dict[Kind, Answers],
    tta: TestTimeAugmentation,
    seed: int,
) -> None:
    """Add one image's answers under every kind."""
    image = read_image(record.image_path, short_side=cascade.working_side)
    truth = None
    if record.mask_path is not None:
        whole = read_mask(record.mask_path, shape=image.full_shape)
        truth = reduce_mask(whole, image.shape)
    clean = cascade([image.pixels], tta=tta)[0]
    where = truth if truth is not None else clean.mask
    changed = list(corrupted_images(image.pixels, where, record.name, seed))
    kinds = [CLEAN, *(kind for kind, _, _ in changed)]
    masks = [where, *(mask for _, _, mask in changed)]
    results = [clean, *cascade.predict_iter([pixels for _, pixels, _ in changed], tta=tta)]
    for kind, mask, result in zip(kinds, masks, results, strict=True):
        if isinstance(result, Failure):
            raise DataError(f"{record.name} with {kind[1]} {kind[0]}: {result.error}")
        probability = result.probabilities.get(CLASSES[1])
        answers[kind].probabilities.append(np.nan if probability is None else probability)
        answers[kind].overlaps.append(
            np.nan if truth is None else iou(count_pixels(mask, result.mask))
        )


def _row(kind: Kind, one: Answers, labels: np.ndarray, cutoff: float) -> dict[str, Any]:
    probabilities, overlaps = np.array(one.probabilities), np.array(one.overlaps)
    answered = ~np.isnan(probabilities)
    benign, malignant = (labels == 0) & answered, (labels == 1) & answered
    called = probabilities >= cutoff
    both = bool(benign.any() and malignant.any())
    known = malignant | benign
    weights = np.ones((1, int(known.sum())))
    return {
        "corruption": kind[0],
        "strength": kind[1],
        "amount": AMOUNTS.get(kind),
        "mean_iou": None if np.isnan(overlaps).all() else float(np.nanmean(overlaps)),
        "roc_auc": float(roc_auc(labels[known], probabilities[known], weights)[0])
        if both
        else None,
        "sensitivity": float(called[malignant].mean()) if malignant.any() else None,
        "specificity": float(1 - called[benign].mean()) if benign.any() else None,
        "unanswered": int((~answered).sum()),
        "intervals": {},
    }


def _falls(
    metric: WeightedMetric,
    labels: np.ndarray,
    values: dict[Kind, list[float]],
    groups: Sequence[str | None],
    seed: int,
    resamples: int,
) -> dict[Kind, tuple[float, list[float] | None]]:
    """How far a metric falls from the unchanged images, and on average, with intervals.

    Only images that have a value under every kind count, so that all falls are paired.
    """
    matrix = np.array(list(values.values()))
    usable = ~np.isnan(matrix).any(axis=0)
    if metric is roc_auc:
        usable &= labels != UNKNOWN
        if len(set(labels[usable].tolist())) < 2:
            return {}
    if not usable.any():
        return {}
    matrix, strata = matrix[:, usable], np.maximum(labels[usable], 0)
    chosen = [group for group, own in zip(groups, usable, strict=True) if own]
    plan = plan_resampling(
        strata.size, groups=chosen, strata=strata, seed=seed, resamples=resamples
    )

    def scores(weights: np.ndarray) -> np.ndarray:
        return np.stack([metric(strata, row, weights) for row in matrix])

    whole = scores(np.ones((1, strata.size)))
    samples = np.concatenate([scores(block) for block in plan.weights()], axis=1)
    falls, resampled = (whole[0] - whole[1:])[:, 0], samples[0] - samples[1:]
    kinds = list(values)[1:]
    found = {
        kind: (float(fall), percentile_interval(own))
        for kind, fall, own in zip(kinds, falls, resampled, strict=True)
    }
    found["mean", ""] = (float(falls.mean()), percentile_interval(resampled.mean(axis=0)))
    return found


def changed_images(image: np.ndarray, name: str, seed: int) -> Iterator[tuple[str, np.ndarray]]:
    """One image under each corruption at its greatest strength, for people to look at."""
    nothing = np.zeros(image.shape[:2], bool)
    for kind, pixels, _ in corrupted_images(image, nothing, name, seed):
        if kind[1] == STRENGTHS[-1]:
            yield kind[0], pixels
