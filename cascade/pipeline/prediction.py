"""What comes out of a cascade for one image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from cascade.errors import CascadeError
from cascade.imaging.orientation import to_stored_box, to_stored_mask
from cascade.lesion.masking import Box
from cascade.lesion.measurements import Measurements
from cascade.reliability import MaskQuality


@dataclass(frozen=True)
class Prediction:
    """What the cascade says about one image.

    Boxes and masks are in displayed orientation, that is, after the EXIF rotation.

    Attributes:
        name: file name, or ``image`` for an array.
        label: ``benign`` or ``malignant``; ``None`` where the policy abstains.
        probabilities: class name to probability; they sum to 1. Empty where the policy abstains.
        mask: ``(H, W)`` bool, the lesion in original pixels.
        mask_probability: ``(S, S)`` float32 probability of lesion, at the segmenter's size.
        box: the lesion's bounding box ``(top, left, bottom, right)``, or ``None`` without one.
        crop: ``(s, s, 3)`` uint8 RGB, exactly what the classifier saw.
        crop_box: the square of the image that ``crop`` shows; it may reach over the border.
        orientation: EXIF orientation of the file, 1 to 8.
        warnings: what a user should know about this prediction.
        measurements: the lesion's size, shape and colour, or ``None`` without a lesion.
        mask_quality: signs that the mask may be wrong.
        mask_issues: why the mask was not trusted; empty where it was trusted, or where the cascade
            has no limits for masks.
        whole_image_fallback: mask quality was too low, so the whole image was classified instead
            of the masked crop.
        prediction_set: the classes that stay possible at the cascade's coverage; both mean that
            the cascade does not know. Empty without calibration scores or an answer.
        out_of_distribution_score: how unlike the training images this one is, as a fraction of the
            limit; above 1 the answer means nothing. ``None`` where the cascade cannot tell.
    """

    name: str
    label: str | None
    probabilities: Mapping[str, float]
    mask: np.ndarray
    mask_probability: np.ndarray
    box: Box | None
    crop: np.ndarray
    crop_box: Box
    orientation: int = 1
    warnings: tuple[str, ...] = ()
    measurements: Measurements | None = None
    mask_quality: MaskQuality | None = None
    mask_issues: tuple[str, ...] = ()
    whole_image_fallback: bool = False
    prediction_set: tuple[str, ...] = ()
    out_of_distribution_score: float | None = None

    @property
    def area_fraction(self) -> float:
        """Share of the image that the lesion covers, in [0, 1]."""
        return float(np.count_nonzero(self.mask) / self.mask.size)

    @property
    def stored_mask(self) -> np.ndarray:
        """The mask in the file's stored pixel order, before the EXIF rotation."""
        return to_stored_mask(self.mask, self.orientation)

    @property
    def stored_box(self) -> Box | None:
        """The box in the file's stored pixel order, before the EXIF rotation."""
        if self.box is None:
            return None
        return to_stored_box(self.box, self.orientation, self.mask.shape)


@dataclass(frozen=True)
class Failure:
    """An input that could not be predicted.

    Attributes:
        name: file name, or ``image`` for an array.
        error: what was wrong with it.
    """

    name: str
    error: CascadeError
