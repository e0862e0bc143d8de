"""Predictions of one patient's lesions, and rows of many patients, in their context."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from cascade.config import CLASSES
from cascade.errors import DataError
from cascade.fields import columns
from cascade.lesion.patient import FEATURES, PatientContext, feature_row, patient_contexts

PATIENT_COLUMNS = ("patient_id", "lesion_id", *columns(PatientContext))
"""The columns that a table of predictions has where its images have patients."""

_CHANCE = f"probability_{CLASSES[1]}"


class Judged(Protocol):
    """What is compared of a :class:`cascade.pipeline.Prediction`, or of its JSON in the service."""

    @property
    def probabilities(self) -> Mapping[str, float]:
        """Of each class."""

    @property
    def measurements(self) -> Any:
        """Of the lesion, or ``None``."""

    @property
    def mask_issues(self) -> tuple[str, ...]:
        """Empty where the mask is trusted."""

    @property
    def out_of_distribution_score(self) -> float | None:
        """Above 1 the answer means nothing."""


def compared_numbers(item: Judged | None) -> tuple[float, ...]:
    """The six features and the probability of malignant of an image, NaN where not compared.

    An image out of distribution is not compared. A lesion whose mask is not trusted is not
    measured, because a wrong mask would make it look odd.
    """
    if item is None or (item.out_of_distribution_score or 0.0) > 1:
        return (math.nan,) * (len(FEATURES) + 1)
    features = feature_row(None if item.mask_issues else item.measurements)
    return (*features, item.probabilities.get(CLASSES[1], math.nan))


def contexts_of(
    items: Sequence[Judged | None], lesions: Sequence[str | None] | None = None
) -> list[PatientContext]:
    """Compare the lesions of one patient.

    Args:
        items: of the patient's images; ``None`` for one that failed.
        lesions: name of the lesion on each; by default each shows another one.
    """
    return contexts_from(list(map(compared_numbers, items)), lesions)


def contexts_from(
    numbers: Sequence[Sequence[float]] | np.ndarray, lesions: Sequence[str | None] | None = None
) -> list[PatientContext]:
    """The same from :func:`compared_numbers` of each image."""
    table = np.array(numbers, np.float64).reshape(-1, len(FEATURES) + 1)
    return patient_contexts(table[:, :-1], table[:, -1], lesions)


class PatientRows:
    """Gathers rows of predictions; keeps 72 bytes of numbers and two short ids of each."""

    def __init__(self) -> None:
        self._numbers = array("d")
        self._patients: dict[str, list[int]] = {}
        self._lesions: list[str] = []

    def add(self, row: Mapping[str, Any], *, patient: str, lesion: str) -> None:
        """Note one row.

        Args:
            row: cells of the columns of a prediction, as text or numbers; empty or ``None`` where
                there is no value.
            patient: empty where it is not known.
            lesion: what tells the patient's lesions apart; the image, where nothing else does.

        Raises:
            DataError: a cell that should be a number is none.
        """
        self._numbers.extend(_row_numbers(row))
        if patient:
            self._patients.setdefault(patient, []).append(len(self._lesions))
        self._lesions.append(lesion)

    def __len__(self) -> int:
        return len(self._lesions)

    @property
    def patients(self) -> int:
        """How many patients there are."""
        return len(self._patients)

    def contexts(self) -> list[PatientContext | None]:
        """The context of each row, in order; ``None`` for a row without a patient."""
        table = np.array(self._numbers).reshape(-1, len(FEATURES) + 1)
        found: list[PatientContext | None] = [None] * len(self)
        for rows in self._patients.values():
            lesions = [self._lesions[index] for index in rows]
            contexts = contexts_from(table[rows], lesions)
            for index, context in zip(rows, contexts, strict=True):
                found[index] = context
        return found


def compared(contexts: Sequence[PatientContext | None]) -> Iterator[PatientContext]:
    """The contexts with an ugly-duckling score."""
    for context in contexts:
        score = None if context is None else context.ugly_duckling_score
        if context is not None and score is not None and math.isfinite(score):
            yield context


def _row_numbers(row: Mapping[str, Any]) -> Iterator[float]:
    """As :func:`compared_numbers`."""
    known = not _number(row, "out_of_distribution_score") > 1
    trusted = known and not row["mask_issues"]
    for name in FEATURES:
        yield _number(row, name) if trusted else math.nan
    yield _number(row, _CHANCE) if known else math.nan


def _number(row: Mapping[str, Any], name: str) -> float:
    cell = row[name]
    if cell is None or cell == "":
        return math.nan
    try:
        return float(cell)
    except (TypeError, ValueError) as error:
        raise DataError(f"{row.get('name', 'a row')}: {name} is {cell!r}, not a number") from error
