"""One image through the cascade, reduced to what a page or a report shows."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cascade.errors import CascadeError
from cascade.imaging import printable, read_image
from cascade.pipeline.augmented_views import TestTimeAugmentation
from cascade.pipeline.patients import compared_numbers
from cascade.reliability import Metadata
from cascade.reliability.metadata import UNKNOWN
from cascade.serving.page.images import ShownImage, draw_images
from cascade.serving.page.words import (
    Answer,
    Row,
    answer_of,
    further_warnings,
    measurement_notes,
    rows_of,
    sentence,
)
from cascade.serving.shared.uploads import NO_MEMORY, lacks_memory, predict_upload

if TYPE_CHECKING:
    from cascade.pipeline import Cascade

_NAMELESS = "image: "
"""Messages about an image in memory start with this."""

_ADVICE_FOR_PROGRAMS = re.compile(r",? or (?:raise|pass) \w+(?: to use .*)?$")


@dataclass(frozen=True)
class Settings:
    """What a user of the page chose for all images.

    Attributes:
        tta: test-time augmentation.
        pixels_per_millimetre: scale of the images; ``None`` where it is not known.
        metadata: age, sex and site, the same for all images.
    """

    tta: TestTimeAugmentation = "none"
    pixels_per_millimetre: float | None = None
    metadata: Metadata = UNKNOWN


@dataclass(frozen=True)
class Finding:
    """What the page shows of one image; it is small, because it holds no arrays.

    Attributes:
        name: the file's name, printable but not escaped.
        digest: the first 12 digits of the SHA-256 of the file.
        answer: what the cascade says, before any cutoff.
        images: to show, in order.
        heat_notes: notes on the heat map, such as why there is none.
        rows: the measurements; empty without a lesion.
        notes: notes on the measurements.
        warnings: all other warnings.
        numbers: what is compared with other lesions of a patient, see
            :func:`cascade.pipeline.patients.compared_numbers`; not-a-number where the image cannot
            be judged.
    """

    name: str
    digest: str
    answer: Answer
    images: tuple[ShownImage, ...]
    heat_notes: tuple[str, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...]
    warnings: tuple[str, ...]
    numbers: tuple[float, ...]


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
        image = read_image(data, limits=cascade.limits)
        prediction = predict_upload(
            cascade,
            image,
            tta=settings.tta,
            pixels_per_millimetre=settings.pixels_per_millimetre,
            metadata=settings.metadata,
        )
        answer = answer_of(
            prediction, uses_mask=cascade.policy.uses_mask, coverage=cascade.coverage
        )
        judged = answer.probability is not None
        images, heat_notes = draw_images(
            cascade, image.pixels, prediction, judged=judged, tta=settings.tta
        )
    except Exception as error:
        if lacks_memory(error):
            return Problem(shown, sentence(NO_MEMORY))
        if isinstance(error, CascadeError):
            return Problem(shown, plain_message(error))
        raise
    sizes = prediction.measurements
    return Finding(
        name=shown,
        digest=hashlib.sha256(data).hexdigest()[:12],
        answer=answer,
        images=images,
        heat_notes=heat_notes,
        rows=(*(() if sizes is None else rows_of(sizes)), *rows_of(prediction.image_quality)),
        notes=measurement_notes(prediction),
        warnings=further_warnings(prediction),
        numbers=compared_numbers(prediction if judged else None),
    )


def plain_message(error: CascadeError) -> str:
    """An error of the library as a sentence for users of the page."""
    text = _ADVICE_FOR_PROGRAMS.sub("", str(error).removeprefix(_NAMELESS))
    if text.split(" ")[0] in ("is", "has", "holds", "cannot"):
        text = f"the file {text}"
    return sentence(text)
