"""What is known beside each image of a stream, in step with it, and what it did to an answer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

from cascade.errors import ConfigError, ShapeError
from cascade.pipeline.prediction import Prediction
from cascade.reliability import Metadata, MetadataFusion
from cascade.reliability.metadata import UNKNOWN

Source = TypeVar("Source")
MetadataOf = Metadata | Iterable[Metadata | None] | None
"""What is known of all images, or of each in order; ``None`` where nothing is."""


def require_fusion(fusion: MetadataFusion | None, known: Metadata) -> None:
    """Refuse what a cascade cannot use.

    Raises:
        ConfigError: something is known, and the cascade was not fitted to use it.
    """
    names = ", ".join(known.known())
    if fusion is None and names:
        raise ConfigError(
            f"the cascade has no metadata fusion, so it cannot use {names}; leave that out, or add "
            "one with: cascade fit-metadata"
        )


def paired(
    sources: Iterable[Source], metadata: MetadataOf, fusion: MetadataFusion | None
) -> Iterator[tuple[Source, Metadata]]:
    """Each source with what is known beside it; neither is drawn before it is needed.

    Args:
        sources: images.
        metadata: of all of them, or one for each.
        fusion: of the cascade, if it has one.

    Raises:
        ConfigError: the cascade has no fusion for what is known.
        ShapeError: there are fewer metadata than images.
    """
    if metadata is None or isinstance(metadata, Metadata):
        yield from ((source, metadata or UNKNOWN) for source in sources)
        return
    each = iter(metadata)
    for count, source in enumerate(sources):
        try:
            known = next(each) or UNKNOWN
        except StopIteration:
            raise ShapeError(
                f"there are only {count} metadata for more images; give one for each, None where "
                "nothing is known, or a single one for all"
            ) from None
        require_fusion(fusion, known)
        yield source, known


def metadata_sentence(prediction: Prediction) -> str:
    """What metadata did to the probability, as a sentence; empty where none was used."""
    if not prediction.metadata_used or prediction.image_probability is None:
        return ""
    return (
        f"Beside the image, {', '.join(prediction.metadata_used)} was used; from the image alone "
        f"the probability of malignant is {prediction.image_probability:.3f}."
    )
