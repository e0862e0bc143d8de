"""One uploaded image through the cascade, for the service and the page alike."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np

from cascade.imaging import LoadedImage
from cascade.pipeline import Cascade, Failure, Prediction
from cascade.pipeline.augmented_views import TestTimeAugmentation
from cascade.reliability import Metadata

LONGEST_SIDE = 1024
"""Drawings have no longer side, so that an image does not become a huge file."""

NO_MEMORY = "there is not enough memory for this image; reduce it"


def predict_upload(
    cascade: Cascade,
    image: bytes | LoadedImage,
    *,
    tta: TestTimeAugmentation = "none",
    pixels_per_millimetre: float | None = None,
    metadata: Metadata | None = None,
) -> Prediction:
    """Predict one image, which is decoded no finer than the networks need.

    Args:
        cascade: both stages; its limits hold for the image.
        image: the bytes of the file, or what was read from them.
        tta: test-time augmentation.
        pixels_per_millimetre: scale of the image, where it is known.
        metadata: age, sex and site, as far as they are known.

    Raises:
        CascadeError: the image cannot be read or predicted.
    """
    (result,) = cascade.predict_iter(
        [image], tta=tta, pixels_per_millimetre=pixels_per_millimetre, metadata=metadata
    )
    if isinstance(result, Failure):
        raise result.error
    return result


def lacks_memory(error: BaseException | None) -> bool:
    """Whether an error, or one behind it, says that memory ran out; each library has its own."""
    while error is not None:
        of_opencv = isinstance(error, cv2.error) and error.code == cv2.Error.StsNoMem
        if isinstance(error, MemoryError) or of_opencv or "bad_alloc" in str(error):
            return True
        error = error.__cause__
    return False


def reduced(pixels: np.ndarray, prediction: Prediction) -> tuple[np.ndarray, Prediction]:
    """An image and its prediction at the size of a drawing.

    Args:
        pixels: ``(H, W, 3)`` uint8 RGB.
        prediction: of these pixels.

    Returns:
        Both with sides of at most :data:`LONGEST_SIDE` pixels. Mask and crop box are reduced; all
        else of the prediction, such as its crop and ``box``, is that of the original.
    """
    height, width = pixels.shape[:2]
    scale = LONGEST_SIDE / max(height, width)
    if scale >= 1:
        return pixels, prediction
    size = max(1, round(width * scale)), max(1, round(height * scale))
    mask = cv2.resize(prediction.mask.view(np.uint8), size, interpolation=cv2.INTER_AREA)
    down, across = size[1] / height, size[0] / width
    top, left, bottom, right = prediction.crop_box
    start = round(top * down), round(left * across)
    end = max(round(bottom * down), start[0] + 1), max(round(right * across), start[1] + 1)
    small = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    lesion = replace(prediction.lesion, mask=mask > 0)
    box = (*start, *end)
    return small, replace(prediction, lesion=lesion, shape=mask.shape, crop_box=box)
