"""Example images. They are drawn, so they show no person and need no licence."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from cascade.data.synthetic import draw_lesion, draw_non_lesion
from cascade.imaging import encode_jpeg

_SHAPE = (480, 640)


@dataclass(frozen=True)
class Example:
    """One image to try the page with.

    Attributes:
        name: a file name for the result.
        title: what it is, in a few words.
        alternative_text: what it shows, for who cannot see it.
        draw: gives ``(H, W, 3)`` uint8 RGB, the same on every call.
    """

    name: str
    title: str
    alternative_text: str
    draw: Callable[[], np.ndarray]


def _lesion(seed: int, *, malignant: bool, tone: float) -> Callable[[], np.ndarray]:
    def draw() -> np.ndarray:
        generator = np.random.default_rng(seed)
        return draw_lesion(generator, malignant=malignant, shape=_SHAPE, tone=tone).image

    return draw


EXAMPLES = (
    Example(
        "drawn-even.jpg",
        "Even, with hairs",
        "A drawn lesion: round, of one brown, with some hairs over it.",
        _lesion(9, malignant=False, tone=0.1),
    ),
    Example(
        "drawn-uneven.jpg",
        "Uneven, many colours",
        "A drawn lesion: ragged, brown with a blue-grey and a black part.",
        _lesion(4, malignant=True, tone=0.1),
    ),
    Example(
        "drawn-dark-skin.jpg",
        "On dark skin",
        "A drawn lesion on dark skin: small, brown and black.",
        _lesion(11, malignant=True, tone=0.7),
    ),
    Example(
        "drawn-wall.jpg",
        "No lesion",
        "A drawn brick wall.",
        lambda: draw_non_lesion("bricks", seed=1, shape=_SHAPE),
    ),
)


@functools.cache
def example_file(name: str) -> bytes:
    """The bytes of an example's JPEG, as if it had been uploaded."""
    return encode_jpeg(next(example for example in EXAMPLES if example.name == name).draw())
