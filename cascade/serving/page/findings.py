"""One image through the cascade, reduced to what a page or a report shows."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2

from cascade.errors import CascadeError
from cascade.imaging import LoadedImage, printable, read_image
from cascade.pipeline.augmented_views import TestTimeAugmentation
from cascade.pipeline.prediction import Failure, Prediction
from cascade.serving.page.pictures import Picture, draw_pictures
from cascade.serving.page.words import (
    Answer,
    Row,
    answer_of,
    further_warnings,
    measurement_notes,
    rows_of,
    sentence,
)

if TYPE_CHECKING:
    from cascade.pipeline import Cascade

NO_MEMORY = "There is not enough memory for this picture; reduce it."

_NAMELESS = "image: "
"""What messages about an image in memory start with."""

_ADVICE_FOR_PROGRAMS = re.compile(r",? or (?:raise|pass) \w+(?: to use .*)?$")


@dataclass(frozen=True)
class Settings:
    """What a user of the page chose for all images.

    Attributes:
        tta: test-time augmentation.
        pixels_per_millimetre: scale of the images; ``None`` where it is not known.
    """

    tta: TestTimeAugmentation = "none"
    pixels_per_millimetre: float | None = None


@dataclass(frozen=True)
class Finding:
    """What there is to say about one image; small, because all arrays are gone.

    Attributes:
        name: the file's name, printable but not escaped.
        digest: the first 12 digits of the SHA-256 of the file.
        answer: what the cascade says, whatever the cutoff.
        pictures: to show, in order.
        heat_notes: what to know about the heat map, such as why there is none.
        rows: the measurements; empty without a lesion.
        notes: what to know about the measurements.
        warnings: what else to know.
    """

    name: str
    digest: str
    answer: Answer
    pictures: tuple[Picture, ...]
    heat_notes: tuple[str, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Problem:
    """An image that could not be used.

    Attributes:
        name: the file's name, printable but not escaped.
        message: what is wrong with it, in one sentence.
    """

    name: str
    message: str


def examine(cascade: Cascade, name: str, data: bytes, settings: Settings) -> Finding | Problem:
    """Read, segment, classify, measure and explain one image.

    Args:
        cascade: both stages; its limits hold for the image.
        name: the file's name, from the user; never used as a path.
        data: the bytes of the file.
        settings: test-time augmentation and scale.
    """
    shown = printable(name)
    try:
        loaded = read_image(data, limits=cascade.limits)
        prediction = _predict(cascade, loaded, settings)
        answer = answer_of(
            prediction, uses_mask=cascade.policy.uses_mask, coverage=cascade.coverage
        )
        pictures, heat_notes = draw_pictures(
            cascade,
            loaded.pixels,
            prediction,
            judged=answer.probability is not None,
            tta=settings.tta,
        )
    except CascadeError as error:
        return Problem(shown, plain_message(error))
    except MemoryError:
        return Problem(shown, NO_MEMORY)
    except cv2.error as error:
        if error.code != cv2.Error.StsNoMem:
            raise
        return Problem(shown, NO_MEMORY)
    sizes = prediction.measurements
    return Finding(
        name=shown,
        digest=hashlib.sha256(data).hexdigest()[:12],
        answer=answer,
        pictures=pictures,
        heat_notes=heat_notes,
        rows=(*(() if sizes is None else rows_of(sizes)), *rows_of(prediction.image_quality)),
        notes=measurement_notes(prediction),
        warnings=further_warnings(prediction),
    )


def plain_message(error: CascadeError) -> str:
    """An error of the library as a sentence for who only sees the page."""
    text = _ADVICE_FOR_PROGRAMS.sub("", str(error).removeprefix(_NAMELESS))
    if text.split(" ")[0] in ("is", "has", "holds", "cannot"):
        text = f"the file {text}"
    return sentence(text)


def _predict(cascade: Cascade, loaded: LoadedImage, settings: Settings) -> Prediction:
    results = cascade.predict_iter(
        [loaded], tta=settings.tta, pixels_per_millimetre=settings.pixels_per_millimetre
    )
    result = next(results)
    if isinstance(result, Failure):
        raise result.error
    return result
