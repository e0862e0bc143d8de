"""What a classifier looked at, on the image and in numbers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import cv2
import numpy as np

from cascade.config import CLASSES
from cascade.errors import ConfigError, ShapeError
from cascade.evaluation.overlays import draw_outline
from cascade.explain.heat import SMALLEST_HEAT, heat_in_image, heat_inside
from cascade.imaging import check_image, check_mask
from cascade.pipeline import Cascade
from cascade.pipeline.augmented_views import VIEWS, TestTimeAugmentation, View, average, undo, view
from cascade.pipeline.prediction import Prediction

LARGEST_SHARE_BEYOND = 0.1
"""Share of the heat on the fill beyond the image's border from which there is a warning."""
SMALLEST_AGREEMENT = 0.5
"""Correlation of the maps of the crop and of the turned crop, below which there is a warning."""
_UPRIGHT: View = (0, False)
_HALF_TURN: View = (2, False)


@runtime_checkable
class ActivationMaps(Protocol):
    """Gives class activation maps: :class:`GradCAM`, or a stage that was exported with its own."""

    def activation_map(self, images: np.ndarray, *, target: str) -> np.ndarray:
        """``(N, S, S, 3)`` uint8 RGB to ``(N, h, w)`` float32, not scaled, for one class."""


@dataclass(frozen=True)
class Explanation:
    """Where in an image the classifier found what speaks for a class.

    Attributes:
        heat_map: ``(H, W)`` float32 within [0, 1], in original pixels in displayed orientation;
            scaled so that the hottest place of the crop is 1, and 0 outside the crop.
        target: the class that the heat speaks for.
        inside_fraction: share of the image's heat that lies within the lesion's mask, in [0, 1];
            ``None`` without a lesion or without heat.
        mean_ratio: mean heat of the lesion's pixels, divided by the mean heat of the other pixels
            that the classifier saw; above 1 the lesion is hotter than what surrounds it. ``None``
            where one of the two is missing or there is no heat around the lesion.
        is_empty: there is no heat at all: no place speaks more for the class than against it.
        warnings: what a user should know before looking at the heat map.
        turn_agreement: correlation of the map with that of the crop turned by 180 degrees, turned
            back, in [-1, 1]. Near 1 the map follows what the crop shows; near 0 or below it
            depends on the place within the crop, and tells nothing about the lesion. ``None``
            where a map is the same everywhere.
    """

    heat_map: np.ndarray
    target: str
    inside_fraction: float | None
    mean_ratio: float | None
    is_empty: bool
    warnings: tuple[str, ...] = ()
    turn_agreement: float | None = None


@contextlib.contextmanager
def activation_maps(classifier: object) -> Iterator[ActivationMaps]:
    """What gives a classifier's activation maps: its own, or Grad-CAM over a torch network.

    Raises:
        ConfigError: it is neither a torch classifier nor has it activation maps of its own, or it
            was exported without them.
        MissingExtraError: it is a torch classifier, and the library grad-cam is not installed.
    """
    if isinstance(classifier, ActivationMaps):
        if not getattr(classifier, "has_activation_map", True):
            raise ConfigError(
                "this classifier was exported without class activation maps, because it does not "
                "end in a mean and one linear layer; explain it with the torch runtime"
            )
        yield _LogOdds(classifier)
        return
    from cascade.explain.gradcam import GradCAM

    with GradCAM(classifier) as maps:  # type: ignore[arg-type]
        yield maps


@dataclass(frozen=True)
class _LogOdds:
    """Maps of log odds from a stage that gives those of each class's logit."""

    stage: ActivationMaps

    def activation_map(self, images: np.ndarray, *, target: str) -> np.ndarray:
        """The class's map less the other class's: what both share moves no probability."""
        (other,) = set(CLASSES) - {target}
        return self.stage.activation_map(images, target=target) - self.stage.activation_map(
            images, target=other
        )


