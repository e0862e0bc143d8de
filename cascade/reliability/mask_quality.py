"""Signs that a mask may be wrong, from the probability map alone, without any truth.

Everything is measured at the size of the probability map.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from cascade.errors import ShapeError
from cascade.fields import derived, described
from cascade.lesion.masking import Lesion, label_regions, reduce_mask
from cascade.lesion.policy import MaskPolicy


@dataclass(frozen=True)
class MaskQuality:
    """What a probability map says about its own mask."""

    area_fraction: float = field(
        metadata=described("Share of the image that the lesion covers, in [0, 1].", example=0.17)
    )
    component_count: int = field(
        metadata=described("Separate regions of at least the policy's minimum area.", example=1)
    )
    largest_component_share: float = field(
        metadata=described(
            "Share of the probability above the threshold, summed over pixels, that lies in the "
            "heaviest region; 1 with a single region, 0 without any.",
            example=1.0,
        )
    )
    border_contact: float = field(
        metadata=described(
            "Share of the pixels along the image's border that are lesion, in [0, 1].", example=0.0
        )
    )
    confidence: float = field(
        metadata=described(
            "Mean probability within the lesion, in [0, 1]; 0 without a lesion.", example=0.97
        )
    )
    expected_iou: float = field(
        metadata=described(
            "IoU that the probability map itself expects of the mask, in [0, 1].", example=0.95
        )
    )
    flip_disagreement: float | None = field(
        default=None,
        metadata=described(
            "1 minus the mean IoU of the masks of all pairs of augmented views, in [0, 1]; empty "
            "with fewer than two views.",
        ),
    )

    @derived(
        column="mask_quality",
        example=0.95,
    )
    def score(self) -> float:
        """One number in [0, 1] to rank masks by: 1 is good, 0 is no lesion.

        It is the expected IoU, times the mean IoU of the views where there are any.
        """
        agreement = 1.0 if self.flip_disagreement is None else 1.0 - self.flip_disagreement
        return self.expected_iou * agreement


def mask_quality(
    probability: np.ndarray,
    lesion: Lesion,
    *,
    policy: MaskPolicy | None = None,
    views: np.ndarray | None = None,
) -> MaskQuality:
    """Measure one mask.

    The expected IoU is ``sum(p * m) / sum(max(p, m))`` over the pixels, p the probability and m the
    mask: the expected intersection over the expected union if p were right about each pixel.
    Regions that the policy dropped and probabilities beside the mask lower it.

    Args:
        probability: ``(S, S)`` or ``(h, w)`` float in [0, 1], from the segmenter.
        lesion: the lesion found in that map, at any size.
        policy: threshold and smallest region; by default those of :class:`MaskPolicy`.
        views: ``(V, S, S)`` float maps of the same image seen flipped or turned, turned back.

    Raises:
        ShapeError: a map has another shape or values outside [0, 1].
    """
    policy = policy or MaskPolicy()
    probability = _checked(probability, axes=2)
    mask = reduce_mask(lesion.mask, probability.shape)
    regions, share = _regions(probability, policy)
    inside = float(probability[mask].sum())
    union = float(np.maximum(probability, mask).sum())
    return MaskQuality(
        area_fraction=lesion.area_fraction,
        component_count=regions,
        largest_component_share=share,
        border_contact=_border_contact(mask),
        confidence=_ratio(inside, float(np.count_nonzero(mask))),
        expected_iou=_ratio(inside, union),
        flip_disagreement=None if views is None else _disagreement(views, policy.threshold),
    )


def _ratio(part: float, whole: float) -> float:
    return min(1.0, part / whole) if whole else 0.0  # rounding may exceed 1


def _regions(probability: np.ndarray, policy: MaskPolicy) -> tuple[int, float]:
    """How many regions are large enough; the share of the heaviest one in the mass of all."""
    count, regions, areas, _ = label_regions(probability >= policy.threshold)
    large = np.count_nonzero(areas >= max(1.0, policy.minimum_area * probability.size))
    if count <= 2:
        return int(large), float(count - 1)
    masses = np.bincount(regions.ravel(), weights=probability.ravel(), minlength=count)[1:]
    return int(large), _ratio(float(masses.max()), float(masses.sum()))


def _border_contact(mask: np.ndarray) -> float:
    inner = mask[1:-1, 1:-1]
    touched = np.count_nonzero(mask) - np.count_nonzero(inner)
    return float(touched / (mask.size - inner.size))


def _disagreement(views: np.ndarray, threshold: float) -> float | None:
    views = _checked(views, axes=3)
    if len(views) < 2:
        return None
    masks = (views >= threshold).reshape(len(views), -1).astype(np.float32)
    both = masks @ masks.T
    areas = np.diag(both)
    either = areas[:, None] + areas[None, :] - both
    # Two views without any lesion agree.
    overlap = np.divide(both, either, out=np.ones_like(both), where=either > 0)
    return float(1.0 - overlap[np.triu_indices(len(views), k=1)].mean())


def _checked(values: np.ndarray, *, axes: int) -> np.ndarray:
    if values.ndim != axes or values.dtype.kind != "f" or not values.size:
        expected = ("(h, w) float", "(V, h, w) float")[axes - 2]
        raise ShapeError(
            f"probabilities are {values.shape} {values.dtype}; give {expected}",
            expected=expected,
            actual=values.shape,
        )
    if not 0 <= values.min() <= values.max() <= 1:  # NaN fails every comparison
        raise ShapeError("a probability map holds values within [0, 1]; these are logits or NaN")
    return values.astype(np.float32, copy=False)
