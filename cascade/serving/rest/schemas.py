"""Requests and responses as JSON; the OpenAPI document is made of these classes."""

from __future__ import annotations

import typing
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, create_model
from pydantic_core import PydanticCustomError

from cascade.errors import ConfigError
from cascade.fields import alternatives, declared, example
from cascade.lesion.patient import PatientContext
from cascade.pipeline.augmented_views import TestTimeAugmentation
from cascade.pipeline.prediction import Prediction
from cascade.reliability import Metadata
from cascade.reliability.metadata import SEXES, SITES

Answer = Literal["benign", "malignant", "undecided", "cannot_judge"]
ImageKind = Literal["mask", "overlay", "heat_map"]


def _split(value: Any) -> Any:
    """``mask,overlay`` is the same as naming both."""
    items = [value] if isinstance(value, str) else value
    if not isinstance(items, (list, tuple)):
        return items
    words = [word.strip() for item in items for word in str(item).split(",")]
    return tuple(dict.fromkeys(word for word in words if word))


def _known(name: str) -> Any:
    """A field of :class:`cascade.reliability.Metadata`, with its own checks."""

    def check(value: Any) -> Any:
        try:
            return getattr(Metadata(**{name: value}), name)
        except ConfigError as error:
            raise PydanticCustomError("metadata", "{said}", {"said": str(error)}) from error

    return BeforeValidator(check)


class Options(BaseModel):
    """Options of a request, in its query or as form fields."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tta: TestTimeAugmentation | None = Field(
        default=None, description="Test-time augmentation: average 1, 4 or 8 views."
    )
    operating_point: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="Sensitivity of a cutoff stored with the model, such as 0.9; see /v1/model.",
    )
    pixels_per_millimetre: float | None = Field(
        default=None,
        gt=0,
        lt=1e6,
        allow_inf_nan=False,
        description="Scale of all images of the request, for measurements in millimetres.",
    )
    patient: bool = Field(
        default=False,
        description="All images of the request are of one patient: compare their lesions, see "
        "patient in the results. An image that is sent twice counts once.",
    )
    age: Annotated[float | None, _known("age")] = Field(
        default=None,
        description="Age of the person in years, where it is known; for a model with metadata "
        "fusion, as sex and site.",
    )
    sex: Annotated[str | None, _known("sex")] = Field(
        default=None, description=f"Sex of the person: {' or '.join(SEXES)}."
    )
    site: Annotated[str | None, _known("site")] = Field(
        default=None,
        description=f"Site of the lesion: {', '.join(SITES)}, or another usual word such as back.",
    )
    include: Annotated[tuple[ImageKind, ...], BeforeValidator(_split)] = Field(
        default=(),
        description="Images to return as PNG; several with commas.",
    )

    @property
    def metadata(self) -> Metadata:
        """What is known beside all images of the request."""
        return Metadata(self.age, self.sex, self.site)


class _Sent(BaseModel):
    model_config = ConfigDict(frozen=True, protected_namespaces=())


class Box(_Sent):
    """A half-open rectangle in pixels; a crop may reach over the image's border."""

    top: int
    left: int
    bottom: int
    right: int


class OperatingPoint(_Sent):
    """The cutoff of the label."""

    cutoff: float = Field(description="Probability of malignant from which the label is malignant.")
    sensitivity: float | None = Field(
        description="Sensitivity that the cutoff reached on the validation images; null if unknown."
    )


class Images(_Sent):
    """PNG files in Base64, in displayed orientation; only those that were requested."""

    mask: str | None = Field(default=None, description="Gray, 0 and 255, in the image's own size.")
    overlay: str | None = Field(
        default=None,
        description="The image with the contour of its mask, at most 1024 pixels a side.",
    )
    heat_map: str | None = Field(
        default=None, description="The image under its heat map, at most 1024 pixels a side."
    )


