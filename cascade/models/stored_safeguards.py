"""Safeguards inside a cascade's file, beside its two stages."""

from __future__ import annotations

from dataclasses import replace

from cascade.errors import ConfigError, ModelFileError, ShapeError
from cascade.models.artifact import Artifact
from cascade.reliability import Safeguards

NAME = "safeguards"


def with_safeguards(artifact: Artifact, safeguards: Safeguards) -> Artifact:
    """The artifact with these safeguards; the same one if there are none."""
    description = safeguards.describe()
    if not description:
        return artifact
    arrays = {f"{NAME}.{name}": array for name, array in safeguards.to_arrays().items()}
    return replace(
        artifact,
        stages={**artifact.stages, NAME: description},
        tensors={**artifact.tensors, **arrays},
    )


def read_safeguards(artifact: Artifact, *, source: str = "model") -> Safeguards:
    """The safeguards of an artifact, which may be none.

    Raises:
        ModelFileError: they are incomplete or of another kind.
    """
    try:
        return Safeguards.from_description(
            artifact.stages.get(NAME, {}), artifact.stage_tensors(NAME)
        )
    except (ConfigError, ShapeError, TypeError, AttributeError) as error:
        raise ModelFileError(f"{source}: its safeguards cannot be read ({error})") from error
