"""Heat maps, where the packages for them are installed."""

from __future__ import annotations

import importlib

import numpy as np

from cascade.pipeline import Cascade, Prediction
from cascade.serving.problems import HttpProblem
from cascade.serving.results import TARGET, Explained
from cascade.serving.schemas import Heat


def require_explanations() -> None:
    """Refuse heat maps where they cannot be made.

    Raises:
        HttpProblem: 501.
    """
    try:
        importlib.import_module("cascade.explain")
    except ImportError as error:
        raise HttpProblem(501, "heat maps are not available in this installation") from error


def explained(cascade: Cascade, image: np.ndarray, prediction: Prediction) -> Explained:
    """The heat map of one prediction, over its image.

    Args:
        cascade: what predicted.
        image: ``(H, W, 3)`` uint8 RGB, original pixels.
        prediction: of that image.
    """
    module = importlib.import_module("cascade.explain")
    explanation = module.explain(cascade, image, prediction, target=TARGET)
    overlay = module.overlay_heat(image, explanation, prediction.mask)
    share = explanation.inside_fraction
    heat = Heat(
        target=explanation.target,
        inside_fraction=None if share is None else float(share),
        is_empty=bool(explanation.is_empty),
        warnings=tuple(explanation.warnings),
    )
    return Explained(overlay, heat)
