"""Test-time augmentation: the same image seen several ways, and the views undone again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

TestTimeAugmentation = Literal["none", "flips", "dihedral"]
View = tuple[int, bool]
"""Quarter turns anticlockwise, then whether to mirror left and right."""

VIEWS: dict[str, tuple[View, ...]] = {
    "none": ((0, False),),
    "flips": ((0, False), (0, True), (2, False), (2, True)),
    "dihedral": tuple((turns, mirrored) for mirrored in (False, True) for turns in range(4)),
}


def view(images: np.ndarray, how: View) -> np.ndarray:
    """Turn and mirror a batch ``(N, S, S, ...)``."""
    turned = np.rot90(images, how[0], axes=(1, 2))
    return np.ascontiguousarray(turned[:, :, ::-1] if how[1] else turned)


def undo(images: np.ndarray, how: View) -> np.ndarray:
    """The inverse of :func:`view`."""
    mirrored = images[:, :, ::-1] if how[1] else images
    return np.ascontiguousarray(np.rot90(mirrored, -how[0], axes=(1, 2)))


def average(values: Sequence[np.ndarray]) -> np.ndarray:
    """Mean over views, as float32."""
    return values[0] if len(values) == 1 else np.asarray(values, np.float32).mean(axis=0)
