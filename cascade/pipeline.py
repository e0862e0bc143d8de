"""Both stages in a row: photograph in, mask and probability out.

The cascade only knows the protocols of :mod:`cascade.models.protocol`. It has no arithmetic of its
own: images come from ``imaging``, the joint between the stages from ``masking``.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from cascade.augmented_views import VIEWS, TestTimeAugmentation, average, undo, view
from cascade.config import CLASSES
from cascade.errors import CascadeError, ConfigError, ModelFileError
from cascade.imaging import (
    ImageLimits,
    ImageSource,
    LoadedImage,
    plausibility_warnings,
    read_image,
)
from cascade.imaging.orientation import to_stored_box, to_stored_mask
from cascade.imaging.resize import resize_pixels
from cascade.masking import (
    NO_LESION,
    Box,
    Lesion,
    MaskedCrop,
    MaskPolicy,
    apply_mask,
    find_lesion,
)
from cascade.measurements import Measurements, check_scale, measure
from cascade.models.artifact import default_model, merge_artifacts, read_artifact, write_artifact
from cascade.models.protocol import ClassifierStage, SegmenterStage

Runtime = Literal["torch"]


@dataclass(frozen=True)
class Prediction:
    """What the cascade says about one image.

    Boxes and masks are in displayed orientation, that is, after the EXIF rotation.

    Attributes:
        name: file name, or ``image`` for an array.
        label: ``benign`` or ``malignant``; ``None`` where the policy abstains.
        probabilities: class name to probability; they sum to 1. Empty where the policy abstains.
        mask: ``(H, W)`` bool, the lesion in original pixels.
        mask_probability: ``(S, S)`` float32 probability of lesion, at the segmenter's size.
        box: the lesion's bounding box ``(top, left, bottom, right)``, or ``None`` without one.
        crop: ``(s, s, 3)`` uint8 RGB, exactly what the classifier saw.
        crop_box: the square of the image that ``crop`` shows; it may reach over the border.
        orientation: EXIF orientation of the file, 1 to 8.
        warnings: what a user should know about this prediction.
        measurements: the lesion's size, shape and colour, or ``None`` without a lesion.
    """

    name: str
    label: str | None
    probabilities: Mapping[str, float]
    mask: np.ndarray
    mask_probability: np.ndarray
    box: Box | None
    crop: np.ndarray
    crop_box: Box
    orientation: int = 1
    warnings: tuple[str, ...] = ()
    measurements: Measurements | None = None

    @property
    def area_fraction(self) -> float:
        """Share of the image that the lesion covers, in [0, 1]."""
        return float(np.count_nonzero(self.mask) / self.mask.size)

    @property
    def stored_mask(self) -> np.ndarray:
        """The mask in the file's stored pixel order, before the EXIF rotation."""
        return to_stored_mask(self.mask, self.orientation)

    @property
    def stored_box(self) -> Box | None:
        """The box in the file's stored pixel order, before the EXIF rotation."""
        if self.box is None:
            return None
        return to_stored_box(self.box, self.orientation, self.mask.shape)


@dataclass(frozen=True)
class Failure:
    """An input that could not be predicted.

    Attributes:
        name: file name, or ``image`` for an array.
        error: what was wrong with it.
    """

    name: str
    error: CascadeError


