"""How a mask cuts the classifier's input out of an image, as a setting.

Apart from :mod:`cascade.lesion.masking`, which applies it, so that the command line can name the
modes without loading OpenCV.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, get_args

from cascade.config import did_you_mean
from cascade.errors import ConfigError

Frame = Literal["crop", "full"]
Background = Literal["keep", "hard", "feathered", "only"]
OnEmpty = Literal["whole", "abstain", "raise"]

LARGEST_MARGIN = 2.0


@dataclass(frozen=True)
class MaskPolicy:
    """How a mask cuts the classifier's input out of an image.

    Attributes:
        frame: ``crop`` cuts a square around the lesion; ``full`` keeps the whole image.
        background: ``keep`` leaves the skin as it is, ``hard`` replaces every pixel outside the
            mask, ``feathered`` replaces pixels outside a dilated mask with a soft edge, ``only``
            replaces the lesion and keeps the skin (to measure what the skin alone gives away).
        margin: skin added on each side of the lesion's box, as a fraction of its longer side.
        dilation: how far ``feathered`` grows the mask, as a fraction of the box's longer side.
        feather: width of the soft edge beyond the dilated mask, same unit.
        fill: RGB that replaces removed pixels and pads a crop that reaches over the image.
        threshold: a pixel belongs to the mask where its probability is at least this.
        keep: ``largest`` keeps the component with the largest summed probability, ``all`` keeps
            every component of at least ``minimum_area``.
        fill_holes: fill holes inside the lesion.
        minimum_area: smallest area that counts as a lesion, as a fraction of the image.
        on_empty: what happens without a lesion: ``whole`` classifies the whole image and warns,
            ``abstain`` gives no label and warns, ``raise`` raises ``EmptyMaskError``.
    """

    frame: Frame = "crop"
    background: Background = "feathered"
    margin: float = 0.15
    dilation: float = 0.10
    feather: float = 0.10
    fill: tuple[int, int, int] = (124, 116, 104)
    threshold: float = 0.5
    keep: Literal["largest", "all"] = "largest"
    fill_holes: bool = True
    minimum_area: float = 0.0005
    on_empty: OnEmpty = "whole"

    def __post_init__(self) -> None:
        choices = {
            "frame": get_args(Frame),
            "background": get_args(Background),
            "keep": ("largest", "all"),
            "on_empty": get_args(OnEmpty),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ConfigError(
                    f"mask policy: {name} is {getattr(self, name)!r}; choose from {allowed}"
                )
        limits = {
            "margin": LARGEST_MARGIN,
            "dilation": 1.0,
            "feather": 1.0,
            "threshold": 1.0,
            "minimum_area": 1.0,
        }
        for name, limit in limits.items():
            value = getattr(self, name)
            if not (isinstance(value, (int, float)) and 0 <= value <= limit):
                raise ConfigError(f"mask policy: {name} is {value!r}, not within [0, {limit}]")
        if not isinstance(self.fill_holes, bool):
            raise ConfigError(f"mask policy: fill_holes is {self.fill_holes!r}, not true or false")
        object.__setattr__(self, "fill", _checked_fill(self.fill))

    @property
    def uses_mask(self) -> bool:
        """Whether the classifier's input depends on the mask at all."""
        return self.frame == "crop" or self.background != "keep"

    def without_mask(self) -> MaskPolicy:
        """The policy that shows the whole image and is alike in all else."""
        return replace(self, frame="full", background="keep")

    def to_dict(self) -> dict[str, Any]:
        """The policy as plain JSON values."""
        return {**asdict(self), "fill": list(self.fill)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> MaskPolicy:
        """Read a policy back; unknown keys are an error."""
        known = [item.name for item in fields(cls)]
        for key in values:
            if key not in known:
                hint = did_you_mean(key, known)
                raise ConfigError(f"mask policy: unknown setting {key!r}{hint}")
        return cls(**values)

    @classmethod
    def from_mode(cls, mode: str, **changes: Any) -> MaskPolicy:
        """A policy by the name of its mode, see :data:`MASK_MODES`."""
        if mode not in MASK_MODES:
            raise ConfigError(f"mask mode {mode!r} is unknown; choose from {', '.join(MASK_MODES)}")
        frame, background = MASK_MODES[mode]
        return replace(cls(), frame=frame, background=background, **changes)

    @property
    def mode(self) -> str:
        """The name of this policy's mode."""
        return next(
            name for name, pair in MASK_MODES.items() if pair == (self.frame, self.background)
        )


def _checked_fill(fill: Any) -> tuple[int, int, int]:
    values = tuple(fill) if isinstance(fill, (tuple, list)) else ()
    if len(values) != 3 or not all(isinstance(v, int) and 0 <= v <= 255 for v in values):
        raise ConfigError(f"mask policy: fill is {fill!r}, not three integers in 0..255")
    return values


MASK_MODES: dict[str, tuple[Frame, Background]] = {
    "whole": ("full", "keep"),
    "crop": ("crop", "keep"),
    "hard_crop": ("crop", "hard"),
    "feathered_crop": ("crop", "feathered"),
    "hard_full": ("full", "hard"),
    "feathered_full": ("full", "feathered"),
    "background_full": ("full", "only"),
    "background_crop": ("crop", "only"),
}
