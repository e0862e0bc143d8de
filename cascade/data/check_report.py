"""What a check of a data set found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from cascade.data.duplicates import Duplicate
from cascade.metrics.classification import roc_auc

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")

SHORTCUT_LIMIT = 0.65
"""From this ROC AUC on, a property that has nothing to do with the lesion is a warning."""


@dataclass(frozen=True)
class Finding:
    """One thing that was found.

    An ``error`` makes results wrong or training fail, a ``warning`` should be looked at. ``code``
    is short and stable, for programs; ``names`` are the images, files or ids concerned.
    """

    severity: Severity
    code: str
    message: str
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class TableCounts:
    """How many images a table or a side of a split has."""

    name: str
    images: int
    benign: int
    malignant: int
    groups: int
    masks: int


@dataclass(frozen=True)
class Shortcut:
    """How well one property of the file, alone, tells the classes apart.

    ``auc`` is the ROC AUC in the better direction, 0.5 to 1; ``None`` where a class is missing.
    """

    table: str
    feature: str
    auc: float | None
    direction: str
    benign: int
    malignant: int


@dataclass(frozen=True)
class CheckReport:
    """All that was found in a data set."""

    folder: str
    findings: tuple[Finding, ...]
    tables: tuple[TableCounts, ...] = ()
    shortcuts: tuple[Shortcut, ...] = ()
    duplicates: tuple[Duplicate, ...] = ()
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether there are no errors."""
        return not self.of("error")

    def of(self, severity: Severity) -> tuple[Finding, ...]:
        """The findings of one severity."""
        return tuple(finding for finding in self.findings if finding.severity == severity)

    def to_dict(self) -> dict[str, Any]:
        """The report as plain JSON values."""
        return {"ok": self.ok, **asdict(self)}


def measure_shortcuts(
    table: str, labels: np.ndarray, features: Mapping[str, Sequence[float]]
) -> list[Shortcut]:
    """Measure how well each property alone predicts the class.

    ``labels`` ``(N,)`` int are 1 for malignant; of the ``N`` values of a property only the order
    counts, and ties count half.
    """
    malignant = int(labels.sum())
    benign = len(labels) - malignant
    found = []
    for feature, values in features.items():
        auc, direction = None, "a class is missing"
        if benign and malignant:
            scores = np.asarray(values, dtype=np.float64)
            larger = float(roc_auc(labels, scores, np.ones((1, len(labels))))[0])
            auc = max(larger, 1.0 - larger)
            direction = "larger is malignant" if larger >= 0.5 else "smaller is malignant"
        found.append(Shortcut(table, feature, auc, direction, benign, malignant))
    return found