class Heat(_Sent):
    """What the heat map says in numbers."""

    target: str = Field(description="The class whose probability the heat raises.")
    inside_fraction: float | None = Field(
        description="Share of the heat within the lesion's mask; null without a mask or heat."
    )
    mean_ratio: float | None = Field(
        description="Mean heat of the lesion over that of the rest of the crop; null if unknown."
    )
    turn_agreement: float | None = Field(
        description="Correlation with the heat map of the turned crop; near 1 the heat follows the "
        "content of the image, near 0 it is unreliable."
    )
    is_empty: bool = Field(description="No region of the crop raises the probability of the class.")
    warnings: tuple[str, ...]


def _schema(record: type) -> Any:
    """The model of a record's declared fields; of a tuple with named places, an object."""
    fields: dict[str, Any] = {}
    for field in declared(record):
        if not field.description.json:
            continue
        kind: Any = field.kind
        kinds = alternatives(kind)
        if field.record is not None:
            kind = _schema(field.record)
        elif typing.get_origin(kinds[0]) is tuple and field.description.parts:
            kind = Box
        if type(None) in kinds and kind is not field.kind:
            kind = kind | None
        text, unit = field.description.meaning, field.description.unit
        fields[field.name] = (kind, Field(description=f"{text} Unit: {unit}." if unit else text))
    return create_model(record.__name__, __base__=_Sent, __doc__=record.__doc__, **fields)


_Declared: Any = _schema(Prediction)
Context: Any = _schema(PatientContext)


class ImageResult(_Declared):
    """What the cascade says about one image."""

    status: Literal["ok"] = "ok"
    index: int = Field(description="Place of the image in the request, from 0.")
    name: str | None = Field(description="File name as sent, never used as a path.")
    sha256: str = Field(description="SHA-256 of the bytes that were sent.")
    answer: Answer = Field(
        description="The label; undecided if both classes remain possible; cannot_judge if no "
        "lesion was found or the image is out of distribution."
    )
    message: str = Field(description="The answer in one sentence.")
    operating_point: OperatingPoint
    patient: Context | None = Field(
        default=None,
        description="With patient=true: what the lesion is among those of the request. Most odd "
        "lesions are benign, and a lesion like the others may be malignant.",
        examples=[example(PatientContext)],
    )
    heat: Heat | None = Field(default=None, description="With include=heat_map.")
    images: Images = Field(default_factory=Images)


class ImageFailure(_Sent):
    """An image that could not be used."""

    status: Literal["error"] = "error"
    index: int
    name: str | None
    sha256: str
    message: str = Field(description="What was wrong with it.")


class ModelReference(_Sent):
    """Which model answered."""

    version: str = Field(description="Version of the library.")
    digest: str = Field(description="SHA-256 of the model.")
    runtime: str


class PredictionAnswer(_Sent):
    """One entry for each image, in the order of the request."""

    disclaimer: str
    model: ModelReference
    results: tuple[Annotated[ImageResult | ImageFailure, Field(discriminator="status")], ...]


class ModelDescription(_Sent):
    """The model of the service."""

    name: str = Field(description="Name of its file.")
    version: str
    digest: str
    runtime: str
    intended_use: str
    classes: tuple[str, ...]
    segmenter: dict[str, Any]
    classifier: dict[str, Any] = Field(description="With the mask policy and the calibration.")
    cutoff: float = Field(description="Used unless a request names an operating point.")
    operating_points: dict[str, float] = Field(description="Sensitivity to cutoff.")
    coverage: float = Field(description="Of prediction sets.")
    safeguards: dict[str, Any]
    provenance: dict[str, Any] = Field(
        description="How each stage was trained; long lists as their length."
    )
    metrics: dict[str, Any]
    card: str | None = Field(description="The model card in Markdown, where there is one.")


class Health(_Sent):
    """State of the process."""

    status: Literal["ok", "loading", "failed", "stuck"]


class FieldError(_Sent):
    """One field of a request that was wrong."""

    field: str
    message: str


class Problem(_Sent):
    """Why there is no result (RFC 9457)."""

    title: str
    status: int
    detail: str
    request_id: str = Field(description="Also in the log of the service; quote it in a bug report.")
    errors: tuple[FieldError, ...] = ()
