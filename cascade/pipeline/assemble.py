"""From what both stages found in one image to its prediction."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cascade.config import CLASSES
from cascade.imaging import LoadedImage, image_quality, plausibility_warnings
from cascade.lesion.masking import NO_LESION, Lesion, MaskedCrop
from cascade.lesion.measurements import measure
from cascade.lesion.policy import MaskPolicy
from cascade.pipeline.prediction import Prediction
from cascade.reliability import ConformalScores, MaskQuality


@dataclass(frozen=True)
class DecisionRule:
    """How probabilities become an answer: policy, cutoff, coverage and calibration scores."""

    policy: MaskPolicy
    cutoff: float
    coverage: float
    conformal: ConformalScores | None


@dataclass(frozen=True)
class Joined:
    """One image between the stages."""

    probability: np.ndarray
    lesion: Lesion
    crop: MaskedCrop
    quality: MaskQuality
    issues: tuple[str, ...]
    replaced: bool
    out_of_distribution_score: float


def _warnings(
    image: LoadedImage, joined: Joined, *, missing: bool, abstains: bool
) -> tuple[str, ...]:
    found = [*image.warnings, *plausibility_warnings(image.pixels), *joined.lesion.warnings]
    if missing:
        outcome = "no label is given" if abstains else "the whole image was classified"
        found = [item for item in found if not item.startswith(NO_LESION)]
        found.append(f"{NO_LESION}: {outcome}")
    if joined.issues:
        outcome = "so the whole image was classified" if joined.replaced else "but it cut the crop"
        found.append(f"low mask quality, {outcome}: {'; '.join(joined.issues)}")
    if joined.out_of_distribution_score > 1:
        found.append(
            "this does not look like a dermoscopic photograph of a lesion "
            f"({joined.out_of_distribution_score:.1f} times the limit): do not rely on the answer"
        )
    return tuple(found)


def assemble(
    rule: DecisionRule,
    image: LoadedImage,
    joined: Joined,
    judged: np.ndarray,
    scale: float | None,
) -> Prediction:
    """Put together what is known of one image.

    Args:
        rule: how the probabilities become an answer.
        image: as it was read.
        joined: what came out of the first stage.
        judged: ``(2,)`` probability of each class.
        scale: pixels per millimetre, or ``None``.
    """
    lesion = joined.lesion
    missing = not lesion.found and rule.policy.uses_mask
    abstains = missing and rule.policy.on_empty == "abstain"
    probabilities = {} if abstains else dict(zip(CLASSES, judged.tolist(), strict=True))
    label: str | None = None
    possible: tuple[str, ...] = ()
    if probabilities:
        chance = probabilities[CLASSES[1]]
        label = CLASSES[int(chance >= rule.cutoff)]
        if rule.conformal is not None:
            possible = rule.conformal.prediction_set(chance, rule.coverage)[0]
    sizes = None
    if lesion.found:  # now, because a prediction does not keep the image
        sizes = measure(image.pixels, lesion.mask, pixels_per_millimetre=scale)
    known = not np.isnan(joined.out_of_distribution_score)
    quality = image_quality(image.pixels)
    return Prediction(
        name=image.name,
        label=label,
        probabilities=probabilities,
        mask=lesion.mask,
        mask_probability=joined.probability,
        box=lesion.box,
        crop=joined.crop.pixels,
        crop_box=joined.crop.box,
        orientation=image.orientation,
        warnings=(
            *_warnings(image, joined, missing=missing, abstains=abstains),
            *quality.warnings,
        ),
        measurements=sizes,
        image_quality=quality,
        mask_quality=joined.quality,
        mask_issues=joined.issues,
        whole_image_fallback=joined.replaced,
        prediction_set=possible,
        out_of_distribution_score=joined.out_of_distribution_score if known else None,
    )
