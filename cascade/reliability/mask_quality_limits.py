"""Which masks are trusted, and which are good enough to classify by: limits from validation images.

An image that is turned away is one answer less, so the limits are chosen to turn away no more than
a given share of the validation images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from cascade.config import check_settings, from_dict, setting, to_dict
from cascade.errors import DataError
from cascade.metrics.segmentation import IOU_LIMIT
from cascade.reliability.mask_quality import MaskQuality

WHOLE_IMAGE_LIMITS = tuple(step / 20 for step in range(21))
"""Among these :func:`fit_whole_image_limit` chooses."""


_JUDGED = (
    ("the lesion's share of the image", "area_fraction", "below", "smallest_area"),
    ("the lesion's share of the image", "area_fraction", "above", "largest_area"),
    ("the heaviest region's share of the mask", "largest_component_share", "below",
     "smallest_component_share"),
    ("the lesion's share of the image border", "border_contact", "above", "largest_border_contact"),
    ("the mean probability within the lesion", "confidence", "below", "lowest_confidence"),
    ("the expected IoU", "expected_iou", "below", "lowest_expected_iou"),
    ("the number of separate regions", "component_count", "above", "most_components"),
    ("the disagreement of flipped views", "flip_disagreement", "above", "largest_disagreement"),
)  # fmt: skip
"""Words for a sign, its name in :class:`MaskQuality`, the bad side, the name of its limit."""


def _share(default: float, help: str) -> Any:
    return setting(default, help, minimum=0.0, maximum=1.0)


@dataclass(frozen=True)
class MaskQualityLimits:
    """What a mask must reach; below, its quality is low. The defaults reject an empty mask only.

    Low mask quality is always reported. Whether such a mask still cuts the crop is another
    question, because its box may be good enough: it does so above ``whole_image_up_to``, else the
    whole image is classified (whole-image fallback).
    """

    smallest_area: float = _share(0.0, "smallest share of the image that a lesion covers")
    largest_area: float = _share(1.0, "largest share of the image that a lesion covers")
    most_components: int | None = setting(None, "largest number of separate regions", minimum=1)
    smallest_component_share: float = _share(0.0, "smallest share of the heaviest region")
    largest_border_contact: float = _share(
        1.0, "largest share of the image's border that is lesion"
    )
    lowest_confidence: float = _share(0.0, "lowest mean probability within the lesion")
    lowest_expected_iou: float = _share(0.0, "lowest IoU that the probability map itself expects")
    largest_disagreement: float = _share(1.0, "largest disagreement of flipped views")
    whole_image_up_to: float = _share(
        1.0,
        "expected IoU of a mask of low quality up to which the whole image is classified instead",
    )

    def __post_init__(self) -> None:
        check_settings(self)

    def to_dict(self) -> dict[str, Any]:
        """The limits as plain JSON values."""
        return to_dict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> MaskQualityLimits:
        """Read limits back.

        Raises:
            ConfigError: a key is unknown or a value is not allowed.
        """
        return from_dict(cls, values)

    def reasons(self, quality: MaskQuality) -> tuple[str, ...]:
        """Why a mask is not usable, with what was measured and its limit; empty if it is usable.

        The disagreement of views is only judged where views were measured.
        """
        if quality.area_fraction <= 0:
            return ("no lesion was found",)
        return tuple(
            f"{what} is {measured:.3g}, {side} the limit of {limit:.3g}"
            for what, sign, side, name in _JUDGED
            if (measured := getattr(quality, sign)) is not None
            and (limit := getattr(self, name)) is not None
            and (measured < limit if side == "below" else measured > limit)
        )

    def replaces(self, quality: MaskQuality) -> bool:
        """Whether the whole image is classified instead of this mask's crop."""
        return bool(self.reasons(quality)) and quality.expected_iou <= self.whole_image_up_to


