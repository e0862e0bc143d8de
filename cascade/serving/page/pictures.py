"""The images of one result, small enough to embed, with words for who cannot see them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import cv2
import numpy as np

from cascade.config import CLASSES
from cascade.errors import CascadeError
from cascade.evaluation.overlays import draw_outline
from cascade.explain import Explanation, explain, overlay_heat
from cascade.pipeline.augmented_views import TestTimeAugmentation
from cascade.pipeline.prediction import Prediction
from cascade.serving.page.words import percent, sentence, whole_percent

if TYPE_CHECKING:
    from cascade.pipeline import Cascade

LONGEST_SIDE = 900
"""Images are reduced to this before they are drawn on; the networks saw all pixels."""

_QUALITY = 90
_PLACES = (("top", "middle", "bottom"), ("left", "middle", "right"))


@dataclass(frozen=True)
class Picture:
    """One encoded image of a result.

    Attributes:
        title: what it is, in one or two words.
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


def draw_pictures(
    cascade: Cascade,
    pixels: np.ndarray,
    prediction: Prediction,
    *,
    judged: bool,
    tta: TestTimeAugmentation = "none",
) -> tuple[tuple[Picture, ...], tuple[str, ...]]:
    """The image, the outline, the crop and the heat map.

    Args:
        cascade: what made the prediction.
        pixels: ``(H, W, 3)`` uint8 RGB, the image as displayed.
        prediction: of these pixels.
        judged: a probability is shown; without one there is no heat map either.
        tta: the views that the prediction averaged.

    Returns:
        The images that there are, and what to know about the heat map, such as why there is none.
    """
    small, reduced = _reduced(pixels, prediction)
    pictures = [_original(small, pixels.shape), _crop(prediction)]
    if prediction.box is not None:
        pictures.insert(1, _outline(small, reduced.mask, prediction))
    if not judged:
        return tuple(pictures), ("None, because the picture cannot be judged.",)
    try:
        explanation = explain(cascade, small, reduced, target=CLASSES[1], tta=tta)
    except CascadeError as error:
        return tuple(pictures), (sentence(f"None: {error}"),)
    if not explanation.is_empty:
        pictures.append(_heat_map(explanation, small, reduced.mask))
    return tuple(pictures), tuple(sentence(warning) for warning in explanation.warnings)


def _reduced(pixels: np.ndarray, prediction: Prediction) -> tuple[np.ndarray, Prediction]:
    """Both with sides of at most :data:`LONGEST_SIDE` pixels; the crop stays as it was."""
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
    return small, replace(prediction, mask=mask > 0, crop_box=(*start, *end))


def _original(small: np.ndarray, shape: tuple[int, ...]) -> Picture:
    size = f"{shape[1]} × {shape[0]} pixels"
    return Picture("Photograph", jpeg(small), size, f"The photograph as it was read, {size}.")


def _outline(small: np.ndarray, mask: np.ndarray, prediction: Prediction) -> Picture:
    share = f"{percent(prediction.area_fraction)} of the picture"
    use = "was not used" if prediction.whole_image_fallback else "was used all the same"
    trust = f" Its quality is low and it {use}." if prediction.mask_issues else ""
    return Picture(
        "Outline",
        jpeg(draw_outline(small, mask)),
        f"The lesion as the first network sees it: {share}.{trust}",
        f"The photograph with a line around the lesion, which lies {_place(prediction)} and covers "
        f"{share}.{trust}",
    )


def _place(prediction: Prediction) -> str:
    """Where the middle of the lesion's box lies, such as ``at the top left``."""
    top, left, bottom, right = prediction.box or (0, 0, 1, 1)
    height, width = prediction.mask.shape
    down = _PLACES[0][min(2, int(1.5 * (top + bottom) / height))]
    across = _PLACES[1][min(2, int(1.5 * (left + right) / width))]
    return "in the middle" if down == across else f"at the {down} {across}"


def _crop(prediction: Prediction) -> Picture:
    side = prediction.crop.shape[0]
    whole = prediction.crop_box == (0, 0, *prediction.mask.shape)
    what = "the whole picture, squashed to a square" if whole else "the lesion with some skin"
    return Picture(
        "What the classifier sees",
        _png(prediction.crop),
        f"{what.capitalize()}: {side} × {side} pixels.",
        f"The square that the second network judges: {what}.",
    )


def _heat_map(explanation: Explanation, small: np.ndarray, mask: np.ndarray) -> Picture:
    share = explanation.inside_fraction
    where = "" if share is None else f" {whole_percent(share)} of the heat is inside the outline."
    return Picture(
        "Heat map",
        jpeg(overlay_heat(small, explanation, mask)),
        f"What speaks for malignant: yellow most, purple little. It proves no cause.{where}",
        f"The photograph, coloured where it speaks for malignant.{where}",
    )


def jpeg(pixels: np.ndarray) -> bytes:
    """``(H, W, 3)`` uint8 RGB as the bytes of a JPEG without colour subsampling."""
    import simplejpeg

    return bytes(simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), _QUALITY, "RGB", "444"))


def _png(pixels: np.ndarray) -> bytes:
    return cv2.imencode(".png", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))[1].tobytes()