class Cascade:
    """Segmenter and classifier in a row.

    >>> cascade = Cascade.load()  # doctest: +SKIP
    >>> cascade(["lesion.jpg"])[0].probabilities["malignant"]  # doctest: +SKIP
    0.07
    """

    def __init__(
        self,
        segmenter: SegmenterStage,
        classifier: ClassifierStage,
        *,
        policy: MaskPolicy | None = None,
        cutoff: float | None = None,
        limits: ImageLimits | None = None,
    ) -> None:
        """Chain two stages.

        Args:
            segmenter: finds the lesion.
            classifier: judges the masked crop.
            policy: checked against the classifier's own; give it to be sure, not to change it.
            cutoff: probability of malignant from which the label is malignant; by default the one
                stored with the classifier.
            limits: what images are accepted.

        Raises:
            ConfigError: the policy is not the one that the classifier was trained with.
        """
        if policy is not None and policy != classifier.policy:
            raise ConfigError(
                f"the classifier was trained with mask policy {classifier.policy}; a cascade with "
                f"{policy} would show it something else. Train a classifier with that policy"
            )
        self.segmenter = segmenter
        self.classifier = classifier
        self.policy = classifier.policy
        self.cutoff = classifier.cutoff if cutoff is None else cutoff
        if not 0 <= self.cutoff <= 1:
            raise ConfigError(f"cutoff is {self.cutoff}; a probability lies within [0, 1]")
        self.limits = limits or ImageLimits()

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str] | None = None,
        *,
        device: str = "auto",
        runtime: Runtime = "torch",
        cutoff: float | None = None,
        limits: ImageLimits | None = None,
    ) -> Cascade:
        """Read a cascade from its file.

        Args:
            path: a ``.safetensors`` file with both stages; by default the cascade that comes with
                the library.
            device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
            runtime: what computes the networks.
            cutoff: see :class:`Cascade`.
            limits: see :class:`Cascade`.

        Raises:
            ModelFileError: the file is missing, damaged, or lacks a stage.
        """
        if runtime != "torch":
            raise ConfigError(f"runtime {runtime!r} is unknown; choose torch")
        from cascade.models.ensemble import load_classifier
        from cascade.models.segmenter import Segmenter

        path = default_model() if path is None else path
        artifact = read_artifact(path, needs=("segmenter", "classifier"))
        segmenter = Segmenter.from_artifact(artifact, device=device, source=str(path))
        classifier = load_classifier(artifact, device=device, source=str(path))
        return cls(segmenter, classifier, cutoff=cutoff, limits=limits)

    def save(self, path: str | os.PathLike[str], *, half: bool = False) -> None:
        """Write both stages into one file.

        Args:
            path: the ``.safetensors`` file to write.
            half: store floating-point tensors as float16.

        Raises:
            ConfigError: a stage is not a torch network, so its weights cannot be stored.
        """
        from cascade.models.network import Network

        if not (isinstance(self.segmenter, Network) and isinstance(self.classifier, Network)):
            raise ConfigError("only a cascade of torch networks can be saved as safetensors")
        parts = (self.segmenter.to_artifact(half=half), self.classifier.to_artifact(half=half))
        write_artifact(path, merge_artifacts(*parts))

    def __call__(
        self,
        sources: ImageSource | Iterable[ImageSource],
        *,
        tta: TestTimeAugmentation = "none",
        bgr: bool = False,
        pixels_per_millimetre: float | None = None,
    ) -> list[Prediction]:
        """Predict one or several images; the first broken one raises.

        Args:
            sources: a path, bytes, PIL image or ``(H, W, 3)`` uint8 RGB array, or several of these
                in a list, another iterable, or an array ``(N, H, W, 3)``.
            tta: test-time augmentation of both stages.
            bgr: arrays hold blue first, as OpenCV reads them.
            pixels_per_millimetre: scale of all these images, for measurements in millimetres.

        Returns:
            One prediction for each source, in order; always a list.

        Raises:
            ImageError: an image cannot be used; the message names it.
            ConfigError: the scale is not a positive number.
        """
        results = []
        for result in self.predict_iter(
            sources, tta=tta, bgr=bgr, pixels_per_millimetre=pixels_per_millimetre
        ):
            if isinstance(result, Failure):
                raise result.error
            results.append(result)
        return results

    def predict_iter(
        self,
        sources: ImageSource | Iterable[ImageSource | LoadedImage],
        *,
        tta: TestTimeAugmentation = "none",
        batch_size: int = 1,
        bgr: bool = False,
        pixels_per_millimetre: float | None = None,
    ) -> Iterator[Prediction | Failure]:
        """Predict a stream of images in constant memory, one result for each, in order.

        Args:
            sources: any iterable of paths, bytes, PIL images or arrays, or one of these.
            tta: ``none``; ``flips`` averages 4 views; ``dihedral`` averages 8.
            batch_size: images that pass the networks together; larger pays on CUDA only.
            bgr: arrays hold blue first, as OpenCV reads them; files know their own order.
            pixels_per_millimetre: scale of all these images, for measurements in millimetres.

        Raises:
            ConfigError: the scale is not a positive number.
        """
        _check_tta(tta)
        check_scale(pixels_per_millimetre)
        several: Iterable[Any] = [sources] if _is_one(sources) else sources  # type: ignore[assignment]
        iterator = iter(several)
        while chunk := list(itertools.islice(iterator, max(1, batch_size))):
            read = [self._read(item, bgr=bgr) for item in chunk]
            yield from self._predict_chunk(read, tta, pixels_per_millimetre)

    def _predict_chunk(
        self,
        read: Sequence[LoadedImage | Failure],
        tta: TestTimeAugmentation,
        scale: float | None,
    ) -> Iterator[Prediction | Failure]:
        loaded = [item for item in read if isinstance(item, LoadedImage)]
        maps = segment(self.segmenter, [item.pixels for item in loaded], tta=tta)
        joined = [
            self._join(image, probability) for image, probability in zip(loaded, maps, strict=True)
        ]
        crops = [item for item in joined if not isinstance(item, CascadeError)]
        judged = iter(classify(self.classifier, [crop for _, crop in crops], tta=tta))
        results = iter(zip(loaded, maps, joined, strict=True))
        for item in read:
            if isinstance(item, Failure):
                yield item
                continue
            image, probability, cut = next(results)
            if isinstance(cut, CascadeError):
                yield Failure(image.name, cut)
                continue
            probabilities = next(judged)
            if np.isfinite(probabilities).all():
                yield self._prediction(image, probability, *cut, probabilities, scale)
            else:
                message = f"{image.name}: the classifier gave {probabilities}, no probabilities"
                yield Failure(image.name, ModelFileError(message))

    def _read(self, source: ImageSource | LoadedImage, *, bgr: bool) -> LoadedImage | Failure:
        if isinstance(source, LoadedImage):
            return source
        try:
            return read_image(source, limits=self.limits, bgr=bgr)
        except CascadeError as error:
            return Failure(source_name(source), error)

    def _join(
        self, image: LoadedImage, probability: np.ndarray
    ) -> tuple[Lesion, MaskedCrop] | CascadeError:
        try:
            lesion = find_lesion(probability, self.policy, shape=image.shape)
            return lesion, apply_mask(image.pixels, lesion, self.policy, size=self.classifier.size)
        except CascadeError as error:
            return error

    def _prediction(
        self,
        image: LoadedImage,
        probability: np.ndarray,
        lesion: Lesion,
        crop: MaskedCrop,
        judged: np.ndarray,
        scale: float | None,
    ) -> Prediction:
        doubts = plausibility_warnings(image.pixels)
        warnings = [*image.warnings, *doubts, *lesion.warnings]
        abstains = not lesion.found and self.policy.uses_mask and self.policy.on_empty == "abstain"
        if not lesion.found and self.policy.uses_mask:
            outcome = "no label is given" if abstains else "the whole image was classified"
            warnings = [item for item in warnings if not item.startswith(NO_LESION)]
            warnings.append(f"{NO_LESION}: {outcome}")
        probabilities = {} if abstains else dict(zip(CLASSES, judged.tolist(), strict=True))
        label = None
        if probabilities:
            label = CLASSES[int(probabilities[CLASSES[1]] >= self.cutoff)]
        sizes = None
        if lesion.found:  # now, because a prediction does not keep the image
            sizes = measure(image.pixels, lesion.mask, pixels_per_millimetre=scale)
        return Prediction(
            name=image.name,
            label=label,
            probabilities=probabilities,
            mask=lesion.mask,
            mask_probability=probability,
            box=lesion.box,
            crop=crop.pixels,
            crop_box=crop.box,
            orientation=image.orientation,
            warnings=tuple(warnings),
            measurements=sizes,
        )

    @property
    def provenance(self) -> dict[str, Any]:
        """How each stage was made; empty for stages that do not say."""
        stages = {"segmenter": self.segmenter, "classifier": self.classifier}
        return {name: getattr(stage, "provenance", {}) for name, stage in stages.items()}

    def describe(self) -> dict[str, Any]:
        """Both stages' settings as plain JSON values."""
        return {
            "segmenter": self.segmenter.describe(),
            "classifier": self.classifier.describe(),
            "cutoff": self.cutoff,
        }


