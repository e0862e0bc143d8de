"""What an image may be, and what a loaded one is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cascade.errors import ConfigError, ImageError
from cascade.imaging.orientation import displayed_shape


@dataclass(frozen=True)
class ImageLimits:
    """Bounds checked from a file's header, before any pixel is decoded.

    Attributes:
        max_pixels: most pixels, width times height.
        min_side: shortest side in pixels.
        max_aspect: longest side as a multiple of the shortest.
        allow_truncated: decode a damaged or cut JPEG as far as possible and warn, instead of
            refusing it. Other formats are always strict.
        max_bytes: largest file in bytes.
    """

    max_pixels: int = 50_000_000
    min_side: int = 32
    max_aspect: float = 20.0
    allow_truncated: bool = False
    max_bytes: int = 200_000_000

    def __post_init__(self) -> None:
        for name in ("max_pixels", "min_side", "max_aspect", "max_bytes"):
            value = getattr(self, name)
            if isinstance(value, bool) or not value >= 1:
                raise ConfigError(f"image limits: {name} is {value!r}; it must be at least 1")

    def check_shape(self, shape: tuple[int, int], name: str) -> None:
        """Refuse an image of ``(H, W)`` outside the limits.

        Raises:
            ImageError: too many pixels, too small, or too elongated.
        """
        height, width = shape
        short, long = sorted(shape)
        size = f"{width} x {height} pixels"
        if height * width > self.max_pixels:
            raise ImageError(
                f"{name}: is too large, {size} = {height * width / 1e6:.1f} megapixels; the limit "
                f"is {self.max_pixels / 1e6:g}. Reduce the image, or raise the limit "
                "(max_pixels, --max_megapixels)"
            )
        if short < self.min_side:
            raise ImageError(
                f"{name}: is too small, {size}; each side needs at least {self.min_side}"
            )
        if long > self.max_aspect * short:
            raise ImageError(
                f"{name}: has an unusable aspect ratio, {size}; the longer side may be at most "
                f"{self.max_aspect:g} times the shorter"
            )

    def check_bytes(self, size: int, name: str) -> None:
        """Refuse an empty or huge file.

        Raises:
            ImageError: the file has no bytes, or more than ``max_bytes``.
        """
        if size == 0:
            raise ImageError(f"{name}: the file is empty")
        if size > self.max_bytes:
            raise ImageError(
                f"{name}: the file has {size / 1e6:.0f} MB, above the limit of "
                f"{self.max_bytes / 1e6:.0f}. Reduce the image, or raise max_bytes"
            )


@dataclass(frozen=True, eq=False)
class LoadedImage:
    """A decoded image.

    Attributes:
        pixels: ``(H, W, 3)`` uint8, RGB, as a viewer displays it.
        orientation: EXIF orientation 1..8, already applied to ``pixels``.
        stored_shape: ``(H, W)`` in the file, before the orientation and before any scaled decode.
        warnings: what was accepted but should be known, in words.
        name: the file's name, or ``image`` for pixels from memory.
        source: path or bytes from which it can be read again; ``None`` for pixels from memory.
    """

    pixels: np.ndarray = field(repr=False)
    orientation: int
    stored_shape: tuple[int, int]
    warnings: tuple[str, ...]
    name: str
    source: Any = field(default=None, repr=False)

    @property
    def shape(self) -> tuple[int, int]:
        """``(H, W)`` of ``pixels``."""
        return self.pixels.shape[0], self.pixels.shape[1]

    @property
    def full_shape(self) -> tuple[int, int]:
        """``(H, W)`` of the whole image as displayed; that of ``pixels`` if it was not reduced."""
        return displayed_shape(self.stored_shape, self.orientation)

    @property
    def divisor(self) -> int:
        """Pixels of the whole image along one of ``pixels``: 1, 2, 4 or 8."""
        return round(max(self.stored_shape) / max(self.shape))
