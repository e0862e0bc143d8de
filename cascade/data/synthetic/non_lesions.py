"""Images that show no lesion at all, to try an out-of-distribution detector on.

Each kind is drawn from a seed and needs no download. All but plain skin are easy cases on purpose:
a detector that misses these is of no use, and one that finds them may still miss an image of a dog.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import cv2
import numpy as np

from cascade.config import did_you_mean
from cascade.data.synthetic.skin import render, skin_density, smooth_noise
from cascade.errors import ConfigError

Shape = tuple[int, int]
_SMALLEST = 16


def draw_non_lesion(kind: str, *, seed: int, shape: Shape = (240, 320)) -> np.ndarray:
    """Draw one image without a lesion.

    ``kind`` is one of :data:`NON_LESIONS`; sides of ``shape`` are at least 16 pixels. The same seed
    draws the same image.

    Returns:
        ``(H, W, 3)`` uint8 RGB.

    Raises:
        ConfigError: the kind is unknown, the seed is negative or the image too small.
    """
    if kind not in _PAINTERS:
        raise ConfigError(
            f"kind of image {kind!r} is unknown{did_you_mean(kind, list(NON_LESIONS))}; "
            f"choose from {', '.join(NON_LESIONS)}"
        )
    if seed < 0 or min(shape) < _SMALLEST:
        raise ConfigError(
            f"seed {seed} and shape {shape}: the seed is at least 0, height and width at least "
            f"{_SMALLEST}"
        )
    generator = np.random.default_rng([seed, NON_LESIONS.index(kind)])
    image = _PAINTERS[kind](generator, shape)
    return np.ascontiguousarray(np.rint(np.clip(image, 0, 255)), np.uint8)


def _colour(generator: np.random.Generator) -> np.ndarray:
    return generator.uniform(0.0, 255.0, 3).astype(np.float32)


def _mixed(weight: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Two colours; ``weight`` ``(H, W)`` in [0, 1] is the share of the second."""
    return first + weight[..., None] * (second - first)


def _grid(shape: Shape) -> tuple[np.ndarray, np.ndarray]:
    rows, columns = np.indices(shape, dtype=np.float32)
    return rows, columns


def _noise(generator: np.random.Generator, shape: Shape) -> np.ndarray:
    return generator.uniform(0.0, 255.0, (*shape, 3))


def _blurred_noise(generator: np.random.Generator, shape: Shape) -> np.ndarray:
    scale = generator.uniform(0.01, 0.1) * min(shape)
    planes = [128 + 55 * smooth_noise(generator, shape, scale) for _ in range(3)]
    return np.stack(planes, axis=2)


def _plain(generator: np.random.Generator, shape: Shape) -> np.ndarray:
    return np.broadcast_to(_colour(generator), (*shape, 3))


def _gradient(generator: np.random.Generator, shape: Shape) -> np.ndarray:
    rows, columns = _grid(shape)
    angle = generator.uniform(0.0, math.tau)
    along = math.cos(angle) * rows / shape[0] + math.sin(angle) * columns / shape[1]
    weight = (along - along.min()) / max(float(np.ptp(along)), 1e-6)
    return _mixed(weight, _colour(generator), _colour(generator))


def _stripes(generator: np.random.Generator, shape: Shape) -> np.ndarray:
    rows, columns = _grid(shape)
    angle = generator.uniform(0.0, math.pi)
    period = generator.uniform(0.03, 0.2) * min(shape)
    phase = (math.cos(angle) * rows + math.sin(angle) * columns) / period
    weight = (phase % 1.0 < 0.5).astype(np.float32)
    return _mixed(weight, _colour(generator), _colour(generator))


