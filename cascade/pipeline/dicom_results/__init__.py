"""Predictions of DICOM images as DICOM: a segmentation of the lesion, and a structured report.

Both belong to patient and study of the image, and each is a new series. Behind the extra
``highdicom``.
"""

from cascade.pipeline.dicom_results.model_identity import ModelIdentity
from cascade.pipeline.dicom_results.results import encode_results, require_highdicom

__all__ = ["ModelIdentity", "encode_results", "require_highdicom"]
