"""How far to trust one answer.

Calibrated probabilities, diagnoses, what metadata adds, prediction sets, mask quality, and
out-of-distribution images.

Numbers from arrays only: no torch, no files, no networks. Every result that a model file must carry
becomes plain JSON values or small arrays.
"""

from cascade.reliability.conformal import ConformalScores, describe_sets
from cascade.reliability.diagnoses import Diagnoses, diagnosis_name
from cascade.reliability.mask_quality import MaskQuality, mask_quality
from cascade.reliability.mask_quality_limits import (
    MaskQualityLimits,
    fit_mask_quality_limits,
    fit_whole_image_limit,
)
from cascade.reliability.metadata import Metadata
from cascade.reliability.metadata_fusion import MetadataFusion, fit_metadata_fusion
from cascade.reliability.out_of_distribution import (
    OutOfDistributionDetector,
    fit_out_of_distribution_detector,
    pooled_features,
)
from cascade.reliability.safeguards import Safeguards, chosen_cutoff, cutoff_of
from cascade.reliability.temperature import (
    Calibration,
    calibrated_probabilities,
    fit_platt,
)

__all__ = [
    "Calibration", "ConformalScores", "Diagnoses", "MaskQuality", "MaskQualityLimits", "Metadata",
    "MetadataFusion", "OutOfDistributionDetector", "Safeguards", "calibrated_probabilities",
    "chosen_cutoff", "cutoff_of", "describe_sets", "diagnosis_name", "fit_mask_quality_limits",
    "fit_metadata_fusion", "fit_out_of_distribution_detector", "fit_platt",
    "fit_whole_image_limit", "mask_quality", "pooled_features",
]  # fmt: skip
