"""One row of a table for each input, whatever fails: the same in a CSV file and on a cluster."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from cascade.errors import ImageError
from cascade.fields import columns, open_columns, row
from cascade.imaging import FoundFile, ImageSource
from cascade.pipeline.augmented_views import TestTimeAugmentation
from cascade.pipeline.cascade import Cascade
from cascade.pipeline.prediction import Failure, Prediction
from cascade.reliability import Diagnoses, Metadata
from cascade.reliability.metadata import UNKNOWN

COLUMNS = ("name", "path", *columns(Prediction), "error", "mask", "overlay")
"""The columns of a table of predictions; ``mask`` and ``overlay`` hold or name images."""


def diagnosis_columns(diagnoses: Diagnoses | None) -> tuple[str, ...]:
    """The columns after those, one for each diagnosis that a cascade tells apart."""
    return () if diagnoses is None else open_columns(Prediction, diagnoses.names)


@dataclass(frozen=True)
class RowInput:
    """An input that is to have a row.

    Attributes:
        name: its file name.
        path: where it is, as the row says.
        source: what :func:`cascade.imaging.read_image` takes.
        problem: why it cannot be read, in words, or ``None``.
        known: further columns of its row, whatever is predicted.
        metadata: age, sex and site, as far as they are known.
    """

    name: str
    path: str
    source: ImageSource
    problem: str | None = None
    known: Mapping[str, Any] = field(default_factory=dict)
    metadata: Metadata = UNKNOWN

    @classmethod
    def of(cls, found: FoundFile, **more: Any) -> RowInput:
        """The input that a file is; ``more`` are other attributes."""
        return cls(found.path.name, str(found.path), found.path, found.problem, **more)

    def row(self, **values: Any) -> dict[str, Any]:
        """The input's row; columns without a value are empty."""
        own = {"name": self.name, "path": self.path, **self.known}
        return {**dict.fromkeys(COLUMNS), **own, **values}


Images = Callable[[RowInput, Prediction], Mapping[str, Any]]
"""Makes the columns ``mask`` and ``overlay`` of a row, and any that replace others."""


def predict_rows(
    cascade: Cascade,
    inputs: Iterator[RowInput],
    images: Images,
    *,
    tta: TestTimeAugmentation = "none",
    batch_size: int = 1,
    pixels_per_millimetre: float | None = None,
    metadata: Metadata = UNKNOWN,
) -> Iterator[dict[str, Any]]:
    """One row for each input, in order; a few images are under way while a row is written.

    Args:
        cascade: both stages.
        inputs: drawn as room comes free.
        images: makes the columns that hold or name images.
        tta: see :meth:`Cascade.predict_iter`, as for the rest.
        batch_size: images that pass the networks together.
        pixels_per_millimetre: scale of all images.
        metadata: what counts where an input does not know its own.
    """
    waiting: deque[RowInput] = deque()
    known: deque[Metadata] = deque()

    def usable() -> Iterator[ImageSource]:
        for item in inputs:
            waiting.append(item)
            if item.problem is None:
                known.append(item.metadata.or_else(metadata))
                yield item.source

    def unusable() -> Iterator[dict[str, Any]]:
        while waiting and waiting[0].problem is not None:
            yield failed_row(waiting.popleft())

    first = list(itertools.islice(usable(), 2))
    sources = first if len(first) < 2 else itertools.chain(first, usable())
    for result in cascade.predict_iter(  # a list of one file needs no threads of its own
        sources,
        tta=tta,
        batch_size=batch_size,
        pixels_per_millimetre=pixels_per_millimetre,
        metadata=(known.popleft() for _ in itertools.count()),  # in step with the sources
    ):
        yield from unusable()
        yield _result_row(waiting.popleft(), result, images)
    yield from unusable()


def failed_row(item: RowInput) -> dict[str, Any]:
    """The row of an input that has a problem."""
    return item.row(error=str(ImageError(f"{item.name}: {item.problem}")))


def _result_row(item: RowInput, result: Prediction | Failure, images: Images) -> dict[str, Any]:
    if isinstance(result, Failure):
        return item.row(error=str(result.error))
    try:
        written = images(item, result)
    except ImageError as error:  # the file changed since it was predicted
        return item.row(error=str(error))
    return item.row(**{**row(Prediction, result), **written})
