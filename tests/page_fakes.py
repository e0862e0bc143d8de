"""Cascades for the tests of the page: quick, without torch, with all that the page can show."""

import cv2
import numpy as np
from conftest import FakeClassifier, FakeSegmenter

from cascade.imaging import ImageLimits
from cascade.pipeline import Cascade
from cascade.reliability import ConformalScores, OutOfDistributionDetector, Safeguards
from cascade.serving.page.models import LoadedModel
from cascade.serving.page.words import operating_points

EVERYTHING_POSSIBLE = ConformalScores((0.0,) * 20, (0.0,) * 20)
"""Scores so low that no class is ever shut out."""


class ExplainedClassifier(FakeClassifier):
    """The fake classifier with operating points and a map: hot where the crop is dark."""

    operating_points = {"0.90": 0.5, "0.95": 0.25}  # noqa: RUF012 - as a classifier stores them

    def activation_map(self, images: np.ndarray, *, target: str) -> np.ndarray:
        """``(N, S, S, 3)`` uint8 to ``(N, 6, 6)`` float32; benign has none."""
        dark = 255.0 - images.astype(np.float32).mean(axis=3)
        small = np.stack([cv2.resize(one, (6, 6), interpolation=cv2.INTER_AREA) for one in dark])
        return small - 60 if target == "malignant" else np.zeros_like(small)

    def describe(self) -> dict:
        """The stage's settings."""
        return {**super().describe(), "operating_points": dict(self.operating_points)}


class FeelingSegmenter(FakeSegmenter):
    """The fake segmenter with one feature: 1 for a bluish image, else 0."""

    def predict_with_features(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Maps, and ``(N, 1)`` float32."""
        means = images.astype(np.float32).mean(axis=(1, 2))
        return self.predict(images), (means[:, 2:] > means[:, :1] + 20).astype(np.float32)


def only_reddish() -> OutOfDistributionDetector:
    """Finds images out of distribution that :class:`FeelingSegmenter` calls bluish."""
    one = np.ones(1, np.float32)
    return OutOfDistributionDetector(
        mean=np.zeros(1, np.float32), scale=one, components=np.ones((1, 1), np.float16),
        variances=one, noise_variance=1.0, threshold=0.25, false_alarm=0.01, fitted_on=9,
        held_out=9,
    )  # fmt: skip


def page_cascade(**changes) -> Cascade:
    """Fakes that can be explained, judge reddish images only, and answer with prediction sets."""
    options = {
        "safeguards": Safeguards(out_of_distribution=only_reddish()),
        "limits": ImageLimits(max_pixels=1_000_000, max_bytes=1_000_000),
        **changes,
    }
    return Cascade(FeelingSegmenter(), ExplainedClassifier(), **options)


def page_model(name: str = "Tiny", **changes) -> LoadedModel:
    """The same, as the page loads it."""
    cascade = page_cascade(**changes)
    return LoadedModel(name, cascade, "0123456789ab", operating_points(cascade.describe()))


def blue_image() -> np.ndarray:
    """``(96, 128, 3)`` uint8: a dark disc on blue, out of distribution."""
    image = np.full((96, 128, 3), (60, 120, 230), np.uint8)
    return cv2.circle(image, (64, 48), 20, (20, 30, 80), -1)


def encoded(pixels: np.ndarray, suffix: str = ".png") -> bytes:
    """The bytes of an image file."""
    return cv2.imencode(suffix, cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))[1].tobytes()