def segment(
    segmenter: SegmenterStage, images: Sequence[np.ndarray], *, tta: TestTimeAugmentation = "none"
) -> np.ndarray:
    """Probability maps ``(N, S, S)`` float32 of ``(H, W, 3)`` uint8 RGB images of any size."""
    if not images:
        return np.zeros((0, segmenter.size, segmenter.size), np.float32)
    batch = np.stack([resize_pixels(image, segmenter.size) for image in images])
    return average([undo(segmenter.predict(view(batch, how)), how) for how in VIEWS[tta]])


def classify(
    classifier: ClassifierStage, crops: Sequence[MaskedCrop], *, tta: TestTimeAugmentation = "none"
) -> np.ndarray:
    """Class probabilities ``(N, 2)`` float32 of masked crops."""
    if not crops:
        return np.zeros((0, len(CLASSES)), np.float32)
    batch = np.stack([crop.pixels for crop in crops])
    return average([classifier.predict_proba(view(batch, how)) for how in VIEWS[tta]])


def _is_one(sources: Any) -> bool:
    """Whether this is one image; an array with four axes holds several."""
    if isinstance(sources, (str, bytes, bytearray, memoryview)):
        return True
    if hasattr(sources, "ndim"):
        return bool(sources.ndim != 4)
    return not isinstance(sources, Iterable)


def source_name(source: ImageSource) -> str:
    """The file name of a source, or ``image`` for one in memory."""
    return Path(source).name if isinstance(source, (str, os.PathLike)) else "image"


def _check_tta(tta: str) -> None:
    if tta not in VIEWS:
        raise ConfigError(f"tta is {tta!r}; choose from {', '.join(VIEWS)}")
