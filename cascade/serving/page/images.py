"""The images of one result, small enough to embed, with words for who cannot see them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cascade.config import CLASSES
from cascade.errors import CascadeError
from cascade.evaluation.overlays import draw_outline
from cascade.explain import Explanation, explain, overlay_heat
from cascade.imaging import encode_image, encode_jpeg
from cascade.pipeline import Prediction
from cascade.pipeline.augmented_views import TestTimeAugmentation
from cascade.serving.page.words import percent, sentence, whole_percent
from cascade.serving.shared.uploads import reduced

if TYPE_CHECKING:
    from cascade.pipeline import Cascade

_PLACES = (("top", "middle", "bottom"), ("left", "middle", "right"))


@dataclass(frozen=True)
class ShownImage:
    """One encoded image of a result.

    Attributes:
        title: what it is, in a few words.
        data: the bytes of a JPEG, or of a PNG.
        caption: what a reader should know about it.
        alternative_text: what it shows, for who cannot see it.
    """

    title: str
    data: bytes
    caption: str
    alternative_text: str

    @property
    def mime_type(self) -> str:
        """``image/png`` or ``image/jpeg``."""
        return "image/png" if self.data.startswith(b"\x89PNG") else "image/jpeg"


def draw_images(
    cascade: Cascade,
    pixels: np.ndarray,
    prediction: Prediction,
    *,
    judged: bool,
    tta: TestTimeAugmentation = "none",
) -> tuple[tuple[ShownImage, ...], tuple[str, ...]]:
    """The image itself, its lesion mask, the crop and the heat map.

    Args:
        cascade: what made the prediction.
        pixels: ``(H, W, 3)`` uint8 RGB, the image as displayed.
        prediction: of these pixels.
        judged: a probability is shown; without one there is no heat map either.
        tta: the views that the prediction averaged.

    Returns:
        The images that there are, and notes on the heat map, such as why there is none.
    """
    small, fitted = reduced(pixels, prediction)
    images = [_original(small, pixels.shape), _crop(prediction)]
    if prediction.box is not None:
        images.insert(1, _lesion_mask(small, fitted.mask, prediction))
    if not judged:
        return tuple(images), ("Not shown, because the image cannot be judged.",)
    try:
        explanation = explain(cascade, small, fitted, target=CLASSES[1], tta=tta)
    except CascadeError as error:
        return tuple(images), (sentence(f"Not available: {error}"),)
    if not explanation.is_empty:
        images.append(_heat_map(explanation, small, fitted.mask))
    return tuple(images), tuple(sentence(warning) for warning in explanation.warnings)


def _original(small: np.ndarray, shape: tuple[int, ...]) -> ShownImage:
    size = f"{shape[1]} × {shape[0]} pixels"
    return ShownImage("Image", encode_jpeg(small), f"{size}.", f"The uploaded image, {size}.")


def _lesion_mask(small: np.ndarray, mask: np.ndarray, prediction: Prediction) -> ShownImage:
    share = f"{percent(prediction.area_fraction)} of the image"
    use = "the whole image was classified" if prediction.whole_image_fallback else "it was used"
    joint = ", so " if prediction.whole_image_fallback else ", but "
    quality = f" The mask quality is low{joint}{use}." if prediction.mask_issues else ""
    return ShownImage(
        "Lesion mask",
        encode_jpeg(draw_outline(small, mask)),
        f"The line is the contour of the lesion mask, which covers {share}.{quality}",
        f"The image with the contour of the lesion mask, which lies {_place(prediction)} and "
        f"covers {share}.{quality}",
    )


def _place(prediction: Prediction) -> str:
    """Where the middle of the lesion's box lies, such as ``at the top left``."""
    top, left, bottom, right = prediction.box or (0, 0, 1, 1)
    height, width = prediction.mask.shape
    down = _PLACES[0][min(2, int(1.5 * (top + bottom) / height))]
    across = _PLACES[1][min(2, int(1.5 * (left + right) / width))]
    return "in the middle" if down == across else f"at the {down} {across}"


def _crop(prediction: Prediction) -> ShownImage:
    side = prediction.crop.shape[0]
    whole = prediction.crop_box == (0, 0, *prediction.mask.shape)
    what = "the whole image, resized to a square" if whole else "the crop around the lesion"
    return ShownImage(
        "What the classifier sees",
        encode_image(prediction.crop),
        f"{what.capitalize()}: {side} × {side} pixels.",
        f"The input of the classifier: {what}.",
    )


def _heat_map(explanation: Explanation, small: np.ndarray, mask: np.ndarray) -> ShownImage:
    share = explanation.inside_fraction
    where = "" if share is None else f" {whole_percent(share)} of the heat is in the lesion mask."
    return ShownImage(
        "Heat map",
        encode_jpeg(overlay_heat(small, explanation, mask)),
        "Regions that raise the probability of malignant, from purple (little) to yellow (most). "
        f"The map does not explain why.{where}",
        f"The image, coloured where it raises the probability of malignant.{where}",
    )
