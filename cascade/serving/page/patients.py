"""Several images as the lesions of one patient: which of them is unlike the others, in words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from cascade.lesion.patient import FEATURES, FEWEST, PatientContext
from cascade.pipeline.patients import contexts_from
from cascade.serving.page.findings import Finding, Problem

STANDS_OUT = 2.0
"""From this score on a lesion is marked; few of equal lesions reach it, see docs/patients.md."""

LIMITS = (
    "The comparison sees the colour and the contour of the lesions only, and light and camera must "
    "be the same for all images. It is no diagnosis: most odd lesions are benign, and a malignant "
    "lesion may look like the others."
)


@dataclass(frozen=True)
class PatientLine:
    """One image of the patient: its place by probability, its score, and whether it is marked."""

    name: str
    place: str
    score: str
    odd: bool


@dataclass(frozen=True)
class Comparison:
    """What the page says of a patient.

    Attributes:
        lines: one for each image, in order.
        sentences: what stands out, and what that does not mean.
    """

    lines: tuple[PatientLine, ...]
    sentences: tuple[str, ...]


def compare(results: Sequence[Finding | Problem]) -> Comparison:
    """Compare the lesions on several images; equal files are one lesion.

    Args:
        results: of all images of one patient.
    """
    missing = (math.nan,) * (len(FEATURES) + 1)
    contexts = contexts_from(
        [item.numbers if isinstance(item, Finding) else missing for item in results],
        [item.digest if isinstance(item, Finding) else None for item in results],
    )
    scores = [_score(context) for context in contexts]
    highest = max(scores)
    lines = tuple(
        PatientLine(
            item.name,
            "–" if context.rank is None else f"{context.rank} of {context.lesions}",
            "–" if score < 0 else f"{score:.1f}",
            STANDS_OUT <= score == highest,
        )
        for item, context, score in zip(results, contexts, scores, strict=True)
    )
    return Comparison(lines, (_finding(lines, highest), LIMITS))


def _score(context: PatientContext) -> float:
    """The ugly-duckling score; -1 without one."""
    score = context.ugly_duckling_score
    return -1.0 if score is None or math.isnan(score) else score


def _finding(lines: Sequence[PatientLine], highest: float) -> str:
    if highest < 0:
        return (
            f"The lesions were not compared, which takes {FEWEST} lesions of the patient that "
            "could be measured."
        )
    scale = "a lesion like the others has a score of about 1"
    odd = [line.name for line in lines if line.odd]
    if not odd:
        return f"No lesion stands out: the highest score is {highest:.1f}, and {scale}."
    return (
        f"The lesion on {' and '.join(odd)} looks least like the others: its score is "
        f"{highest:.1f}, and {scale}."
    )
