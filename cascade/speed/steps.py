"""Where the time of one image goes, step by step, on one thread."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from cascade import Cascade
from cascade.pipeline import assemble, stream

NETWORKS = ("segmenter", "classifier")
READING, REST = "reading", "everything else"

_FUNCTIONS = {
    READING: ((stream, "read_image"),),
    "resizing": ((stream, "resize_pixels"),),
    "mask": ((stream, "find_lesion"), (stream, "lesion_at")),
    "mask quality": ((stream, "mask_quality"),),
    "crop": ((stream, "apply_mask"),),
    "measurements": ((assemble, "measure"),),
    "image quality": ((assemble, "image_quality"),),
}
"""By step the functions that do it, where the stream of images calls them."""


def steps_ms(model: str, files: Sequence[str], **options: Any) -> dict[str, float]:
    """Median milliseconds of processor time in each step of one image.

    Args:
        model: an exported cascade.
        files: images, each judged twice; the first time warms up.
        options: of :meth:`cascade.Cascade.load`.

    Returns:
        By step in the order of the work; the last one is what the others leave of the whole.
    """
    cascade = Cascade.load(model, device="cpu", threads=1, **options)
    rows = []
    with _timed(cascade) as spent:
        for file in [*files, *files]:
            spent.clear()
            start = time.process_time()
            cascade([file])
            whole = time.process_time() - start
            rows.append({**spent, REST: whole - sum(spent.values())})
    order = (READING, "resizing", "segmenter", "mask", "mask quality", "crop", "classifier")
    names = (*order, "measurements", "image quality", REST)
    measured = rows[len(files) :]
    return {
        name: 1000 * statistics.median(row.get(name, 0.0) for row in measured) for name in names
    }


def overhead_ms(steps: Mapping[str, float]) -> float:
    """Milliseconds of all steps but reading and the networks."""
    return sum(value for name, value in steps.items() if name not in (READING, *NETWORKS))


@contextlib.contextmanager
def _timed(cascade: Cascade) -> Iterator[dict[str, float]]:
    """Add up the processor time of each step within the block."""
    spent: dict[str, float] = {}

    def timed(step: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **options: Any) -> Any:
            start = time.process_time()
            try:
                return work(*arguments, **options)
            finally:
                spent[step] = spent.get(step, 0.0) + time.process_time() - start

        return wrapped

    places = [(step, *place) for step, found in _FUNCTIONS.items() for place in found]
    for step in NETWORKS:
        stage = getattr(cascade, step)
        places += [(step, stage, name) for name in dir(stage) if name.startswith("predict")]
    with contextlib.ExitStack() as restore:
        for step, owner, name in places:
            before = getattr(owner, name)
            setattr(owner, name, timed(step, before))
            restore.callback(setattr, owner, name, before)
        yield spent