def fit_mask_quality_limits(
    qualities: Sequence[MaskQuality],
    ious: Sequence[float] | np.ndarray,
    *,
    bad_below: float = IOU_LIMIT,
    rejected_share_at_most: float = 0.1,
) -> MaskQualityLimits:
    """Choose limits on validation images that did not train the segmenter.

    A mask is bad where its IoU with the truth is below ``bad_below``. First each sign is limited to
    what was seen among the good masks, which turns away no good one; where even that is more than
    allowed, to what was seen among all masks. Then ``lowest_expected_iou`` is raised to where
    sensitivity plus specificity for bad masks is best (Youden), as far as the share allows.

    Args:
        qualities: one a validation image, empty masks too.
        ious: ``(N,)`` IoU of each mask with its truth.
        bad_below: IoU from which a mask is good; 0.65 as in ISIC 2018.
        rejected_share_at_most: share of the validation images that may be turned away, in [0, 1].
            Empty masks are always turned away and count.

    Raises:
        DataError: the lengths differ, no mask is good, or a number is outside [0, 1].
    """
    scores = np.asarray(ious, np.float64)
    if scores.shape != (len(qualities),) or not ((scores >= 0) & (scores <= 1)).all():
        raise DataError(
            f"{len(qualities)} masks and IoUs of shape {scores.shape}; give one within [0, 1] each"
        )
    if not 0 <= rejected_share_at_most <= 1:
        raise DataError(f"rejected_share_at_most is {rejected_share_at_most}, not within [0, 1]")
    bad = scores < bad_below
    found = [quality for quality in qualities if quality.area_fraction > 0]
    good = [quality for quality, is_bad in zip(qualities, bad, strict=True) if not is_bad]
    good = [quality for quality in good if quality.area_fraction > 0]
    if not good:
        raise DataError(f"none of {len(qualities)} masks reaches IoU {bad_below}; nothing to fit")
    budget = int(rejected_share_at_most * len(qualities) + 1e-9)
    limits = _extremes(good)
    if np.count_nonzero(_rejected(limits, qualities)) > budget:
        limits = _extremes(found)
    return _with_best_expected_iou(limits, qualities, bad, budget)


def fit_whole_image_limit(
    expected_ious: np.ndarray,
    crop_probabilities: np.ndarray,
    whole_probabilities: np.ndarray,
    labels: np.ndarray,
) -> float:
    """Choose from which low mask quality on the whole image is the better thing to classify.

    That is the limit with the least negative log-likelihood over validation images of low mask
    quality, 0 (never the whole image) and 1 (always) included; of equally good ones the lowest.
    Steps of 0.05 keep a few dozen images from being fitted too closely.

    Args:
        expected_ious: ``(N,)`` float in [0, 1], of masks of low quality.
        crop_probabilities: ``(N,)`` float in [0, 1] of malignant, from the masked crops.
        whole_probabilities: ``(N,)`` float in [0, 1] of malignant, from the whole images.
        labels: ``(N,)`` int, 1 for malignant.

    Returns:
        The limit for :attr:`MaskQualityLimits.whole_image_up_to`; 1 without any image.

    Raises:
        DataError: the lengths differ.
    """
    lengths = {
        len(values) for values in (expected_ious, crop_probabilities, whole_probabilities, labels)
    }
    if len(lengths) > 1:
        raise DataError(f"arrays of {', '.join(map(str, sorted(lengths)))} images; give one length")
    if not len(labels):
        return 1.0
    of_crops = _losses(crop_probabilities, labels)
    of_whole = _losses(whole_probabilities, labels)
    sums = [
        np.where(expected_ious <= limit, of_whole, of_crops).sum() for limit in WHOLE_IMAGE_LIMITS
    ]
    return WHOLE_IMAGE_LIMITS[int(np.argmin(sums))]


def _losses(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    given = np.where(labels == 1, probabilities, 1 - np.asarray(probabilities, np.float64))
    return -np.log(np.maximum(given, np.finfo(np.float64).tiny))


def _extremes(qualities: Sequence[MaskQuality]) -> MaskQualityLimits:
    """The tightest limits that turn none of these away; the expected IoU is left open."""
    disagreements = [q.flip_disagreement for q in qualities if q.flip_disagreement is not None]
    return MaskQualityLimits(
        smallest_area=min(q.area_fraction for q in qualities),
        largest_area=max(q.area_fraction for q in qualities),
        most_components=max(1, *(q.component_count for q in qualities)),
        smallest_component_share=min(q.largest_component_share for q in qualities),
        largest_border_contact=max(q.border_contact for q in qualities),
        lowest_confidence=min(q.confidence for q in qualities),
        largest_disagreement=max(disagreements, default=1.0),
    )


def _rejected(limits: MaskQualityLimits, qualities: Sequence[MaskQuality]) -> np.ndarray:
    return np.array([bool(limits.reasons(quality)) for quality in qualities])


def _with_best_expected_iou(
    limits: MaskQualityLimits, qualities: Sequence[MaskQuality], bad: np.ndarray, budget: int
) -> MaskQualityLimits:
    already = _rejected(limits, qualities)
    values = np.array([quality.expected_iou for quality in qualities])
    best, chosen = _youden(already, bad), 0.0
    for limit in np.unique(values):
        rejected = already | (values < limit)
        if np.count_nonzero(rejected) > budget:
            break
        gain = _youden(rejected, bad)
        if gain > best:
            best, chosen = gain, float(limit)
    return replace(limits, lowest_expected_iou=chosen)


def _youden(rejected: np.ndarray, bad: np.ndarray) -> float:
    """Share of bad masks turned away minus that of good ones; the latter alone without bad ones."""
    caught = float(rejected[bad].mean()) if bad.any() else 0.0
    return caught - float(rejected[~bad].mean())
