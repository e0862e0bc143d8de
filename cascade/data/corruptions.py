"""Twelve ways in which a photograph of a lesion differs elsewhere, each at three strengths.

Lengths are fractions of the image's short side, so that an image of any resolution is changed
alike. A change that moves pixels moves the mask with them; the others leave it alone.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image

from cascade.data.surroundings import amid_skin
from cascade.data.synthetic.artefacts import dark_corners, hair, on_planes, ruler
from cascade.lesion.masking import Box, bounding_box

STRENGTHS = ("mild", "medium", "strong")

Change = Callable[[np.ndarray, float, np.random.Generator], np.ndarray]
Move = Callable[[np.ndarray, np.ndarray, Box, float, np.random.Generator],
                tuple[np.ndarray, np.ndarray]]  # fmt: skip


@dataclass(frozen=True)
class Corruption:
    """One way to change an image.

    Attributes:
        name: word of the tables.
        meaning: what the amounts are.
        amounts: of each of :data:`STRENGTHS`.
        change: of the pixels alone, or ``None``.
        move: of pixels and mask, around the lesion's box, or ``None``.
    """

    name: str
    meaning: str
    amounts: tuple[float, float, float]
    change: Change | None = None
    move: Move | None = None

    def apply(
        self, image: np.ndarray, mask: np.ndarray, box: Box, strength: int, *, seed: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Change one image.

        Args:
            image: ``(H, W, 3)`` uint8 RGB.
            mask: ``(H, W)`` bool.
            box: the lesion's place, ``(top, left, bottom, right)`` in pixels.
            strength: place in :data:`STRENGTHS`.
            seed: decides the random choices.

        Returns:
            The image and its mask; of another shape where pixels were cut away or added.
        """
        generator = np.random.default_rng(seed)
        amount = self.amounts[strength]
        if self.move is not None:
            return self.move(image, mask, box, amount, generator)
        if self.change is None:
            return image, mask
        return self.change(image, amount, generator), mask


def _side(image: np.ndarray) -> int:
    return min(image.shape[:2])


def _blur(image: np.ndarray, amount: float, generator: np.random.Generator) -> np.ndarray:
    del generator
    return cv2.GaussianBlur(image, (0, 0), amount * _side(image))


def _jpeg(image: np.ndarray, amount: float, generator: np.random.Generator) -> np.ndarray:
    del generator
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=int(amount))
    return np.array(Image.open(file))


def _noise(image: np.ndarray, amount: float, generator: np.random.Generator) -> np.ndarray:
    noise = generator.standard_normal(image.shape, np.float32) * np.float32(amount)
    return np.clip(image + noise, 0, 255).astype(np.uint8)


def _colour_cast(image: np.ndarray, amount: float, generator: np.random.Generator) -> np.ndarray:
    """Gains of the channels whose logarithms have a mean of 0 and a length of ``amount``."""
    direction = generator.standard_normal(3)
    direction -= direction.mean()
    gains = np.exp(amount * direction / np.linalg.norm(direction)).astype(np.float32)
    return np.clip(image * gains, 0, 255).astype(np.uint8)


def _brightness(image: np.ndarray, amount: float, generator: np.random.Generator) -> np.ndarray:
    """Another exposure, up or down, of linear light (gamma 2.2)."""
    sign = 1 if generator.random() < 0.5 else -1
    levels = np.linspace(0, 1, 256) ** 2.2 * 2.0 ** (sign * amount)
    return cv2.LUT(image, np.rint(255 * np.clip(levels, 0, 1) ** (1 / 2.2)).astype(np.uint8))


def _hair(image: np.ndarray, amount: float, generator: np.random.Generator) -> np.ndarray:
    return on_planes(image, lambda planes: hair(planes, generator, count=int(amount)))


def _ruler(image: np.ndarray, amount: float, generator: np.random.Generator) -> np.ndarray:
    def draw(planes: np.ndarray) -> np.ndarray:
        for _ in range(int(amount)):
            planes = ruler(planes, generator)
        return planes

    return on_planes(image, draw)


def _dark_corners(image: np.ndarray, amount: float, generator: np.random.Generator) -> np.ndarray:
    return on_planes(image, lambda planes: dark_corners(planes, generator, radius=amount))


