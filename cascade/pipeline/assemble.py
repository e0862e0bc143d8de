"""From what both stages found in one image to its prediction."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cascade.config import CLASSES
from cascade.imaging import ImageQuality, LoadedImage, image_quality
from cascade.lesion.masking import NO_LESION, Box, Lesion, MaskedCrop
from cascade.lesion.measurements import measure
from cascade.lesion.policy import MaskPolicy
from cascade.pipeline.prediction import Prediction
from cascade.reliability import (
    ConformalScores,
    Diagnoses,
    MaskQuality,
    Metadata,
    MetadataFusion,
)


@dataclass(frozen=True)
class DecisionRule:
    """How probabilities become an answer.

    Policy, cutoff, coverage, calibration scores, the diagnoses that the classifier tells, and what
    age, sex and site add.
    """

    policy: MaskPolicy
    cutoff: float
    coverage: float
    conformal: ConformalScores | None
    diagnoses: Diagnoses | None = None
    metadata: MetadataFusion | None = None

    def fused(self, of_image: float, known: Metadata) -> tuple[float, tuple[str, ...]]:
        """The probability of malignant, and the metadata that moved it, in words."""
        if self.metadata is None or not (used := self.metadata.used(known)):
            return of_image, ()
        return self.metadata.probability(of_image, known), known.words(used)

    def prediction_set(self, malignant: float, *, is_fused: bool) -> tuple[str, ...]:
        """The classes that stay possible; fused probabilities have their own scores."""
        fusion = self.metadata if is_fused else None
        scores = self.conformal if fusion is None else fusion.conformal
        return () if scores is None else scores.prediction_set(malignant, self.coverage)[0]


@dataclass(frozen=True)
class Joined:
    """One image between the stages; the lesion is that of ``image``, as it was read last."""

    image: LoadedImage
    probability: np.ndarray
    lesion: Lesion
    crop: MaskedCrop
    crop_box: Box
    quality: MaskQuality
    issues: tuple[str, ...]
    replaced: bool
    out_of_distribution_score: float


def _warnings(
    image: LoadedImage, joined: Joined, quality: ImageQuality, *, missing: bool, abstains: bool
) -> tuple[str, ...]:
    found = [*image.warnings, *quality.warnings, *joined.lesion.warnings]
    if missing:
        outcome = "no label is given" if abstains else "the whole image was classified"
        found = [item for item in found if not item.startswith(NO_LESION)]
        found.append(f"{NO_LESION}: {outcome}")
    if joined.issues:
        outcome = "so the whole image was classified" if joined.replaced else "but it cut the crop"
        found.append(f"low mask quality, {outcome}: {'; '.join(joined.issues)}")
    if joined.out_of_distribution_score > 1:
        found.append(
            "this does not look like a dermoscopic image of a lesion "
            f"({joined.out_of_distribution_score:.1f} times the limit): do not rely on the answer"
        )
    return tuple(found)


def full_box(box: Box, image: LoadedImage, *, inside: bool) -> Box:
    """A box in the pixels of an image as it was read, in those of the whole image.

    ``inside`` cuts it at the border, over which only the classifier's square may reach.
    """
    if image.divisor == 1:
        return box
    if box == (0, 0, *image.shape):
        return (0, 0, *image.full_shape)
    top, left, bottom, right = (edge * image.divisor for edge in box)
    height, width = image.full_shape
    return (
        (top, left, min(bottom, height), min(right, width))
        if inside
        else (
            top,
            left,
            bottom,
            right,
        )
    )


def assemble(
    rule: DecisionRule,
    joined: Joined,
    judged: tuple[np.ndarray, np.ndarray],
    scale: float | None,
    metadata: Metadata,
) -> Prediction:
    """Put together what is known of one image.

    Args:
        rule: how the probabilities become an answer.
        joined: what came out of the first stage.
        judged: ``(2,)`` probability of each class, and ``(K,)`` share of each diagnosis within its
            class.
        scale: pixels per millimetre, or ``None``.
        metadata: age, sex and site, as far as they are known.
    """
    image, lesion = joined.image, joined.lesion
    missing = not lesion.found and rule.policy.uses_mask
    abstains = missing and rule.policy.on_empty == "abstain"
    probabilities = {} if abstains else dict(zip(CLASSES, judged[0].tolist(), strict=True))
    of_image = probabilities.get(CLASSES[1])
    told: dict[str, float] = {}
    label: str | None = None
    possible: tuple[str, ...] = ()
    used: tuple[str, ...] = ()
    if of_image is not None:
        chance, used = rule.fused(of_image, metadata)
        if used:
            probabilities = dict(zip(CLASSES, (1 - chance, chance), strict=True))
        label = CLASSES[int(chance >= rule.cutoff)]
        possible = rule.prediction_set(chance, is_fused=bool(used))
    if probabilities and rule.diagnoses is not None:
        classes = np.array([probabilities[name] for name in CLASSES]) if used else judged[0]
        chances = rule.diagnoses.probabilities(classes[None], judged[1][None])[0]
        told = dict(zip(rule.diagnoses.names, chances.tolist(), strict=True))
    sizes = None
    if lesion.found:  # now, because a prediction does not keep the image
        sizes = measure(
            image.pixels, lesion.mask, pixels_per_millimetre=scale, reduction=image.divisor
        )
    known = not np.isnan(joined.out_of_distribution_score)
    quality = image_quality(image.pixels)
    return Prediction(
        name=image.name,
        label=label,
        probabilities=probabilities,
        diagnoses=told,
        lesion=lesion,
        shape=image.full_shape,
        policy=rule.policy,
        mask_probability=joined.probability,
        box=None if lesion.box is None else full_box(lesion.box, image, inside=True),
        crop=joined.crop.pixels,
        crop_box=joined.crop_box,
        orientation=image.orientation,
        warnings=_warnings(image, joined, quality, missing=missing, abstains=abstains),
        measurements=sizes,
        image_quality=quality,
        mask_quality=joined.quality,
        mask_issues=joined.issues,
        whole_image_fallback=joined.replaced,
        prediction_set=possible,
        image_probability=of_image,
        metadata_used=used,
        out_of_distribution_score=joined.out_of_distribution_score if known else None,
    )
