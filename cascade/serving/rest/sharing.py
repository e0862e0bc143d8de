"""How requests that are computed at the same time share the processor."""

from __future__ import annotations

import copy
import io
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import numpy as np

from cascade.errors import CascadeError
from cascade.imaging.header import read_header
from cascade.models.cores import usable_cores
from cascade.models.protocol import single_threaded
from cascade.pipeline import Cascade

Compute = Callable[[np.ndarray], Any]
LARGE_PIXELS = 6_000_000
"""Decoding an image of this size takes as much memory as all else that one request needs."""

_ARRAY_CALLS = ("predict", "predict_with_features", "predict_proba")


class Combined:
    """A function of ``(N, ...)`` arrays; calls that would wait for each other are computed as one.

    A call that finds nothing running is computed at once: none waits for others to come.
    """

    def __init__(self, compute: Compute, turn: threading.Lock) -> None:
        """Wrap a function.

        Args:
            compute: gives an array, or a tuple of arrays, with one entry for each of the input's.
            turn: held while something is computed; functions of one processor share it.
        """
        self._compute = compute
        self._turn = turn
        self._waiting: deque[tuple[np.ndarray, Future[Any]]] = deque()

    def __call__(self, images: np.ndarray) -> Any:
        """What the function gives for these images."""
        result: Future[Any] = Future()
        self._waiting.append((images, result))
        with self._turn:
            if not result.done():
                self._compute_waiting()
        return result.result()

    def _compute_waiting(self) -> None:
        calls = [self._waiting.popleft() for _ in range(len(self._waiting))]
        try:
            whole = self._compute(np.concatenate([images for images, _ in calls]))
        except Exception as error:  # noqa: BLE001 - it is raised where the result is awaited
            self._fail(calls, error)
            return
        start = 0
        for images, result in calls:
            part = slice(start, start := start + len(images))
            several = isinstance(whole, tuple)
            result.set_result(tuple(array[part] for array in whole) if several else whole[part])

    def _fail(self, calls: list[tuple[np.ndarray, Future[Any]]], error: Exception) -> None:
        """One call may be at fault, or all together too large: each gets an answer of its own."""
        for images, result in calls:
            try:
                if len(calls) == 1:
                    raise error
                result.set_result(self._compute(images))
            except Exception as own:  # noqa: BLE001 - it is raised where the result is awaited
                result.set_exception(own)


def combined(cascade: Cascade) -> Cascade:
    """The same cascade, whose networks take images of several threads as one batch."""
    turn = threading.Lock()  # both networks are computed by the same processor
    return _with_stages(cascade, lambda stage: _combined(stage, turn))


def side_by_side(cascade: Cascade) -> Cascade | None:
    """The same cascade, each prediction of which computes in the thread of its caller alone.

    Returns:
        ``None`` where a stage does not offer that; see
        :meth:`cascade.models.protocol.Stage.single_threaded`.
    """
    stages = (cascade.segmenter, cascade.classifier)
    if any(single_threaded(stage) is None for stage in stages):
        return None
    return _with_stages(cascade, single_threaded)


def suitable_concurrency(cascade: Cascade) -> int:
    """How many requests are worth computing at once: one for each core; one for torch on a CPU."""
    if on_gpu(cascade):
        return usable_cores()
    return 1 if cascade.runtime == "torch" else int(getattr(cascade.segmenter, "cores", 1))


def on_gpu(cascade: Cascade) -> bool:
    """Whether a GPU computes the networks."""
    return bool(getattr(cascade.segmenter, "on_gpu", False))


def takes_much_memory(data: bytes, *, drawing: bool) -> bool:
    """Whether an image is large and must be decoded at its full size.

    Args:
        data: the bytes of the file.
        drawing: its pixels are needed for a drawing; otherwise a JPEG is decoded at a fraction.
    """
    try:
        header = read_header(io.BytesIO(data), "image")
    except CascadeError:
        return False  # it is refused when it is read
    reduced = header.kind == "jpeg" and not drawing
    return not reduced and header.stored_shape[0] * header.stored_shape[1] > LARGE_PIXELS


def _combined(stage: Any, turn: threading.Lock) -> Any:
    other = copy.copy(stage)
    for name in _ARRAY_CALLS:
        if hasattr(stage, name):
            setattr(other, name, Combined(getattr(stage, name), turn))
    return other


def _with_stages(cascade: Cascade, change: Callable[[Any], Any]) -> Cascade:
    other = copy.copy(cascade)
    other.segmenter, other.classifier = change(cascade.segmenter), change(cascade.classifier)
    return other
