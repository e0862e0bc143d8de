"""How far to trust one answer.

Calibrated probabilities, sets of classes instead of a label, doubtful masks, and images unlike
those of the training.

Numbers from arrays only: no torch, no files, no networks. Every result that a model file must carry
becomes plain JSON values or small arrays.
"""

from cascade.reliability.conformal import ConformalScores, describe_sets
from cascade.reliability.gate import GateLimits, fit_gate_limits, fit_whole_image_limit
from cascade.reliability.mask_quality import MaskQuality, mask_quality
from cascade.reliability.out_of_distribution import Familiarity, fit_familiarity, pooled_features
from cascade.reliability.safeguards import Safeguards, chosen_cutoff, cutoff_of
from cascade.reliability.temperature import (
    Calibration,
    calibrated_probabilities,
    fit_platt,
    fit_temperature,
)

__all__ = [
    "Calibration",
    "ConformalScores",
    "Familiarity",
    "GateLimits",
    "MaskQuality",
    "Safeguards",
    "calibrated_probabilities",
    "chosen_cutoff",
    "cutoff_of",
    "describe_sets",
    "fit_familiarity",
    "fit_gate_limits",
    "fit_platt",
    "fit_temperature",
    "fit_whole_image_limit",
    "mask_quality",
    "pooled_features",
]