def _checkerboard(generator: np.random.Generator, shape: Shape) -> np.ndarray:
    rows, columns = _grid(shape)
    side = max(2.0, generator.uniform(0.03, 0.2) * min(shape))
    weight = (rows // side + columns // side) % 2
    return _mixed(weight, _colour(generator), _colour(generator))


def _text(generator: np.random.Generator, shape: Shape) -> np.ndarray:
    """A printed page: dark lines of letters on nearly white paper."""
    page = np.full((*shape, 3), generator.integers(225, 256), np.uint8)
    ink = (int(generator.integers(70)),) * 3
    size = generator.uniform(0.0012, 0.0025) * min(shape)
    letters = np.array(list("aeinorst   ldcumpgfbh.,"))
    for baseline in np.arange(40 * size, shape[0] - 10 * size, 42 * size):
        if generator.random() < 0.9:
            line = "".join(generator.choice(letters, int(generator.integers(20, 60))))
            start = (int(0.06 * shape[1]), int(baseline))
            cv2.putText(page, line, start, cv2.FONT_HERSHEY_SIMPLEX, size, ink, 1, cv2.LINE_AA)
    return page


def _shapes(generator: np.random.Generator, shape: Shape) -> np.ndarray:
    """Coloured boxes, discs and lines on a plain ground."""
    canvas = np.full((*shape, 3), _colour(generator), np.uint8)
    for _ in range(int(generator.integers(5, 15))):
        colour = _colour(generator).tolist()
        x, y = generator.uniform(0, (shape[1], shape[0])).astype(int).tolist()
        other = generator.uniform(0, (shape[1], shape[0])).astype(int).tolist()
        form = int(generator.integers(3))
        if form == 0:
            cv2.rectangle(canvas, (x, y), other, colour, cv2.FILLED)
        elif form == 1:
            radius = int(generator.uniform(0.04, 0.2) * min(shape))
            cv2.circle(canvas, (x, y), radius, colour, cv2.FILLED, cv2.LINE_AA)
        else:
            cv2.line(canvas, (x, y), other, colour, 1 + min(shape) // 60, cv2.LINE_AA)
    return canvas


def _bricks(generator: np.random.Generator, shape: Shape) -> np.ndarray:
    """A wall: courses of stones, each of its own red, with pale joints."""
    rows, columns = _grid(shape)
    height = generator.uniform(0.06, 0.14) * min(shape)
    width = height * generator.uniform(1.8, 3.0)
    joint = generator.uniform(0.08, 0.16)
    course = np.floor(rows / height)
    along = columns / width + 0.5 * (course % 2)
    stone = (course * 7919 + np.floor(along) * 104729).astype(np.int64) % 997
    shade = generator.uniform(0.7, 1.2, 997)[stone] + 0.06 * smooth_noise(generator, shape, 3)
    wall = np.array([165.0, 82.0, 62.0], np.float32) * shade[..., None]
    inset = joint * height / width
    mortar = (rows / height % 1.0 < joint) | (along % 1.0 < inset)
    wall[mortar] = generator.uniform(150.0, 215.0)
    return wall


def _wood(generator: np.random.Generator, shape: Shape) -> np.ndarray:
    """Planed wood: growth rings seen along the grain."""
    rows, columns = _grid(shape)
    wave = 0.05 * min(shape) * smooth_noise(generator, shape, 0.7 * min(shape))
    rings = (rows + wave + 0.02 * columns) / (generator.uniform(0.03, 0.08) * min(shape))
    weight = 0.5 + 0.35 * np.sin(math.tau * rings) + 0.08 * smooth_noise(generator, shape, 2)
    light, dark = np.array([205.0, 160.0, 105.0]), np.array([120.0, 75.0, 40.0])
    return _mixed(weight, light.astype(np.float32), dark.astype(np.float32))


def _clouds(generator: np.random.Generator, shape: Shape) -> np.ndarray:
    """Fractal noise between two colours: each octave half as large and half as strong."""
    field = np.zeros(shape, np.float32)
    for octave in range(6):
        field += 0.5**octave * smooth_noise(generator, shape, 0.5 * min(shape) / 2**octave)
    weight = np.clip(0.5 + 0.3 * field, 0.0, 1.0)
    return _mixed(weight, _colour(generator), _colour(generator))


def _landscape(generator: np.random.Generator, shape: Shape) -> np.ndarray:
    """Sky over hills, as in a holiday image."""
    rows, _ = _grid(shape)
    height = rows / shape[0]
    sky = _mixed(height, np.array([70.0, 130.0, 215.0]), np.array([215.0, 230.0, 245.0]))
    haze = np.clip(smooth_noise(generator, shape, 0.3 * min(shape)) - 0.4, 0.0, 1.0)
    image = sky + haze[..., None] * (250.0 - sky)
    for level in np.sort(generator.uniform(0.4, 0.85, 3)):
        ridge = smooth_noise(generator, (4, shape[1]), 0.3 * shape[1])[0]
        ground = height > level + 0.05 * ridge
        green = np.array([70.0, 115.0, 50.0]) * generator.uniform(0.5, 1.3)
        grass = 1.0 + 0.15 * smooth_noise(generator, shape, 2)
        image[ground] = (green * grass[..., None])[ground]
    return image


def _fabric(generator: np.random.Generator, shape: Shape) -> np.ndarray:
    """Woven cloth: threads over and under each other."""
    rows, columns = _grid(shape)
    pitch = max(4.0, generator.uniform(0.015, 0.04) * min(shape))
    over = np.sin(math.pi * rows / pitch) * np.sin(math.pi * columns / pitch)
    thread = np.abs(np.sin(math.pi * np.where(over > 0, rows, columns) / pitch))
    light = 0.55 + 0.4 * thread + 0.05 * smooth_noise(generator, shape, 2)
    return (60.0 + 0.76 * _colour(generator)) * light[..., None]


def _skin(generator: np.random.Generator, shape: Shape) -> np.ndarray:
    """Plain skin without any lesion: the hard case."""
    density = skin_density(generator, shape, float(generator.beta(0.9, 1.6)))
    return render(density, generator).transpose(1, 2, 0)


_PAINTERS: dict[str, Callable[[np.random.Generator, Shape], np.ndarray]] = {
    "noise": _noise, "blurred_noise": _blurred_noise, "plain": _plain, "gradient": _gradient,
    "stripes": _stripes, "checkerboard": _checkerboard, "text": _text, "shapes": _shapes,
    "bricks": _bricks, "wood": _wood, "clouds": _clouds, "landscape": _landscape, "fabric": _fabric,
    "skin": _skin,
}  # fmt: skip

NON_LESIONS = tuple(_PAINTERS)
"""The kinds of image; ``skin`` is plain skin and the hardest."""