def _ink(image: np.ndarray, amount: float, generator: np.random.Generator) -> np.ndarray:
    """Strokes of a skin marker around the middle of the image, where a surgeon marks a lesion."""
    height, width = image.shape[:2]
    canvas = np.zeros((height, width), np.uint8)
    start = generator.uniform(0, 360)
    for stroke in range(int(amount)):
        radius = _side(image) * generator.uniform(0.32, 0.44)
        turn = start + stroke * 360 / amount + generator.uniform(-15, 15)
        cv2.ellipse(
            canvas, (width // 2, height // 2), (int(radius * 1.15), int(radius)),
            generator.uniform(-10, 10), turn, turn + generator.uniform(25, 55), 255,
            max(2, round(0.022 * _side(image))), cv2.LINE_AA,
        )  # fmt: skip
    opacity = cv2.GaussianBlur(canvas, (0, 0), 0.004 * _side(image) + 0.3)[..., None] / 255 * 0.8
    colour = np.array([74.0, 42.0, 128.0]) * generator.uniform(0.7, 1.2)
    return (image + opacity * (colour - image)).astype(np.uint8)


def _cut(
    image: np.ndarray, mask: np.ndarray, box: Box, amount: float, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Cut the image so that ``amount`` of the lesion's height or width lies beyond one border."""
    height, width = image.shape[:2]
    top, left, bottom, right = box
    side = int(generator.integers(4))
    tall, wide = round((bottom - top) * amount), round((right - left) * amount)
    window = [0, 0, height, width]
    window[side] = (top + tall, left + wide, bottom - tall, right - wide)[side]
    return _part(image, window), _part(mask, window)


def _closer(
    image: np.ndarray, mask: np.ndarray, box: Box, amount: float, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """The part around the lesion that fills the image when its scale is ``amount`` times larger."""
    del generator
    window = [0, 0, 0, 0]
    for axis in (0, 1):
        length = max(2, round(image.shape[axis] / amount))
        start = round((box[axis] + box[axis + 2] - length) / 2)
        window[axis] = min(max(0, start), image.shape[axis] - length)
        window[axis + 2] = window[axis] + length
    return _part(image, window), _part(mask, window)


def _farther(
    image: np.ndarray, mask: np.ndarray, box: Box, amount: float, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """The image at ``amount`` of its scale, amid skin."""
    del box
    tall, wide = (round(length * (1 / amount - 1) / 2) for length in image.shape[:2])
    moved = cv2.copyMakeBorder(
        mask.astype(np.uint8), tall, tall, wide, wide, cv2.BORDER_CONSTANT, value=0
    )
    return amid_skin(image, tall, wide, generator), moved.astype(bool)


def _part(values: np.ndarray, window: list[int]) -> np.ndarray:
    top, left, bottom, right = window
    return np.ascontiguousarray(values[top:bottom, left:right])


CORRUPTIONS = (
    Corruption("blur", "standard deviation, of the short side", (0.005, 0.01, 0.015), _blur),
    Corruption("JPEG", "quality", (50, 30, 15), _jpeg),
    Corruption("noise", "standard deviation, of 255 levels", (8, 16, 24), _noise),
    Corruption("colour cast", "length of the log gains", (0.1, 0.2, 0.3), _colour_cast),
    Corruption("brightness", "stops, up or down", (0.5, 0.8, 1.2), _brightness),
    Corruption("hair", "hairs", (8, 20, 40), _hair),
    Corruption("ruler", "rulers", (1, 2, 3), _ruler),
    Corruption("ink", "strokes", (1, 3, 6), _ink),
    Corruption("dark corners", "radius, of the diagonal", (0.5, 0.45, 0.4), _dark_corners),
    Corruption("cut by the border", "share of the lesion's side", (0.1, 0.2, 0.35), move=_cut),
    Corruption("smaller", "scale", (0.87, 0.73, 0.6), move=_farther),
    Corruption("larger", "scale", (1.2, 1.4, 1.6), move=_closer),
)
"""All of them. ``dark corners`` may hide parts of a lesion, which then still count."""

Kind = tuple[str, str]
"""A corruption's name and its strength."""
AMOUNTS: dict[Kind, float] = {
    (kind.name, word): amount
    for kind in CORRUPTIONS
    for word, amount in zip(STRENGTHS, kind.amounts, strict=True)
}


def corrupted_images(
    image: np.ndarray, mask: np.ndarray, name: str, seed: int
) -> Iterator[tuple[Kind, np.ndarray, np.ndarray]]:
    """An image and its mask under every corruption at every strength, in the order of AMOUNTS.

    Args:
        image: ``(H, W, 3)`` uint8 RGB.
        mask: ``(H, W)`` bool, where the lesion is.
        name: of the image; with the seed it decides the random choices.
        seed: see ``name``.
    """
    box = _box(mask)
    for corruption in CORRUPTIONS:
        own = _own_seed(corruption, name, seed)
        for strength, word in enumerate(STRENGTHS):
            changed = corruption.apply(image, mask, box, strength, seed=own)
            yield (corruption.name, word), *changed


def corrupted_image(
    image: np.ndarray, mask: np.ndarray, name: str, seed: int, kind: Kind
) -> tuple[np.ndarray, np.ndarray]:
    """One of them."""
    corruption = next(one for one in CORRUPTIONS if one.name == kind[0])
    own = _own_seed(corruption, name, seed)
    return corruption.apply(image, mask, _box(mask), STRENGTHS.index(kind[1]), seed=own)


def _own_seed(corruption: Corruption, name: str, seed: int) -> int:
    """Of one corruption, so that all its strengths make the same random choices."""
    return zlib.crc32(f"{seed} {corruption.name} {name}".encode())


def _box(mask: np.ndarray) -> Box:
    """The lesion's box; without one, the middle of the image."""
    found = bounding_box(mask)
    if found is not None:
        return found
    height, width = mask.shape
    return height // 4, width // 4, height - height // 4, width - width // 4
