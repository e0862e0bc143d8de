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

    Attributes:
        severity: ``error`` makes results wrong or training fail, ``warning`` should be looked at.
        code: short and stable, for programs.
        message: for people.
        names: the images, files or ids concerned.
    """

    severity: Severity
    code: str
    message: str
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class TableCounts:
    """How many images a table or a side of a split has.

    Attributes:
        name: the table's file name, or ``train`` or ``validation`` of a split.
        images: number of images.
        benign: number of benign images.
        malignant: number of malignant images.
        groups: number of groups.
        masks: number of images with a mask.
    """

    name: str
    images: int
    benign: int
    malignant: int
    groups: int
    masks: int


@dataclass(frozen=True)
class Shortcut:
    """How well one property of the file, alone, tells the classes apart.

    Attributes:
        table: the table's file name.
        feature: the property.
        auc: ROC AUC in the better direction, 0.5 to 1; ``None`` where a class is missing.
        direction: which values go with malignant.
        benign: number of benign images.
        malignant: number of malignant images.
    """

    table: str
    feature: str
    auc: float | None
    direction: str
    benign: int
    malignant: int


@dataclass(frozen=True)
class CheckReport:
    """All that was found in a data set.

    Attributes:
        folder: the data set.
        findings: errors first.
        tables: counts per table and per side of the split.
        shortcuts: what predicts the class without looking at the lesion.
        duplicates: pairs of images that show the same image.
        seconds: how long the check took.
    """

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

    Args:
        table: name of the table.
        labels: ``(N,)`` int, 1 for malignant.
        features: property to its ``N`` values; only their order counts, ties count half.
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
