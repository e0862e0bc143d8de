"""What was fitted on validation images after both trainings, and stays in a cascade's file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from cascade.config import did_you_mean
from cascade.errors import ConfigError
from cascade.reliability.conformal import ConformalScores
from cascade.reliability.mask_quality_limits import MaskQualityLimits
from cascade.reliability.metadata_fusion import MetadataFusion
from cascade.reliability.out_of_distribution import OutOfDistributionDetector

_EARLIER_NAMES = {"gate": "mask_quality_limits", "familiarity": "out_of_distribution"}
"""What version 0.1 called the parts in its files."""


class HasCutoff(Protocol):
    """A classifier, as far as its labels are concerned."""

    @property
    def cutoff(self) -> float:
        """Probability of ``malignant`` from which the label is ``malignant``."""


@dataclass(frozen=True)
class Safeguards:
    """Limits that were fitted on validation images, and the metadata fusion; each may be missing.

    Attributes:
        conformal: calibration scores for sets of classes.
        mask_quality_limits: limits beyond which a mask is not trusted, and the whole image may be
            classified instead.
        out_of_distribution: which images look like those of the training.
        metadata: how age, sex and site move the probability where they are known.
    """

    conformal: ConformalScores | None = None
    mask_quality_limits: MaskQualityLimits | None = None
    out_of_distribution: OutOfDistributionDetector | None = None
    metadata: MetadataFusion | None = None

    def describe(self) -> dict[str, Any]:
        """All that is there as plain JSON values, but for the arrays of ``out_of_distribution``."""
        parts = {
            "conformal": self.conformal and self.conformal.to_dict(),
            "mask_quality_limits": self.mask_quality_limits and self.mask_quality_limits.to_dict(),
            "out_of_distribution": self.out_of_distribution and self.out_of_distribution.settings(),
            "metadata": self.metadata and self.metadata.to_dict(),
        }
        return {name: part for name, part in parts.items() if part is not None}

    def to_arrays(self) -> dict[str, np.ndarray]:
        """What belongs among the tensors of a model file."""
        return {} if self.out_of_distribution is None else self.out_of_distribution.to_arrays()

    @classmethod
    def from_description(
        cls, description: Mapping[str, Any], arrays: Mapping[str, np.ndarray]
    ) -> Safeguards:
        """Read safeguards back.

        Raises:
            ConfigError: a part is unknown or its values are not allowed.
            ShapeError: the arrays do not fit each other.
        """
        known = ("conformal", "mask_quality_limits", "out_of_distribution", "metadata")
        description = {_EARLIER_NAMES.get(name, name): part for name, part in description.items()}
        for name in description:
            if name not in known:
                raise ConfigError(f"safeguards: unknown part {name!r}{did_you_mean(name, known)}")
        conformal, limits, out_of_distribution, metadata = map(description.get, known)
        if out_of_distribution is None and arrays:
            raise ConfigError(f"safeguards: arrays without settings: {', '.join(sorted(arrays))}")
        return cls(
            None if conformal is None else ConformalScores.from_dict(conformal),
            None if limits is None else MaskQualityLimits.from_dict(limits),
            None
            if out_of_distribution is None
            else OutOfDistributionDetector.from_arrays(arrays, out_of_distribution),
            None if metadata is None else MetadataFusion.from_dict(metadata),
        )


def cutoff_of(operating_points: Mapping[str, float], sensitivity: float) -> float:
    """The stored cutoff for a sensitivity.

    ``operating_points`` maps a sensitivity, as text such as ``"0.90"``, to its cutoff.

    Raises:
        ConfigError: there is none for this sensitivity; those that there are are listed.
    """
    name = f"{sensitivity:.2f}"
    # 0.904 is not 0.90: its cutoff would reach less than was asked for
    if name not in operating_points or not math.isclose(float(name), sensitivity, abs_tol=1e-9):
        stored = ", ".join(operating_points) or "none"
        raise ConfigError(
            f"the model has no operating point for sensitivity {sensitivity:g}; stored: {stored}"
        )
    return operating_points[name]


def chosen_cutoff(
    classifier: HasCutoff, cutoff: float | None = None, operating_point: float | None = None
) -> float:
    """The probability of malignant from which a label is malignant.

    Args:
        classifier: has the cutoff that counts unless another one is given; may have stored
            ``operating_points``.
        cutoff: the one to use.
        operating_point: sensitivity of the stored one to use, instead of ``cutoff``.

    Raises:
        ConfigError: both were given, there is no such operating point, or the cutoff is no
            probability.
    """
    if operating_point is not None:
        if cutoff is not None:
            raise ConfigError("give a cutoff or an operating point, not both")
        cutoff = cutoff_of(getattr(classifier, "operating_points", {}), operating_point)
    chosen = classifier.cutoff if cutoff is None else cutoff
    if not 0 <= chosen <= 1:
        raise ConfigError(f"cutoff is {chosen}; a probability lies within [0, 1]")
    return chosen
