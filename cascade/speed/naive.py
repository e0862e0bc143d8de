"""Two networks in a row as public projects write them, to compare a cascade with.

A U-Net on Xception at 256 pixels finds the lesion, an Inception v3 at 299 pixels judges the masked
image. Eager torch in float32, one image at a time, each file decoded once for either network,
preprocessing by albumentations. Weights are random: the time does not depend on them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import albumentations
import cv2
import numpy as np
import segmentation_models_pytorch as smp
import torch
from albumentations.pytorch import ToTensorV2
from torchvision.models import inception_v3

from cascade.errors import ImageError

SEGMENTER_SIZE, CLASSIFIER_SIZE = 256, 299


def _preprocessing(size: int) -> albumentations.Compose:
    return albumentations.Compose(
        [albumentations.Resize(size, size), albumentations.Normalize(), ToTensorV2()]
    )


def _read(path: str) -> np.ndarray:
    image = cv2.imread(path)
    if image is None:
        raise ImageError(f"{path}: OpenCV cannot read it; the naive pair takes JPEG and PNG files")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


class NaivePair:
    """Both networks, ready to judge files."""

    def __init__(self) -> None:
        self.segmenter = smp.Unet("xception", encoder_weights=None, classes=1).eval()
        self.classifier = inception_v3(weights=None, num_classes=2, init_weights=False).eval()
        self.for_segmenter = _preprocessing(SEGMENTER_SIZE)
        self.for_classifier = _preprocessing(CLASSIFIER_SIZE)

    def predict_mask(self, path: str) -> np.ndarray:
        """``(256, 256)`` uint8, 1 in the lesion."""
        images = self.for_segmenter(image=_read(path))["image"].unsqueeze(0)
        with torch.no_grad():
            probabilities = torch.sigmoid(self.segmenter(images))
        return (probabilities.squeeze().numpy() > 0.5).astype(np.uint8)

    def classify(self, path: str, mask: np.ndarray) -> np.ndarray:
        """``(2,)`` probabilities for the image where the mask is 1, black elsewhere."""
        image = _read(path)
        height, width = image.shape[:2]
        whole = cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST)
        masked = cv2.bitwise_and(image, image, mask=whole)
        images = self.for_classifier(image=masked)["image"].unsqueeze(0)
        with torch.no_grad():
            return torch.softmax(self.classifier(images), dim=1).squeeze(0).numpy()

    def predict(self, paths: Sequence[str]) -> Iterator[np.ndarray]:
        """Probabilities of each file, in order."""
        for path in paths:
            yield self.classify(path, self.predict_mask(path))
