"""One lesion among the others of its patient: its rank, and how unlike them it looks.

The "ugly duckling" of a patient is the lesion that does not look like the others (Grob and
Bonerandi 1998, Arch Dermatol 134:103). Soenksen et al. (2021, Sci Transl Med 13:eabb3652) rank the
lesions of a patient by their distance from the centre of all of them in the space of a network's
features, and Mohseni et al. (2021, arXiv:2105.07116) by Euclidean distance. Here the features are
measurements, so that every runtime has them, and centre and scale are the median and the median
absolute deviation of the *other* lesions (Leys et al. 2013, J Exp Soc Psychol 49:764), which a
second odd lesion hardly moves. ``docs/patients.md`` has the formula and its limits.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from cascade.errors import ShapeError
from cascade.fields import described
from cascade.lesion.measurements import Measurements

FEATURES = {
    "asymmetry": 0.015,
    "border_irregularity": 0.015,
    "colour_variegation": 2.0,
    "mean_lightness": 6.0,
    "mean_redness": 3.5,
    "mean_yellowness": 3.5,
}
"""The measurements that are compared, which neither turning nor scaling an image changes, each with
its least spread: half of what lesions of different people have (``docs/patients.md``)."""

FEWEST = 4
"""Lesions of a patient that must be measured; three others are the fewest with a spread."""

_NORMAL = 1.4826
"""Makes the median absolute deviation of normal values their standard deviation."""


@dataclass(frozen=True)
class PatientContext:
    """What one lesion is among those of its patient. Not a diagnosis."""

    rank: int | None = field(
        metadata=described(
            "Place of the lesion among those of its patient by probability of malignant; 1 is the "
            "highest, and equal probabilities share a place. Empty without a probability.",
            column="patient_rank",
            label="Rank within the patient",
            example=1,
        )
    )
    lesions: int = field(
        metadata=described(
            "Lesions of the patient that have a probability; several images of one lesion count "
            "once.",
            column="patient_lesions",
            label="Lesions of the patient",
            example=6,
        )
    )
    ugly_duckling_score: float | None = field(
        metadata=described(
            "How unlike the patient's other lesions this one looks, in their robust standard "
            "deviations: about 1 for a lesion like the others. Not a number (null in JSON) below "
            "four measured lesions, and where this lesion was not measured.",
            column="ugly_duckling_score",
            label="Ugly-duckling score",
            digits=2,
            example=2.7,
        )
    )


def feature_row(measurements: Measurements | None) -> list[float]:
    """The compared measurements of one image, NaN where there are none."""
    if measurements is None:
        return [math.nan] * len(FEATURES)
    return [float(getattr(measurements, name)) for name in FEATURES]


def patient_contexts(
    features: np.ndarray, probabilities: np.ndarray, lesions: Sequence[str | None] | None = None
) -> list[PatientContext]:
    """Compare the lesions of one patient.

    Several images of a lesion are one lesion, with the medians of what they gave, and share its
    context.

    Args:
        features: ``(N, 6)`` float, :func:`feature_row` of each image; NaN where not measured.
        probabilities: ``(N,)`` float of malignant, NaN where there is none.
        lesions: name of the lesion on each image; by default, and for an image without one, each
            image shows another lesion.

    Returns:
        One context for each image, in order.

    Raises:
        ShapeError: the lengths differ.
    """
    count = len(probabilities)
    if features.shape != (count, len(FEATURES)) or (lesions is not None and len(lesions) != count):
        named = "no" if lesions is None else len(lesions)
        raise ShapeError(
            f"features {features.shape}, {count} probabilities and {named} lesions: give "
            f"{len(FEATURES)} features, one probability and one lesion for each image",
            expected=(count, len(FEATURES)),
            actual=features.shape,
        )
    members = list(_members(count, lesions))
    chances = np.array([_median(probabilities[images][:, None])[0] for images in members])
    scores = ugly_duckling_scores(
        np.array([_median(features[images]) for images in members]).reshape(-1, len(FEATURES))
    )
    judged = np.sort(chances[np.isfinite(chances)])
    contexts: list[PatientContext] = [PatientContext(None, 0, math.nan)] * count
    for images, chance, score in zip(members, chances, scores, strict=True):
        higher = judged.size - int(np.searchsorted(judged, chance, side="right"))
        rank = 1 + higher if math.isfinite(chance) else None
        for image in images:
            contexts[image] = PatientContext(rank, int(judged.size), float(score))
    return contexts


def ugly_duckling_scores(features: np.ndarray) -> np.ndarray:
    """Root mean square of robust distances to the other lesions, one score for each lesion.

    For lesion i and feature j, with the median m and the median absolute deviation d of the other
    lesions and the least spread s, ``z = (x - m) / max(1.4826 d, s)``; the score is the root of the
    mean of z² over the features.

    Args:
        features: ``(N, 6)`` float, one row for each lesion of a patient; rows with NaN are no
            lesions to compare with.

    Returns:
        ``(N,)`` float64, at least 0; NaN for such rows, and for all below :data:`FEWEST` others.
    """
    scores = np.full(len(features), math.nan)
    usable = np.isfinite(features).all(axis=1)
    if np.count_nonzero(usable) < FEWEST:
        return scores
    squares = [
        np.square(_robust_distances(column, least))
        for column, least in zip(features[usable].T, FEATURES.values(), strict=True)
    ]
    scores[usable] = np.sqrt(np.mean(squares, axis=0))
    return scores


def _members(count: int, lesions: Sequence[str | None] | None) -> Iterator[list[int]]:
    """The images of each lesion, in the order of their first."""
    found: dict[str | int, list[int]] = {}
    for image, name in enumerate([None] * count if lesions is None else lesions):
        found.setdefault(name or image, []).append(image)
    yield from found.values()


def _median(rows: np.ndarray) -> np.ndarray:
    """Medians of the columns over the rows without NaN; NaN where there are none."""
    if len(rows) == 1:
        return rows[0]
    known = rows[np.isfinite(rows).all(axis=1)]
    return np.median(known, axis=0) if len(known) else np.full(rows.shape[1], math.nan)


def _robust_distances(values: np.ndarray, least: float) -> np.ndarray:
    """Distance of each value from the median of the others, in their spreads."""
    centres = _medians_of_others(values)
    spreads = np.empty_like(values)
    for centre in np.unique(centres):  # at most three
        around = centres == centre
        spreads[around] = _medians_of_others(np.abs(values - centre))[around]
    return np.abs(values - centres) / np.maximum(_NORMAL * spreads, least)


def _medians_of_others(values: np.ndarray) -> np.ndarray:
    """``(N,)``: for each of N values, at least 2, the median of the N - 1 others."""
    order = np.argsort(values, kind="stable")
    sorted_values = values[order]
    places = np.empty_like(order)
    places[order] = np.arange(values.size)
    upper = (values.size - 1) // 2
    lower = (values.size - 2) // 2

    def other(place: int) -> np.ndarray:  # the sorted list closes up where a value was taken out
        return np.where(places > place, sorted_values[place], sorted_values[place + 1])

    return (other(lower) + other(upper)) / 2
