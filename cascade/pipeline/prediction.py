"""What comes out of a cascade for one image: every field of a result, declared once."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from cascade.config import CLASSES
from cascade.errors import CascadeError
from cascade.fields import derived, described
from cascade.imaging.orientation import to_stored_box, to_stored_mask
from cascade.imaging.quality import ImageQuality
from cascade.lesion.masking import Box, Lesion, MaskPolicy, lesion_at
from cascade.lesion.measurements import Measurements
from cascade.reliability import MaskQuality

CORNERS = ("top", "left", "bottom", "right")
_BOX = {"top": 101, "left": 182, "bottom": 343, "right": 425}
_CROP_BOX = {"top": 16, "left": 97, "bottom": 428, "right": 509}


@dataclass(frozen=True)
class Prediction:
    """What the cascade says about one image.

    Boxes and masks are in displayed orientation, that is, after the EXIF rotation. Tables, JSON,
    the page and the documentation list the fields that are ``described`` here, and those of the
    records among them.

    Attributes:
        name: file name, or ``image`` for an array.
        lesion: what was found in the image as it was read, which may be reduced.
        shape: ``(H, W)`` of the whole image as displayed.
        policy: by which the mask was cut.
        mask_probability: ``(S, S)`` float32 probability of lesion, at the segmenter's size.
        crop: ``(s, s, 3)`` uint8 RGB, exactly what the classifier saw.
    """

    name: str
    label: str | None = field(
        metadata=described(
            "Class by the cutoff alone; empty where the cascade abstains.",
            column="label",
            example="benign",
        )
    )
    probabilities: Mapping[str, float] = field(
        metadata=described(
            "Calibrated probability of each class; they sum to 1. Empty where it abstains.",
            column="probability",
            parts=CLASSES,
            example={"benign": 0.959, "malignant": 0.041},
        )
    )
    lesion: Lesion = field(repr=False)
    shape: tuple[int, int]
    policy: MaskPolicy = field(repr=False)
    mask_probability: np.ndarray
    box: Box | None = field(
        metadata=described(
            "The lesion's bounding box, half-open, in displayed pixels; empty without a lesion.",
            column="box",
            parts=CORNERS,
            unit="px",
            example=_BOX,
        )
    )
    crop: np.ndarray
    crop_box: Box = field(
        metadata=described(
            "The square of the image that the classifier saw; it may reach over the border.",
            parts=CORNERS,
            unit="px",
            example=_CROP_BOX,
        )
    )
    prediction_set: tuple[str, ...] = field(
        default=(),
        metadata=described(
            "Classes that stay possible at the cascade's coverage; both mean that it does not "
            "know. Empty without calibration scores or an answer.",
            column="prediction_set",
            separator=" ",
            example=["benign"],
        ),
    )
    image_probability: float | None = field(
        default=None,
        metadata=described(
            "Calibrated probability of malignant from the image alone; that of malignant differs "
            "only where metadata was used. Empty where it abstains.",
            column="image_probability",
            example=0.041,
        ),
    )
    metadata_used: tuple[str, ...] = field(
        default=(),
        metadata=described(
            "Age, sex and site that moved the probability of malignant from that of the image; "
            "empty where none was known or the cascade has no metadata fusion.",
            column="metadata_used",
            example=[],
        ),
    )
    out_of_distribution_score: float | None = field(
        default=None,
        metadata=described(
            "How unlike the training images this one is, as a fraction of the limit; above 1 the "
            "answer means nothing. Empty where the cascade cannot tell.",
            column="out_of_distribution_score",
            example=0.38,
        ),
    )
    diagnoses: Mapping[str, float] = field(
        default_factory=dict,
        metadata=described(
            "Probability of each diagnosis that the classifier tells apart. The malignant ones sum "
            "to the probability of malignant, all to 1. Empty where it abstains or tells none.",
            column="diagnosis",
            open_parts=True,
            example={"melanocytic nevus": 0.91, "benign keratosis": 0.049, "melanoma": 0.041},
        ),
    )
    orientation: int = field(
        default=1,
        metadata=described(
            "EXIF orientation of the file, 1 to 8. Boxes and images are in displayed pixels, that "
            "is, after it was applied; stored boxes are in the file's own order.",
            example=1,
        ),
    )
    measurements: Measurements | None = field(
        default=None,
        metadata=described("The lesion's size, shape and colour; empty without a lesion."),
    )
    image_quality: ImageQuality | None = field(
        default=None, metadata=described("Focus and exposure of the image.")
    )
    mask_quality: MaskQuality | None = field(
        default=None, metadata=described("Signs that the mask may be wrong.")
    )
    mask_issues: tuple[str, ...] = field(
        default=(),
        metadata=described(
            "Signs of mask quality beyond the cascade's limits; empty where the mask is trusted.",
            column="mask_issues",
            example=[],
        ),
    )
    whole_image_fallback: bool = field(
        default=False,
        metadata=described(
            "Mask quality was too low, so the whole image was classified, not the masked crop.",
            column="whole_image_fallback",
            example=False,
        ),
    )
    warnings: tuple[str, ...] = field(
        default=(),
        metadata=described(
            "What a user should know about this prediction.",
            column="warnings",
            example=[],
        ),
    )

    @derived(unit="px", column="height", example=450)
    def height(self) -> int:
        """Height of the image in displayed orientation."""
        return self.shape[0]

    @derived(unit="px", column="width", example=600)
    def width(self) -> int:
        """Width of the image in displayed orientation."""
        return self.shape[1]

    @derived(
        column="area_fraction",
        example=0.17,
    )
    def area_fraction(self) -> float:
        """Share of the image that the lesion covers, in [0, 1]."""
        return self.lesion.area_fraction

    @derived(
        parts=CORNERS,
        unit="px",
        example=_BOX,
    )
    def stored_box(self) -> Box | None:
        """The lesion's bounding box in the file's stored pixel order, before the EXIF rotation."""
        return self._stored(self.box)

    @derived(
        parts=CORNERS,
        unit="px",
        example=_CROP_BOX,
    )
    def stored_crop_box(self) -> Box | None:
        """The classifier's square in the file's stored pixel order."""
        return self._stored(self.crop_box)

    @functools.cached_property
    def mask(self) -> np.ndarray:
        """``(H, W)`` bool, the lesion in original pixels; scaled up when it is first asked for."""
        return lesion_at(self.lesion, self.mask_probability, self.policy, self.shape).mask

    @property
    def stored_mask(self) -> np.ndarray:
        """The mask in the file's stored pixel order, before the EXIF rotation."""
        return to_stored_mask(self.mask, self.orientation)

    def _stored(self, box: Box | None) -> Box | None:
        return None if box is None else to_stored_box(box, self.orientation, self.shape)


@dataclass(frozen=True)
class Failure:
    """An input that could not be predicted.

    Attributes:
        name: file name, or ``image`` for an array.
        error: what was wrong with it.
    """

    name: str
    error: CascadeError
