"""How much an evaluation falls when images look as other clinics and cameras make them."""

from cascade.data.corruptions import CORRUPTIONS, STRENGTHS, Corruption
from cascade.robustness.trial import corrupted_scores

__all__ = ["CORRUPTIONS", "STRENGTHS", "Corruption", "corrupted_scores"]
