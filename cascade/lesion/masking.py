"""The joint between the two stages, and the only place where a mask meets an image.

A segmenter's probability map becomes a binary mask, the mask becomes one lesion, the lesion
becomes a box, and the box and mask cut the square crop that the classifier sees. Training on
masked crops, prediction, explanation and export all call these functions with one frozen
:class:`MaskPolicy`, which is stored in the classifier's file.

Masking works on uint8 pixels, before any normalisation. Boxes are ``(top, left, bottom, right)``,
half-open, in pixels of the image.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import cv2
import numpy as np

from cascade.errors import EmptyMaskError, ShapeError
from cascade.imaging.resize import resize_pixels, resize_probability
from cascade.lesion.policy import LARGEST_MARGIN, MASK_MODES, MaskPolicy

Box = tuple[int, int, int, int]
NO_LESION = "no lesion found"
_SLICE = 256
"""Rows of a large mask that are summed at a time."""

__all__ = [
    "LARGEST_MARGIN",
    "MASK_MODES",
    "NO_LESION",
    "Box",
    "Lesion",
    "MaskPolicy",
    "MaskedCrop",
    "apply_mask",
    "bounding_box",
    "crop_box",
    "find_lesion",
    "lesion_at",
    "lesion_from_mask",
    "reduce_mask",
]


@dataclass(frozen=True)
class Lesion:
    """One lesion in an image.

    Attributes:
        mask: ``(H, W)`` bool.
        box: the mask's bounding box, or ``None`` for an empty mask.
        component_count: number of separate components before any was dropped.
        warnings: what a user should know about this mask.
    """

    mask: np.ndarray
    box: Box | None
    component_count: int
    warnings: tuple[str, ...] = ()

    @property
    def found(self) -> bool:
        """Whether there is a lesion."""
        return self.box is not None

    @property
    def area_fraction(self) -> float:
        """Share of the image that the lesion covers, in [0, 1]."""
        return float(np.count_nonzero(self.mask) / self.mask.size)


@dataclass(frozen=True)
class MaskedCrop:
    """What the classifier sees.

    Attributes:
        pixels: ``(S, S, 3)`` uint8 RGB.
        box: the square that was cut, in image pixels; it may reach over the image's border. The
            whole image for ``frame="full"``.
        lesion_found: ``False`` where the whole image stands in for a missing lesion.
    """

    pixels: np.ndarray
    box: Box
    lesion_found: bool = field(default=True)


def find_lesion(
    probability: np.ndarray, policy: MaskPolicy, *, shape: tuple[int, int] | None = None
) -> Lesion:
    """Turn a probability map into the lesion that the policy asks for.

    Args:
        probability: ``(h, w)`` float in [0, 1], at any size.
        policy: threshold and component rules.
        shape: ``(H, W)`` of the original image; the map is scaled up to it (bilinear) first.

    Raises:
        ShapeError: the map is not two-dimensional, or has values outside [0, 1] or NaN.
    """
    if probability.ndim != 2 or probability.dtype.kind != "f" or not probability.size:
        raise ShapeError(
            f"a probability map is (H, W) float, got {probability.shape} {probability.dtype}",
            expected="(H, W) float",
            actual=probability.shape,
        )
    if not 0 <= probability.min() <= probability.max() <= 1:  # NaN fails every comparison
        raise ShapeError("a probability map holds values within [0, 1]; these are logits or NaN")
    full = resize_probability(probability, shape or probability.shape)
    return lesion_from_mask(full >= policy.threshold, policy, weight=full)


def lesion_from_mask(
    mask: np.ndarray, policy: MaskPolicy, *, weight: np.ndarray | None = None
) -> Lesion:
    """Choose the lesion among the components of a binary mask.

    Args:
        mask: ``(H, W)`` bool.
        policy: component rules.
        weight: ``(H, W)`` probabilities; the heaviest component counts as the largest.
    """
    _check_mask(mask)
    count, labels, areas, has_holes = label_regions(mask)
    large = np.flatnonzero(areas >= max(1.0, policy.minimum_area * mask.size)) + 1
    warnings: list[str] = []
    if large.size == 0:
        warnings.append(NO_LESION if count == 1 else f"{NO_LESION}: only specks in the mask")
        return Lesion(np.zeros_like(mask), None, count - 1, tuple(warnings))
    if policy.keep == "largest" and large.size > 1:
        masses = areas.astype(np.float64) if weight is None else _masses(labels, weight, count)
        chosen = large[np.argmax(masses[large - 1])]
        warnings.append(f"{large.size} separate regions in the mask, the largest was used")
        kept = labels == chosen
    elif large.size == count - 1:
        kept = mask.copy()
    else:
        is_large = np.zeros(count, bool)
        is_large[large] = True
        kept = is_large[labels]
    if policy.fill_holes and has_holes:
        kept = _filled(kept)
    box = bounding_box(kept)
    if _touches_border(kept):
        warnings.append("the lesion touches the image border")
    return Lesion(kept, box, count - 1, tuple(warnings))


def label_regions(mask: np.ndarray) -> tuple[int, np.ndarray, np.ndarray, bool]:
    """Connected regions of ``(H, W)`` bool, eight neighbours to a pixel.

    Returns:
        The number of labels with that of the background, the label of each pixel ``(H, W)`` (int32,
        or bool for a single region), the number of pixels of each region, and whether any region
        has a hole.
    """
    pixels = np.ascontiguousarray(mask).view(np.uint8)
    contours, hierarchy = cv2.findContours(pixels, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    # a contour without a parent is a region; following them is far faster than labelling pixels
    regions = int((hierarchy[0, :, 3] < 0).sum()) if contours else 0
    has_holes = len(contours) > regions
    if regions <= 1:
        areas = np.array([np.count_nonzero(mask)] * regions, np.int64)
        return regions + 1, mask, areas, has_holes
    count, labels, statistics, _ = cv2.connectedComponentsWithStats(pixels, connectivity=8)
    return count, labels, statistics[1:, cv2.CC_STAT_AREA], has_holes


def lesion_at(
    lesion: Lesion, probability: np.ndarray, policy: MaskPolicy, shape: tuple[int, int]
) -> Lesion:
    """The same lesion at another size: the regions of the map that overlap it.

    Args:
        lesion: found in the same map at a smaller size.
        probability: ``(h, w)`` float in [0, 1].
        policy: by which the lesion was found.
        shape: ``(H, W)`` of the result.
    """
    if lesion.mask.shape == tuple(shape):
        return lesion
    if not lesion.found:
        return replace(lesion, mask=np.zeros(shape, np.bool_))
    size = shape[1], shape[0]
    near = cv2.resize(lesion.mask.view(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0
    regions = resize_probability(probability, shape) >= policy.threshold
    count, labels, _, _ = label_regions(regions)
    overlaps = np.bincount(labels[near].astype(np.int64), minlength=count)
    overlaps[0] = 0
    if not overlaps.any():  # a lesion of less than a pixel of the larger size
        kept = near
    elif policy.keep == "largest":
        kept = labels == overlaps.argmax()
    else:
        kept = (overlaps > 0)[labels.astype(np.int64)]
    if policy.fill_holes:
        kept = _filled(np.ascontiguousarray(kept))
    return replace(lesion, mask=kept, box=bounding_box(kept))


def _masses(labels: np.ndarray, weight: np.ndarray, count: int) -> np.ndarray:
    """Summed weight of each label but 0, in slices: numpy takes 16 bytes a pixel for a sum."""
    masses = np.zeros(count)
    for start in range(0, len(labels), _SLICE):
        rows = slice(start, start + _SLICE)
        masses += np.bincount(labels[rows].ravel(), weights=weight[rows].ravel(), minlength=count)
    return masses[1:]


def _check_mask(mask: np.ndarray) -> None:
    if mask.ndim != 2 or mask.dtype != np.bool_ or not mask.size:  # OpenCV crashes without pixels
        raise ShapeError(
            f"a mask is (H, W) bool, got {mask.shape} {mask.dtype}; compare it with a threshold",
            expected="(H, W) bool",
            actual=mask.shape,
        )


def _filled(mask: np.ndarray) -> np.ndarray:
    contours, _ = cv2.findContours(mask.view(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    canvas = np.zeros(mask.shape, np.uint8)
    cv2.drawContours(canvas, contours, -1, color=1, thickness=cv2.FILLED)
    return canvas.view(np.bool_)


def _touches_border(mask: np.ndarray) -> bool:
    return bool(mask[0].any() or mask[-1].any() or mask[:, 0].any() or mask[:, -1].any())


def reduce_mask(mask: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A mask ``(H, W)`` bool at another size; the smallest lesion still marks a pixel."""
    if mask.shape == tuple(shape):
        return mask
    share = cv2.resize(mask.astype(np.float32), (shape[1], shape[0]), interpolation=cv2.INTER_AREA)
    limit = min(0.5, float(share.max()))
    return share >= limit if limit > 0 else np.zeros(shape, np.bool_)