def explain(
    cascade: Cascade,
    source_image: np.ndarray,
    prediction: Prediction,
    *,
    target: str = CLASSES[1],
    tta: TestTimeAugmentation = "none",
    maps: ActivationMaps | None = None,
) -> Explanation:
    """Show where the classifier found what speaks for a class, in the pixels of the image.

    Explained is the very crop that the classifier judged.

    Args:
        cascade: what made the prediction.
        source_image: ``(H, W, 3)`` uint8 RGB, the image in displayed orientation.
        prediction: for this image.
        target: ``benign`` or ``malignant``.
        tta: the views that the prediction averaged; the heat is the mean over the same ones.
        maps: from :func:`activation_maps`, to explain many images with one; by default opened
            for this one.

    Raises:
        ConfigError: the target is no class, the classifier cannot be explained, or another cascade
            made the prediction.
        ShapeError: the prediction is of another image.
        MissingExtraError: the library grad-cam is not installed.
    """
    check_image(source_image)
    _check(cascade, source_image, prediction, target, tta)
    with contextlib.ExitStack() as stack:
        if maps is None:
            maps = stack.enter_context(activation_maps(cascade.classifier))
        of_views = {
            how: undo(maps.activation_map(view(prediction.crop[None], how), target=target), how)[0]
            for how in {*VIEWS[tta], _HALF_TURN}
        }
    activation = average([of_views[how] for how in VIEWS[tta]])
    agreement = _correlation(of_views[_UPRIGHT], of_views[_HALF_TURN])
    heat, beyond = heat_in_image(activation, prediction.crop_box, source_image.shape[:2])
    inside, ratio = heat_inside(heat, prediction.mask, prediction.crop_box)
    empty = not heat.any()
    return Explanation(
        heat_map=heat,
        target=target,
        inside_fraction=inside,
        mean_ratio=ratio,
        is_empty=empty,
        warnings=_warnings(prediction, target, empty=empty, beyond=beyond, agreement=agreement),
        turn_agreement=agreement,
    )


def _check(
    cascade: Cascade, source_image: np.ndarray, prediction: Prediction, target: str, tta: str
) -> None:
    for name, value, allowed in (("target", target, CLASSES), ("tta", tta, tuple(VIEWS))):
        if value not in allowed:
            raise ConfigError(f"{name} is {value!r}; choose from {', '.join(allowed)}")
    if source_image.shape[:2] != prediction.mask.shape:
        raise ShapeError(
            f"the image is {source_image.shape[:2]} but the prediction is of one that is "
            f"{prediction.mask.shape}; give the image that was predicted, as it is displayed",
            expected=prediction.mask.shape,
            actual=source_image.shape[:2],
        )
    size = cascade.classifier.size
    if prediction.crop.shape[0] != size:
        raise ConfigError(
            f"the prediction's crop has {prediction.crop.shape[0]} pixels, this cascade's "
            f"classifier takes {size}; explain a prediction with the cascade that made it"
        )


def _correlation(first: np.ndarray, second: np.ndarray) -> float | None:
    """Pearson's, between two maps; ``None`` where one has the same value everywhere."""
    varies = min(first.std(), second.std()) > SMALLEST_HEAT
    return float(np.corrcoef(first.ravel(), second.ravel())[0, 1]) if varies else None


def _warnings(
    prediction: Prediction, target: str, *, empty: bool, beyond: float, agreement: float | None
) -> tuple[str, ...]:
    found = []
    if empty and not beyond:
        found.append(f"no heat: no region of the crop raises the probability of {target}")
    if beyond > LARGEST_SHARE_BEYOND:
        found.append(
            f"{beyond:.0%} of the heat is beyond the image's border, where the crop is padded"
        )
    if not empty and agreement is not None and agreement < SMALLEST_AGREEMENT:
        found.append(
            "the heat map is unreliable: that of the crop turned by 180 degrees differs "
            f"(correlation {agreement:.2f}, limit {SMALLEST_AGREEMENT:g})"
        )
    if prediction.mask_issues and not empty:
        found.append("mask quality is low, so the share of the heat within the mask is unreliable")
    if prediction.label is None:
        found.append("the cascade gave no label; the heat map is of the one that it withheld")
    return tuple(found)


OPACITY = 0.6
"""Of the hottest pixel; colder ones let more of the image through."""


def overlay_heat(
    image: np.ndarray, explanation: Explanation, mask: np.ndarray | None = None
) -> np.ndarray:
    """Lay a heat map over its image, with the lesion's outline.

    Heat is purple where there is little, yellow where there is most (inferno, which grows in
    brightness for every kind of colour vision), and the more opaque the hotter it is. Without heat
    only the outline is drawn.

    Args:
        image: ``(H, W, 3)`` uint8 RGB in displayed orientation.
        explanation: of this image.
        mask: ``(H, W)`` bool, the lesion; ``None`` or empty draws no outline.

    Returns:
        ``(H, W, 3)`` uint8 RGB.

    Raises:
        ShapeError: image, heat map or mask do not fit each other.
    """
    check_image(image)
    heat = explanation.heat_map
    if heat.shape != image.shape[:2]:
        raise ShapeError(
            f"the heat map is {heat.shape} but the image is {image.shape[:2]}; give the image that "
            "was explained",
            expected=image.shape[:2],
            actual=heat.shape,
        )
    drawn = np.ascontiguousarray(image)
    if not explanation.is_empty:
        levels = cv2.convertScaleAbs(heat, alpha=255.0)
        colors = cv2.cvtColor(cv2.applyColorMap(levels, cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)
        opacity = heat * OPACITY
        drawn = cv2.blendLinear(drawn, colors, 1.0 - opacity, opacity)
    if mask is None:
        return drawn.copy() if drawn is image else drawn
    check_mask(mask, like=image)
    return draw_outline(drawn, mask)
