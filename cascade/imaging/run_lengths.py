"""Masks as run lengths, as in the COCO data sets: the form for the cells of a table."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cascade.errors import DataError


def run_lengths(mask: np.ndarray) -> np.ndarray:
    """Run lengths of a mask, column by column, as COCO's uncompressed ``counts``.

    Args:
        mask: ``(H, W)`` bool.

    Returns:
        ``(N,)`` int32 that sum to ``H * W``; the first counts pixels outside the mask, and is 0 if
        the mask begins in the corner.
    """
    flat = mask.T.reshape(-1)
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    starts = [0, 0] if flat.size and flat[0] else [0]
    return np.diff([*starts, *edges.tolist(), flat.size]).astype(np.int32)


def mask_from_run_lengths(counts: Sequence[int], shape: tuple[int, int]) -> np.ndarray:
    """The ``(H, W)`` bool mask of :func:`run_lengths`.

    Raises:
        DataError: the counts do not fill the shape.
    """
    lengths = np.asarray(counts, np.int64)
    if (lengths < 0).any() or lengths.sum() != shape[0] * shape[1]:
        raise DataError(
            f"run lengths of {lengths.sum()} pixels are no mask of {shape[0]}x{shape[1]}"
        )
    inside = np.arange(lengths.size) % 2 == 1
    return np.repeat(inside, lengths).reshape(shape[1], shape[0]).T
