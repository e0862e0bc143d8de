"""Each stage on a list of images, with or without test-time augmentation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cascade.config import CLASSES
from cascade.imaging.resize import resize_pixels
from cascade.lesion.masking import MaskedCrop
from cascade.models.protocol import ClassifierStage, SegmenterStage
from cascade.pipeline.augmented_views import VIEWS, TestTimeAugmentation, average, undo, view
from cascade.reliability import Diagnoses

_LEAST_SIDE = 384


def working_side(*stages: SegmenterStage | ClassifierStage) -> int:
    """Pixels that the short side of an image keeps at least when it is read for these networks.

    A larger image is read at a half, a quarter or an eighth of its size: 1.5 times the larger
    network's side leaves a crop of two thirds of the image with all pixels that a classifier takes.
    """
    return max(_LEAST_SIDE, *(3 * stage.size // 2 for stage in stages))


def segment_views(
    segmenter: SegmenterStage, images: Sequence[np.ndarray], *, tta: TestTimeAugmentation = "none"
) -> np.ndarray:
    """Probability maps ``(V, N, S, S)`` float32 of each view, all as the image stands."""
    if not images:
        return np.zeros((len(VIEWS[tta]), 0, segmenter.size, segmenter.size), np.float32)
    batch = np.stack([resize_pixels(image, segmenter.size) for image in images])
    return np.stack([undo(segmenter.predict(view(batch, how)), how) for how in VIEWS[tta]])


def segment_views_with_features(
    segmenter: SegmenterStage, images: Sequence[np.ndarray], *, tta: TestTimeAugmentation = "none"
) -> tuple[np.ndarray, np.ndarray]:
    """The same of at least one image, and ``(N, D)`` float32 features of the first view."""
    batch = np.stack([resize_pixels(image, segmenter.size) for image in images])
    maps, features = segmenter.predict_with_features(batch)
    others = VIEWS[tta][1:]  # the first is the image as it is
    turned = [undo(segmenter.predict(view(batch, how)), how) for how in others]
    return np.stack([maps, *turned]), features


def segment(
    segmenter: SegmenterStage, images: Sequence[np.ndarray], *, tta: TestTimeAugmentation = "none"
) -> np.ndarray:
    """Probability maps ``(N, S, S)`` float32 of ``(H, W, 3)`` uint8 RGB images of any size."""
    return average(list(segment_views(segmenter, images, tta=tta)))


def classify(
    classifier: ClassifierStage, crops: Sequence[MaskedCrop], *, tta: TestTimeAugmentation = "none"
) -> np.ndarray:
    """Class probabilities ``(N, 2)`` float32 of masked crops."""
    if not crops:
        return np.zeros((0, len(CLASSES)), np.float32)
    batch = np.stack([crop.pixels for crop in crops])
    return average([classifier.predict_proba(view(batch, how)) for how in VIEWS[tta]])


def diagnoses_of(classifier: ClassifierStage) -> Diagnoses | None:
    """The diagnoses that a classifier tells apart; ``None`` where it tells none."""
    return getattr(classifier, "diagnoses", None)


def classify_with_shares(
    classifier: ClassifierStage, crops: Sequence[MaskedCrop], *, tta: TestTimeAugmentation = "none"
) -> tuple[np.ndarray, np.ndarray]:
    """The same, and shares ``(N, K)`` of the diagnoses within their class; K is 0 without any.

    With several views they are those of the mean probabilities of the diagnoses.
    """
    diagnoses = diagnoses_of(classifier)
    if diagnoses is None or not crops:
        return classify(classifier, crops, tta=tta), np.zeros((len(crops), 0), np.float32)
    batch = np.stack([crop.pixels for crop in crops])
    views = [classifier.predict_with_shares(view(batch, how)) for how in VIEWS[tta]]
    told = [diagnoses.probabilities(*one) for one in views]
    return average([classes for classes, _ in views]), diagnoses.shares(average(told))
