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
from cascade.lesion.masking import MaskPolicy
from cascade.models.classifier import Classifier
from cascade.models.segmenter import Segmenter
from cascade.pipeline import Cascade
from cascade.reliability import ConformalScores, Safeguards, fit_out_of_distribution_detector


@functools.cache
def tiny_cascade() -> Cascade:
    """Random networks with a calibration, operating points and safeguards, but no mask limits."""
    torch.manual_seed(0)
    segmenter = Segmenter.build(SEGMENTER).eval()
    classifier = tiny_classifier(temperature=1.7, bias=-0.4)
    classifier.cutoff = 0.4
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


def tiny_classifier(
    name: str = "timm/test_resnet",
    size: int = 64,
    *,
    seed: int = 0,
    temperature: float = 1.0,
    bias: float = 0.0,
    policy: MaskPolicy | None = None,
) -> Classifier:
    """A random classifier that says different things of different images."""
    torch.manual_seed(seed)
    config = ClassifierConfig(architecture=name, size=size)
    classifier = Classifier.build(config, policy=policy or MaskPolicy())
    with torch.no_grad():  # a fresh network says nearly the same of everything
        for parameter in list(classifier.network.parameters())[-2:]:
            parameter.normal_(0, 1)
    classifier.temperature, classifier.bias = temperature, bias
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
