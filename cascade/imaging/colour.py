"""Whatever a file holds, to 8-bit sRGB.

Rules, all documented here because each changes pixels:

* 16 bits per channel are divided by 257 and rounded, so 65535 becomes 255.
* Transparent pixels are blended onto :data:`BACKGROUND`; colours hidden under them do not show.
* An embedded ICC profile is converted to sRGB by relative colorimetry, without black point
  compensation. A profile that is sRGB to within 2 of 255 is left alone. A profile that is damaged
  or belongs to other channels is ignored with a warning.
* CMYK without a profile is converted by the simple formula ``255 - ink`` of Pillow.
* Floats and 32-bit integers have no agreed white and are refused.
"""

from __future__ import annotations

import functools
import io

import cv2
import numpy as np
from PIL import Image, ImageCms

from cascade.errors import ImageError

BACKGROUND = (255, 255, 255)
"""RGB under transparent pixels."""

PROFILE_IGNORED = "the colour profile is damaged or of another kind and was ignored"
_SAME = 2
_STRIP = 256
_DEEP_MODES = ("I;16", "I;16L", "I;16B", "I;16N")
_PLAIN = {"1": "L", "La": "LA", "RGBa": "RGBA", "YCbCr": "RGB", "RGBX": "RGB", "PA": "RGBA"}
_KNOWN = ("L", "LA", "P", "RGB", "RGBA", "CMYK", *_PLAIN, *_DEEP_MODES)


def reduce_depth(values: np.ndarray) -> np.ndarray:
    """Scale 16-bit to 8-bit: ``round(values / 257)``."""
    native = values.astype(np.uint16, copy=False)
    return np.asarray(cv2.convertScaleAbs(np.ascontiguousarray(native), alpha=1 / 257))


def to_rgb(
    content: np.ndarray | Image.Image, profile: bytes | None, name: str
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Convert decoded pixels to RGB.

    Args:
        content: a loaded Pillow image, or uint8/uint16 ``(H, W)``, ``(H, W, 3)`` RGB or
            ``(H, W, 4)`` RGBA.
        profile: the embedded ICC profile.
        name: for messages.

    Returns:
        ``(H, W, 3)`` uint8 and the warnings.

    Raises:
        ImageError: the pixels are floats, 32-bit integers or in an unknown colour space.
    """
    if isinstance(content, np.ndarray):
        if (
            content.dtype == np.uint8
            and content.ndim == 3
            and content.shape[2] == 3
            and not profile
        ):
            return content, ()
        height, width = content.shape[:2]
    else:
        width, height = content.size
    pixels = np.empty((height, width, 3), np.uint8)
    warnings: tuple[str, ...] = ()
    for top in range(0, height, _STRIP):  # in strips, so that no second whole image is needed
        rows = slice(top, min(top + _STRIP, height))
        colour, warnings = _strip_to_rgb(_cut(content, rows), profile, name)
        pixels[rows] = np.asarray(colour)
    return pixels, warnings


def _cut(content: np.ndarray | Image.Image, rows: slice) -> Image.Image:
    if isinstance(content, Image.Image):
        return content.crop((0, rows.start, content.width, rows.stop))
    values = content[rows]
    return Image.fromarray(reduce_depth(values) if values.dtype == np.uint16 else values)


def _strip_to_rgb(
    image: Image.Image, profile: bytes | None, name: str
) -> tuple[Image.Image, tuple[str, ...]]:
    colour, alpha = _split_alpha(_plain_mode(image, name))
    warnings: tuple[str, ...] = ()
    if profile:
        colour, warnings = _to_srgb(colour, profile)
    colour = colour.convert("RGB")
    if alpha is not None:
        canvas = Image.new("RGB", colour.size, BACKGROUND)
        canvas.paste(colour, mask=alpha)
        colour = canvas
    return colour, warnings


def _plain_mode(image: Image.Image, name: str) -> Image.Image:
    """To one of L, LA, RGB, RGBA and CMYK."""
    mode = image.mode
    if mode in ("F", "I"):
        kind = "floating point" if mode == "F" else "32-bit integer"
        raise ImageError(f"{name}: holds {kind} pixels; export it with 8 or 16 bits per channel")
    if mode not in _KNOWN:
        raise ImageError(f"{name}: has the colour space {mode}; export it as RGB")
    if mode in _DEEP_MODES:
        return Image.fromarray(reduce_depth(np.asarray(image)))
    if mode == "P" or image.info.get("transparency") is not None:
        return image.convert("RGBA" if image.has_transparency_data else "RGB")
    return image.convert(_PLAIN[mode]) if mode in _PLAIN else image


def _split_alpha(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    if image.mode not in ("LA", "RGBA"):
        return image, None
    return image.convert("L" if image.mode == "LA" else "RGB"), image.getchannel("A")


def _to_srgb(image: Image.Image, profile: bytes) -> tuple[Image.Image, tuple[str, ...]]:
    try:
        space, transform = _transform(profile, image.mode)
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return image, (PROFILE_IGNORED,)
    if transform is None:
        return image, ()
    return ImageCms.applyTransform(image.convert(space), transform), ()  # type: ignore[return-value]


@functools.lru_cache(maxsize=8)
def _transform(profile: bytes, mode: str) -> tuple[str, ImageCms.ImageCmsTransform | None]:
    """The mode to convert to first, and the way from there to sRGB; none if it is sRGB already."""
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    space = {"GRAY": "L", "RGB": "RGB", "CMYK": "CMYK"}.get(source.profile.xcolor_space.strip(), "")
    if space != mode and (mode, space) != ("L", "RGB"):  # gray pixels may carry the RGB profile
        raise ValueError(f"a profile for {space!r} on {mode} pixels")
    transform = ImageCms.buildTransform(
        source,
        ImageCms.createProfile("sRGB"),
        space,
        "RGB",
        renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
        flags=ImageCms.Flags.NOCACHE,  # the cache of one pixel is not safe between threads
    )
    return space, None if space != "CMYK" and _is_identity(transform, space) else transform


def _is_identity(transform: ImageCms.ImageCmsTransform, space: str) -> bool:
    steps = np.arange(0, 256, 15, dtype=np.uint8)
    if space == "RGB":
        probe = Image.fromarray(np.stack(np.meshgrid(steps, steps, steps), -1).reshape(1, -1, 3))
    else:
        probe = Image.fromarray(steps[None])
    before = np.asarray(probe.convert("RGB")).astype(int)
    after = np.asarray(ImageCms.applyTransform(probe, transform)).astype(int)
    return bool(np.abs(after - before).max() <= _SAME)
