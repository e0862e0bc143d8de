"""What is fitted after both trainings, on validation images: probabilities, cutoffs, safeguards.

Everything is chosen on images that trained neither stage and is then stored in the cascade's file,
so that the test images decide nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from cascade.config import CLASSES, ClassificationTrainConfig
from cascade.data.corruptions import AMOUNTS
from cascade.data.datasets import ClassificationDataset
from cascade.data.splits import Splits
from cascade.data.synthetic import NON_LESIONS, draw_non_lesion
from cascade.data.tables import Record, Table
from cascade.errors import ConfigError
from cascade.imaging import read_image, read_mask
from cascade.lesion.masking import apply_mask, find_lesion
from cascade.lesion.policy import MaskPolicy
from cascade.metrics.classification import classification_metrics
from cascade.metrics.segmentation import IOU_LIMIT, count_pixels, iou
from cascade.models.classifier import Classifier
from cascade.models.ensemble import ClassifierEnsemble
from cascade.models.segmenter import Segmenter
from cascade.pipeline.stages import classify, segment_views, segment_views_with_features
from cascade.progress import progress
from cascade.reliability import (
    Calibration,
    ConformalScores,
    MaskQualityLimits,
    OutOfDistributionDetector,
    Safeguards,
    fit_mask_quality_limits,
    fit_out_of_distribution_detector,
    fit_platt,
    fit_whole_image_limit,
    mask_quality,
)
from cascade.training.classification import (
    SENSITIVITIES,
    malignant_probabilities,
    operating_points,
    predict_raw_logits,
)
from cascade.training.corrupted_validation import corrupted_logits
from cascade.training.images_seen import require_same_division

log = logging.getLogger(__name__)

MOST_IMAGES = 1000
"""Images that the out-of-distribution detector is fitted on at most; more change it little."""

NON_LESIONS_OF_A_KIND = 20
"""Drawn images of each kind on which that detector is tried; they fit nothing."""


@dataclass(frozen=True)
class CalibrationResult:
    """What a calibration found.

    ``facts`` are numbers of images, likelihoods before and after, and limits, as plain JSON values.
    """

    safeguards: Safeguards
    facts: dict[str, Any] = field(default_factory=dict)


def calibrate_cascade(
    segmenter: Segmenter,
    classifier: Classifier | ClassifierEnsemble,
    table: Table,
    splits: Splits,
    *,
    masks: str | None = None,
    sensitivity: float = 0.9,
    corrupted_copies: int = 0,
    batch_size: int = 32,
    seed: int = 0,
) -> CalibrationResult:
    """Fit probabilities and cutoffs of a classifier in place, and the safeguards of a cascade.

    In this order, all on the validation part: temperature and bias (Platt 1999), cutoffs for
    sensitivities of 0.80, 0.90 and 0.95, calibration scores for sets of classes, limits for masks
    (on the images with true masks), the limit below which the whole image is classified instead of
    the masked crop (on all), and the threshold of the out-of-distribution detector, which itself is
    fitted on training images.

    Args:
        segmenter: the first stage.
        classifier: the second stage; its temperature, bias, cutoffs and ``metrics`` are set.
        table: labelled records, with true masks where there are any.
        splits: the division that the classifier was trained with.
        masks: folder of predicted masks of all validation images, from a segmenter that did not
            train on them; by default the true masks of the table.
        sensitivity: the operating point that becomes the default cutoff; 0.8, 0.9 or 0.95.
        corrupted_copies: so many random changes of each validation image (:data:`cascade.data.\
            corruptions.CORRUPTIONS`) count like further images for the cutoffs, so that these hold
            better for images of another clinic; probabilities are those of unchanged images.
        batch_size: crops that pass the classifier together.
        seed: draws these changes, and training images for the out-of-distribution detector.

    Raises:
        ConfigError: there is no such operating point, or there are fewer corruptions.
        DataError: the classifier was trained with another division, or masks are missing.
    """
    if sensitivity not in SENSITIVITIES:
        known = ", ".join(f"{value:.2f}" for value in SENSITIVITIES)
        raise ConfigError(f"sensitivity is {sensitivity}; choose from {known}")
    if not 0 <= corrupted_copies <= len(AMOUNTS):
        raise ConfigError(
            f"corrupted_copies is {corrupted_copies}; choose from 0 to {len(AMOUNTS)}"
        )
    require_same_division(classifier.provenance, splits)
    train, validation = splits.parts(table)
    cut = validation if masks is None else validation.with_masks_from(masks)
    further = corrupted_logits(
        segmenter, classifier, validation, copies=corrupted_copies, seed=seed
    )
    facts, conformal = _calibrate_classifier(classifier, cut, further, batch_size)
    classifier.cutoff = classifier.operating_points[f"{sensitivity:.2f}"]
    limits, facts["mask_quality"] = _fit_mask_quality_limits(
        segmenter, validation.with_mask(), classifier.policy
    )
    if limits is not None and classifier.policy.uses_mask:
        limits, found = _with_whole_image_limit(limits, segmenter, classifier, validation)
        facts["mask_quality"] |= found
    out_of_distribution, facts["out_of_distribution"] = _fit_out_of_distribution(
        segmenter, train.records, validation.records, seed
    )
    facts["splits_digest"] = splits.digest
    classifier.metrics = {**classifier.metrics, "calibration": facts}
    return CalibrationResult(Safeguards(conformal, limits, out_of_distribution), facts)


def _calibrate_classifier(
    classifier: Classifier | ClassifierEnsemble,
    validation: Table,
    further: tuple[np.ndarray, np.ndarray],
    batch_size: int,
) -> tuple[dict[str, Any], ConformalScores]:
    """Fit on the validation images; ``further`` logits and labels count for the cutoffs only."""
    data = ClassificationDataset(validation.records, size=classifier.size, policy=classifier.policy)
    settings = ClassificationTrainConfig(batch_size=batch_size)
    logits = predict_raw_logits(classifier, data, settings)  # type: ignore[arg-type]
    values, labels = logits.cpu().numpy(), data.labels
    fitted = fit_platt(values, labels)
    classifier.temperature, classifier.bias = fitted.temperature, fitted.bias
    chances, of_further = (
        malignant_probabilities(classifier.calibrated(torch.from_numpy(one)))
        for one in (values, further[0])
    )
    classifier.operating_points = operating_points(
        np.concatenate([labels, further[1]]), np.concatenate([chances, of_further])
    )
    facts = {
        "images": len(data),
        "malignant": int(data.labels.sum()),
        "corrupted_images": len(further[1]),
        **fitted.to_dict(),
        "log_loss_before": _log_loss(Calibration().probabilities(values)[:, 1], labels),
        "log_loss_after": _log_loss(fitted.probabilities(values)[:, 1], labels),
    }
    return facts, ConformalScores.from_probabilities(chances, labels)


def _log_loss(chances: np.ndarray, labels: np.ndarray) -> float:
    return float(classification_metrics(labels, chances, resamples=1)["log_loss"])


def _fit_mask_quality_limits(
    segmenter: Segmenter, validation: Table, policy: MaskPolicy
) -> tuple[MaskQualityLimits | None, dict[str, Any]]:
    if not len(validation):
        log.warning("warning: no validation image has a true mask, so mask quality is not judged")
        return None, {"images": 0}
    qualities, scores = [], []
    for record in progress(validation, description="mask limits"):
        image = read_image(record.image_path).pixels
        views = segment_views(segmenter, [image], tta="flips")[:, 0]
        lesion = find_lesion(views[0], policy, shape=image.shape[:2])  # one pass, as in use
        qualities.append(mask_quality(views[0], lesion, policy=policy, views=views))
        truth = read_mask(str(record.mask_path), shape=image.shape[:2])
        scores.append(iou(count_pixels(truth, lesion.mask)))
    if max(scores) < IOU_LIMIT:
        log.warning("warning: no mask reaches IoU %g, so mask quality is not judged", IOU_LIMIT)
        return None, {"images": len(scores)}
    limits = fit_mask_quality_limits(qualities, scores)
    low = np.array([bool(limits.reasons(quality)) for quality in qualities])
    ious = np.array(scores)
    return limits, {
        "images": len(scores),
        "low_quality": int(low.sum()),
        "mean_iou_low_quality": float(ious[low].mean()) if low.any() else None,
        "mean_iou_trusted": float(ious[~low].mean()) if not low.all() else None,
    }


def _with_whole_image_limit(
    limits: MaskQualityLimits,
    segmenter: Segmenter,
    classifier: Classifier | ClassifierEnsemble,
    validation: Table,
) -> tuple[MaskQualityLimits, dict[str, Any]]:
    """The same limits, with that from which on a mask of low quality still cuts the crop."""
    policy = classifier.policy
    expected, labels, judged = [], [], []
    for record in progress(validation, description="masks of low quality"):
        image = read_image(record.image_path).pixels
        probability = segment_views(segmenter, [image], tta="none")[0, 0]
        lesion = find_lesion(probability, policy, shape=image.shape[:2])
        quality = mask_quality(probability, lesion, policy=policy)
        if not (lesion.found and limits.reasons(quality)):
            continue
        pair = [
            apply_mask(image, lesion, way, size=classifier.size)
            for way in (policy, policy.without_mask())
        ]
        judged.append(classify(classifier, pair)[:, 1])
        expected.append(quality.expected_iou)
        labels.append(int(record.label == CLASSES[1]))
    of_crops, of_whole = np.array(judged, np.float64).reshape(-1, 2).T
    limit = fit_whole_image_limit(np.array(expected), of_crops, of_whole, np.array(labels))
    return replace(limits, whole_image_up_to=limit), {
        "labelled_images": len(validation),
        "labelled_low_quality": len(labels),
        "labelled_whole_image": int(np.count_nonzero(np.array(expected) <= limit)),
    }


def _fit_out_of_distribution(
    segmenter: Segmenter, train: Sequence[Record], held_out: Sequence[Record], seed: int
) -> tuple[OutOfDistributionDetector, dict[str, Any]]:
    generator = np.random.default_rng(seed)
    chosen = generator.permutation(len(train))[:MOST_IMAGES]
    model = fit_out_of_distribution_detector(
        _features(segmenter, _pixels([train[index] for index in chosen])),
        held_out=_features(segmenter, _pixels(held_out[:MOST_IMAGES])),
    )
    noticed = {
        kind: float(np.mean(~model.is_in_distribution(_features(segmenter, _non_lesions(kind)))))
        for kind in NON_LESIONS
    }
    return model, {**model.settings(), "detected_share_of_non_lesions": noticed}


def _non_lesions(kind: str) -> Iterator[np.ndarray]:
    return (draw_non_lesion(kind, seed=seed) for seed in range(NON_LESIONS_OF_A_KIND))


def _pixels(records: Sequence[Record]) -> Iterator[np.ndarray]:
    for record in progress(records, description="features"):
        yield read_image(record.image_path).pixels


def _features(segmenter: Segmenter, images: Iterable[np.ndarray]) -> np.ndarray:
    """``(N, D)`` float32 features of ``(H, W, 3)`` uint8 RGB images."""
    found = [segment_views_with_features(segmenter, [image])[1] for image in images]
    return np.concatenate(found)