def bounding_box(mask: np.ndarray) -> Box | None:
    """Smallest box around the true pixels of ``(H, W)`` bool, or ``None`` without any."""
    rows = np.flatnonzero(mask.any(axis=1))
    if rows.size == 0:
        return None
    columns = np.flatnonzero(mask.any(axis=0))
    return int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1


def crop_box(box: Box, shape: tuple[int, int], margin: float) -> Box:
    """The square around a lesion's box with a margin of skin.

    The square is moved back inside the image where it fits; where it is larger than the image
    along an axis it is centred there and reaches over the border evenly.

    Args:
        box: the lesion's bounding box.
        shape: ``(H, W)`` of the image.
        margin: skin on each side, as a fraction of the longer side of ``box``.
    """
    top, left, bottom, right = box
    longer = max(bottom - top, right - left)
    side = max(1, longer + 2 * math.ceil(longer * margin))
    starts = []
    for low, high, length in ((top, bottom, shape[0]), (left, right, shape[1])):
        start = (low + high - side) // 2
        start = min(max(start, 0), length - side) if side <= length else -((side - length) // 2)
        starts.append(start)
    return starts[0], starts[1], starts[0] + side, starts[1] + side


def apply_mask(image: np.ndarray, lesion: Lesion, policy: MaskPolicy, *, size: int) -> MaskedCrop:
    """Cut the classifier's input out of an image.

    Args:
        image: ``(H, W, 3)`` uint8 RGB, original pixels.
        lesion: the lesion in the same frame.
        policy: what to keep.
        size: side of the result in pixels.

    Returns:
        The crop ``(size, size, 3)`` uint8 and the square it shows.

    Raises:
        ShapeError: image and mask differ in ``H, W``.
        EmptyMaskError: there is no lesion and ``policy.on_empty`` is ``raise``.
    """
    if image.shape != (*lesion.mask.shape, 3) or image.dtype != np.uint8:
        raise ShapeError(
            f"image {image.shape} {image.dtype} does not fit mask {lesion.mask.shape}; it must be "
            "(H, W, 3) uint8 RGB with the mask's height and width",
            expected=(*lesion.mask.shape, 3),
            actual=image.shape,
        )
    whole = (0, 0, *image.shape[:2])
    if not policy.uses_mask:
        return MaskedCrop(resize_pixels(image, size), whole, lesion.found)
    if lesion.box is None:
        if policy.on_empty == "raise":
            raise EmptyMaskError("no lesion found; choose another on_empty to go on without one")
        return MaskedCrop(resize_pixels(image, size), whole, lesion_found=False)
    box = (
        whole if policy.frame == "full" else crop_box(lesion.box, lesion.mask.shape, policy.margin)
    )
    pixels = resize_pixels(_window(image, box, policy.fill), size)
    if policy.background == "keep":
        return MaskedCrop(pixels, box)
    inside = _inside(_window(lesion.mask.astype(np.float32), box, 0.0), size)
    opacity = _opacity(inside, policy, unit=_box_side(lesion.box, box) * size)
    return MaskedCrop(_blend(pixels, opacity, policy.fill), box)


def _box_side(lesion_box: Box, box: Box) -> float:
    """Longer side of the lesion's box as a fraction of the side of ``box`` along that axis."""
    return max(
        (lesion_box[2] - lesion_box[0]) / (box[2] - box[0]),
        (lesion_box[3] - lesion_box[1]) / (box[3] - box[1]),
    )


def _inside(mask: np.ndarray, size: int) -> np.ndarray:
    """The mask ``(h, w)`` float32 at the crop's size; a tiny lesion still marks one pixel."""
    inside: np.ndarray = resize_probability(mask, (size, size)) >= 0.5
    if inside.any() or not mask.any():
        return inside
    covered = cv2.resize(mask, (size, size), interpolation=cv2.INTER_AREA)
    return np.asarray(covered == covered.max())


def _opacity(inside: np.ndarray, policy: MaskPolicy, *, unit: float) -> np.ndarray:
    """How much of each pixel stays, in [0, 1]; ``unit`` is the lesion's longer side in pixels."""
    if policy.background == "hard":
        return inside.astype(np.float32)
    distance = cv2.distanceTransform((~inside).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    if not inside.any():
        distance = np.full_like(distance, np.inf)
    beyond = distance - policy.dilation * unit
    kept = np.clip(1.0 - beyond / max(policy.feather * unit, 1e-6), 0.0, 1.0)
    return 1.0 - kept if policy.background == "only" else kept


def _blend(pixels: np.ndarray, opacity: np.ndarray, fill: tuple[int, int, int]) -> np.ndarray:
    weight = opacity[..., None].astype(np.float32)
    mixed = pixels * weight + np.asarray(fill, np.float32) * (1.0 - weight)
    return np.rint(mixed).astype(np.uint8)


def _window(values: np.ndarray, box: Box, fill: Any) -> np.ndarray:
    """The pixels under ``box``, padded with ``fill`` where it reaches over the border."""
    height, width = values.shape[:2]
    top, left, bottom, right = box
    inner = values[max(top, 0) : min(bottom, height), max(left, 0) : min(right, width)]
    padding = (max(-top, 0), max(bottom - height, 0), max(-left, 0), max(right - width, 0))
    if not any(padding):
        return inner
    return cv2.copyMakeBorder(inner, *padding, cv2.BORDER_CONSTANT, value=fill)
