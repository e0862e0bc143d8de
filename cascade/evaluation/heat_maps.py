"""Heat maps of a few cases, for the report; what draws them is handed in."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cascade.config import CLASSES
from cascade.evaluation.cases import Case
from cascade.evaluation.html import ReportFigure, ReportSection, ReportTable
from cascade.evaluation.overlays import fitted
from cascade.files import write_csv
from cascade.imaging import encode_jpeg, read_image
from cascade.progress import progress

HEAT_COLUMNS = ("name", "class", "chosen", "probability", "inside_fraction", "mean_ratio",
                "turn_agreement", "warnings")  # fmt: skip
HEAT_HEADERS = ("image", "class", "chosen as", "p", "heat inside", "inside / outside",
                "agreement when turned", "warnings")  # fmt: skip
HEAT_NOTE = (
    "The colours show where the classifier found evidence for malignant within the crop that it "
    "saw: yellow is the hottest place, clear places are cold. The cyan line is the predicted "
    "contour, p the predicted probability of malignant. Each map is scaled to its own maximum, so "
    "bright colours do not mean a high probability.\n\n"
    "Heat inside is the share of all heat that lies within the lesion; inside / outside compares "
    "the mean heat of the lesion's pixels with that of the others in the crop. Agreement when "
    "turned is the correlation of the map with that of the crop turned by 180 degrees; near 0 or "
    "below, the place of the heat says little. A heat map shows where, not why, and is no evidence "
    "that the answer is right."
)
_TILE_PX = 420


@dataclass(frozen=True)
class HeatImage:
    """A heat map as the report needs it; see :class:`cascade.explain.Explanation`.

    Attributes:
        pixels: ``(H, W, 3)`` uint8 RGB, the image with heat and contour.
        is_empty: there is no heat.
        inside_fraction: share of the heat within the lesion.
        mean_ratio: mean heat within the lesion by that around it.
        turn_agreement: correlation of the map with that of the turned crop.
        warnings: of the explanation.
    """

    pixels: np.ndarray
    is_empty: bool
    inside_fraction: float | None
    mean_ratio: float | None
    turn_agreement: float | None
    warnings: tuple[str, ...]


DrawHeat = Callable[[np.ndarray], HeatImage]
"""``(H, W, 3)`` uint8 RGB to its heat map."""


def heat_section(
    folder: Path, cases: Sequence[Case], draw: DrawHeat, *, count: int
) -> list[ReportSection]:
    """Draw heat maps of the largest errors and of typical cases, and write ``heat_maps.csv``.

    Args:
        folder: where the file goes.
        cases: of an evaluation.
        draw: draws the heat map of an image.
        count: number of heat maps, half of each kind.
    """
    chosen = choose_cases(cases, count)
    if not chosen:
        return []
    figures, rows = [], []
    for case, kind in progress(chosen, description="drawing heat maps"):
        heat = draw(read_image(case.record.image_path).pixels)
        image = encode_jpeg(fitted(heat.pixels, _TILE_PX))
        words = f"heat map of {case.record.name}; the numbers are in the table"
        figures.append(ReportFigure(image, _caption(case, kind, heat), words))
        rows.append(_row(case, kind, heat))
    write_csv(folder / "heat_maps.csv", HEAT_COLUMNS, rows)
    table = ReportTable(HEAT_HEADERS, [tuple(row[name] for name in HEAT_COLUMNS) for row in rows])
    return [ReportSection("Heat maps of the classifier", HEAT_NOTE, [table], figures)]


def choose_cases(cases: Sequence[Case], count: int) -> list[tuple[Case, str]]:
    """The cases to explain, each with the reason: ``worst`` or ``typical``.

    Worst are the largest errors of the probability. Typical are those whose error is nearest to
    the median of their class, alternately malignant and benign. Without any classes the first
    images of the table count as typical.
    """
    answered = [case for case in cases if case.probability is not None]
    labelled = [case for case in answered if case.record.label is not None]
    if not labelled:
        return [(case, "typical") for case in answered[:count]]
    by_error = sorted(labelled, key=lambda case: (-_error(case), case.record.name))
    worst = by_error[: (count + 1) // 2]
    others = by_error[len(worst) :]
    alternately = itertools.zip_longest(
        *(_typical(labelled, others, label) for label in reversed(CLASSES))
    )
    typical = [case for pair in alternately for case in pair if case is not None]
    kinds = [("worst", worst), ("typical", typical[: count - len(worst)])]
    return [(case, kind) for kind, chosen in kinds for case in chosen]


def _typical(labelled: Sequence[Case], others: Sequence[Case], label: str) -> list[Case]:
    """The others of one class, those first whose error is nearest to their class's median."""
    errors = [_error(case) for case in labelled if case.record.label == label]
    middle = float(np.median(errors)) if errors else 0.0
    own = [case for case in others if case.record.label == label]
    return sorted(own, key=lambda case: abs(_error(case) - middle))


def _error(case: Case) -> float:
    return abs(float(case.record.label == CLASSES[1]) - float(case.probability or 0.0))


def _caption(case: Case, kind: str, heat: HeatImage) -> str:
    inside = "no heat" if heat.is_empty else "no lesion"
    if heat.inside_fraction is not None:
        inside = f"{heat.inside_fraction:.0%} of the heat inside"
    chosen = "large error" if kind == "worst" else "typical"
    truth = case.record.label or "class unknown"
    return f"{case.record.stem} ({chosen})\n{truth}, p {case.probability:.3f}\n{inside}"


def _row(case: Case, kind: str, heat: HeatImage) -> dict[str, Any]:
    return {
        "name": case.record.name,
        "class": case.record.label,
        "chosen": kind,
        "probability": case.probability,
        "inside_fraction": heat.inside_fraction,
        "mean_ratio": heat.mean_ratio,
        "turn_agreement": heat.turn_agreement,
        "warnings": "; ".join(heat.warnings),
    }
