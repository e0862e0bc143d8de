"""Both stages in a row: image in, lesion mask and probability out."""

from cascade.pipeline.cascade import Cascade
from cascade.pipeline.prediction import Failure, Prediction

__all__ = ["Cascade", "Failure", "Prediction"]
