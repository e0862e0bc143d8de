"""One invented lesion: its border, its pigment, and the image of it.

Benign and malignant lesions differ in three traits only, asymmetry, irregularity of the border and
number of colours, each drawn from two overlapping distributions. Everything else (size, place, skin
tone, hair, rulers, light) is drawn without looking at the class.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

from cascade.data.synthetic.artefacts import add_artefacts
from cascade.data.synthetic.skin import BLOOD, MELANIN, planes, render, skin_density, smooth_noise
from cascade.errors import ConfigError

SEPARATION = 2.2
"""Distance of the two classes in each trait, in standard deviations."""

_SMALLEST = 48

# Melanin that stays and optical density that comes on top, for each colour beside plain brown.
_COLOURS = (
    ("light brown", 0.45, np.zeros(3, np.float32)),
    ("dark brown", 1.5, np.array([0.25, 0.2, 0.15], np.float32)),
    ("black", 1.2, np.array([0.9, 0.65, 0.45], np.float32)),
    ("red", 0.5, 0.6 * BLOOD),
    ("blue grey", 0.35, np.array([0.62, 0.48, 0.3], np.float32)),
    ("white", 0.12, np.zeros(3, np.float32)),
)


@dataclass(frozen=True)
class Traits:
    """What tells the classes apart.

    Asymmetry goes from 0 (mirror symmetric) to 1, irregularity of the border from 0 (smooth oval)
    to 1; the first of the colours is brown.
    """

    asymmetry: float
    irregularity: float
    colours: tuple[str, ...]


@dataclass(frozen=True)
class SyntheticLesion:
    """An image with its truth.

    ``image`` is ``(H, W, 3)`` uint8 RGB; ``mask`` ``(H, W)`` bool is one component without holes.
    """

    image: np.ndarray
    mask: np.ndarray
    malignant: bool
    traits: Traits


@dataclass(frozen=True)
class _Frame:
    """Lesion coordinates of the pixels around it: the border is near 1, the centre is 0."""

    window: tuple[slice, slice]
    u: np.ndarray
    v: np.ndarray
    radius_px: float


def draw_lesion(
    generator: np.random.Generator,
    *,
    malignant: bool,
    shape: tuple[int, int] = (240, 320),
    tone: float | None = None,
    view: np.random.Generator | None = None,
    style: np.random.Generator | None = None,
) -> SyntheticLesion:
    """Draw one lesion and image it.

    Args:
        generator: decides the lesion; the same state gives the same lesion.
        malignant: the class.
        shape: ``(H, W)`` of the image in pixels, each at least 48.
        tone: melanin of the skin, 0 (very light) to 1 (very dark); drawn when not given.
        view: decides skin texture, light, flip and artefacts; give another one to image the
            same lesion again. By default ``generator`` goes on.
        style: decides traits and pigment instead of ``generator``, which is left with place, size
            and border; the same state for several lesions gives lesions of one look.

    Raises:
        ConfigError: the shape is too small or ``tone`` is outside [0, 1].
    """
    if min(shape) < _SMALLEST or (tone is not None and not 0.0 <= tone <= 1.0):
        raise ConfigError(
            f"shape {shape}, tone {tone}: sides must be at least {_SMALLEST}, tone within [0, 1]"
        )
    style = generator if style is None else style
    traits = _draw_traits(style, malignant=malignant)
    own_tone = float(generator.beta(0.9, 1.6))
    frame = _draw_frame(generator, shape)
    level = _level(generator, frame, traits)
    mask = np.zeros(shape, bool)
    mask[frame.window] = _one_component(level > 0.0)
    pigment = _pigment(style, frame, traits) * _opacity(generator, level)

    view = generator if view is None else view
    flips = tuple(axis for axis in (0, 1) if view.random() < 0.5)
    mask = np.ascontiguousarray(np.flip(mask, flips))
    density = skin_density(view, shape, own_tone if tone is None else tone)
    np.flip(density, tuple(axis + 1 for axis in flips))[:, *frame.window] += pigment
    return SyntheticLesion(add_artefacts(render(density, view), view), mask, malignant, traits)


def _draw_traits(generator: np.random.Generator, *, malignant: bool) -> Traits:
    shift = SEPARATION / 2 if malignant else -SEPARATION / 2
    asymmetry, irregularity, variety = generator.standard_normal(3) + shift
    more = int(np.clip(round(1.3 + 1.1 * variety), 0, 4))
    order = generator.permutation(len(_COLOURS))[:more]
    return Traits(
        asymmetry=float(1.0 / (1.0 + math.exp(-1.3 * asymmetry))),
        irregularity=float(1.0 / (1.0 + math.exp(-1.3 * irregularity))),
        colours=("brown", *(_COLOURS[index][0] for index in order)),
    )


def _draw_frame(generator: np.random.Generator, shape: tuple[int, int]) -> _Frame:
    """Place an oval of random size, elongation and direction near the middle."""
    height, width = shape
    radius = min(shape) * math.exp(generator.uniform(math.log(0.11), math.log(0.38)))
    elongation = math.sqrt(generator.uniform(1.0, 1.7))
    room = max(0.0, 1.0 - 2.6 * radius / min(shape))
    centre_y = height / 2 + generator.uniform(-0.5, 0.5) * room * 0.6 * height
    centre_x = width / 2 + generator.uniform(-0.5, 0.5) * room * 0.6 * width
    angle = generator.uniform(0.0, math.tau)
    reach = 2.2 * radius * elongation
    window = tuple(
        slice(max(0, int(middle - reach)), min(length, int(middle + reach) + 1))
        for middle, length in ((centre_y, height), (centre_x, width))
    )
    rows = np.arange(height, dtype=np.float32)[window[0], None] - np.float32(centre_y)
    columns = np.arange(width, dtype=np.float32)[None, window[1]] - np.float32(centre_x)
    cosine, sine = np.float32(math.cos(angle)), np.float32(math.sin(angle))
    return _Frame(
        window=(window[0], window[1]),
        u=(columns * cosine + rows * sine) / np.float32(radius * elongation),
        v=(rows * cosine - columns * sine) / np.float32(radius / elongation),
        radius_px=radius,
    )


def _level(generator: np.random.Generator, frame: _Frame, traits: Traits) -> np.ndarray:
    """How far inside the border each pixel is, in radii; negative outside."""
    distance, theta = cv2.cartToPolar(frame.u, frame.v)
    angles = np.linspace(0.0, math.tau, 720, dtype=np.float32)
    border = np.ones_like(angles)
    for order in range(2, 13):
        height = (0.03 + 0.24 * traits.irregularity) * generator.normal() / order**1.25
        border += height * np.cos(order * angles + generator.uniform(0.0, math.tau))
    lobe = generator.uniform(0.0, math.tau)
    border += 0.4 * traits.asymmetry * np.exp(2.5 * (np.cos(angles - lobe) - 1.0)) - 0.05
    border = np.clip(border, 0.45, 1.6)
    index = np.rint(theta * (719 / math.tau)).astype(np.intp)
    ragged = smooth_noise(generator, frame.u.shape, max(3.0, 0.25 * frame.radius_px))
    return border[index] - distance + (0.02 + 0.1 * traits.irregularity) * ragged


def _one_component(inside: np.ndarray) -> np.ndarray:
    """The largest component without its holes."""
    contours, _ = cv2.findContours(
        inside.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE
    )
    filled = np.zeros(inside.shape, np.uint8)
    cv2.drawContours(filled, [max(contours, key=cv2.contourArea)], -1, 1, cv2.FILLED)
    return filled.astype(bool)


def _opacity(generator: np.random.Generator, level: np.ndarray) -> np.ndarray:
    """Pigment fades over the border; half of it is left on the line of the mask."""
    softness = generator.uniform(0.03, 0.13)
    return np.clip(0.5 + level / (4 * softness), 0.0, 1.0) ** 1.2


def _pigment(generator: np.random.Generator, frame: _Frame, traits: Traits) -> np.ndarray:
    """Optical density ``(3, H, W)`` of the lesion, not yet cut to its border."""
    shape = frame.u.shape
    strength = generator.uniform(0.45, 1.15)
    clouds = 1.0 + 0.16 * smooth_noise(generator, shape, 0.6 * frame.radius_px)
    heading = generator.uniform(0.0, math.tau)
    side = math.cos(heading) * frame.u + math.sin(heading) * frame.v
    gradient = np.clip(1.0 + 0.6 * traits.asymmetry * side, 0.35, 1.8)
    melanin = strength * np.clip(clouds, 0.4, 1.8) * gradient * _structure(generator, frame)
    extra = np.zeros((3, *shape), np.float32)
    for name in traits.colours[1:]:
        keep, addition = next((k, a) for colour, k, a in _COLOURS if colour == name)
        weight = _blotch(generator, frame, traits)
        melanin = melanin * (1.0 + (keep - 1.0) * weight)
        extra += planes(addition) * weight
    hue = MELANIN * generator.normal(1.0, 0.07, 3)
    return planes(hue) * melanin.astype(np.float32) + extra


def _structure(generator: np.random.Generator, frame: _Frame) -> np.ndarray:
    """Network, globules or neither, as a factor around 1; not related to the class."""
    shape = frame.u.shape
    scale = max(3.0, generator.uniform(0.07, 0.13) * frame.radius_px + 1.5)
    kind = generator.choice(["network", "globules", "homogeneous"], p=[0.45, 0.3, 0.25])
    field = smooth_noise(generator, shape, scale)
    amount = generator.uniform(0.15, 0.55)
    patches = np.clip(0.8 + 0.5 * smooth_noise(generator, shape, 6 * scale), 0.1, 1.5)
    if kind == "network":
        return 1.0 + amount * patches * (np.exp(-((field / 0.55) ** 2)) - 0.45)
    if kind == "globules":
        return 1.0 + amount * patches * (1.5 * np.clip(1.4 * (field - 0.4), 0.0, 1.0) - 0.3)
    return 1.0 + 0.1 * patches * field


def _blotch(generator: np.random.Generator, frame: _Frame, traits: Traits) -> np.ndarray:
    """Where another colour lies, in [0, 1]: off the centre in an asymmetric lesion."""
    angle = generator.uniform(0.0, math.tau)
    offset = generator.uniform(0.25, 0.8) * traits.asymmetry
    radius = generator.uniform(0.4, 0.75)
    away = (frame.u - offset * math.cos(angle)) ** 2 + (frame.v - offset * math.sin(angle)) ** 2
    field = 1.0 - away / radius**2
    field += 0.35 * smooth_noise(generator, frame.u.shape, max(4.0, 0.35 * frame.radius_px))
    return np.clip(1.1 * field, 0.0, 1.0)
