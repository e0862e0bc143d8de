"""Two-stage analysis of skin-lesion images: find the lesion, then classify the masked crop.

Importing this package loads neither torch nor albumentations: public names are resolved when they
are first used (PEP 562).
"""

from __future__ import annotations

import importlib
from typing import Any

from cascade.version import __version__

_PUBLIC = {
    "Cascade": "cascade.pipeline",
    "Failure": "cascade.pipeline",
    "Prediction": "cascade.pipeline",
    "ImageQuality": "cascade.imaging",
    "MaskQuality": "cascade.reliability",
    "Safeguards": "cascade.reliability",
    "Segmenter": "cascade.models.segmenter",
    "Classifier": "cascade.models.classifier",
    "ClassifierEnsemble": "cascade.models.ensemble",
    "load_classifier": "cascade.models.ensemble",
    "read_table": "cascade.data.tables",
    "make_splits": "cascade.data.splits",
    "SegmentationDataset": "cascade.data.datasets",
    "ClassificationDataset": "cascade.data.datasets",
    "train_segmenter": "cascade.training.segmentation",
    "train_classifier": "cascade.training.classification",
    "cross_validate_classifier": "cascade.training.cross_validation",
    "Explanation": "cascade.explain",
    "GradCAM": "cascade.explain.gradcam",
    "explain_prediction": "cascade.explain:explain",
    "evaluate": "cascade.evaluation.stages:evaluate_cascade",
    "evaluate_classifier": "cascade.evaluation.stages",
    "evaluate_segmenter": "cascade.evaluation.stages",
    "export_onnx": "cascade.export",
    "read_image": "cascade.imaging",
    "SegmentationTrainConfig": "cascade.config",
    "ClassificationTrainConfig": "cascade.config",
    "Measurements": "cascade.lesion.measurements",
    "measure": "cascade.lesion.measurements",
    "PatientContext": "cascade.lesion.patient",
    "Metadata": "cascade.reliability",
    "CascadeError": "cascade.errors",
    "CascadeWarning": "cascade.errors",
    "ClassifierConfig": "cascade.config",
    "SegmenterConfig": "cascade.config",
    "TrainConfig": "cascade.config",
    "MaskPolicy": "cascade.lesion.masking",
}

__all__ = ["__version__", *sorted(_PUBLIC)]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'cascade' has no attribute {name!r}")
    module, _, renamed = _PUBLIC[name].partition(":")
    value = getattr(importlib.import_module(module), renamed or name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
