"""The smallest cascades in torch and as graphs, made once for several test files."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

import numpy as np
import torch
from tiny_training import SEGMENTER

from cascade.config import ClassifierConfig
from cascade.export import export_onnx
from cascade.models.classifier import Classifier
from cascade.models.segmenter import Segmenter
from cascade.pipeline import Cascade
from cascade.reliability import ConformalScores, Safeguards, fit_out_of_distribution_detector


@functools.cache
def tiny_cascade() -> Cascade:
    """Random networks with a calibration, operating points and all safeguards but a gate."""
    torch.manual_seed(0)
    segmenter = Segmenter.build(SEGMENTER).eval()
    classifier = tiny_classifier()
    classifier.temperature, classifier.bias, classifier.cutoff = 1.7, -0.4, 0.4
    classifier.operating_points = {"0.90": 0.2}
    classifier.provenance["seed"] = 5
    noise = np.random.default_rng(1).integers(0, 256, (24, 32, 32, 3), dtype=np.uint8)
    features = segmenter.predict_with_features(noise)[1]
    safeguards = Safeguards(
        conformal=ConformalScores(benign=(0.1, 0.5, 0.9), malignant=(0.2, 0.6, 0.8)),
        out_of_distribution=fit_out_of_distribution_detector(
            features[:16], held_out=features[16:], components=4
        ),
    )
    return Cascade(segmenter, classifier, safeguards=safeguards)


def tiny_classifier(name: str = "timm/test_resnet", size: int = 64) -> Classifier:
    """A random classifier."""
    classifier = Classifier.build(ClassifierConfig(architecture=name, size=size))
    with torch.no_grad():  # a fresh network says nearly the same of everything
        for parameter in list(classifier.network.parameters())[-2:]:
            parameter.normal_(0, 1)
    return classifier.eval()


@functools.cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory()


@functools.cache
def tiny_export() -> Path:
    """The tiny cascade's exported folder; do not change it."""
    folder = Path(_folder().name) / "onnx"
    export_onnx(tiny_cascade(), folder)
    return folder
