"""Several classifiers as one second stage: the weighted mean of their probabilities."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any, Self, cast

import torch
from torch import nn

from cascade.errors import ConfigError
from cascade.models.artifact import Artifact, read_artifact
from cascade.models.classifier import CalibratedNetwork, Classifier
from cascade.reliability import Diagnoses

SMALLEST_WEIGHT = 1e-6
"""A member below this cannot change a probability and only costs time; leave it out."""


class ClassifierEnsemble(CalibratedNetwork):
    """Classifiers of one input size and one mask policy that judge the same crop together.

    Each member's probabilities are those that it gives alone, after its own temperature; the
    ensemble's are their weighted mean. The logits of an ensemble are the logarithms of that mean,
    so its own temperature, which is 1 unless it is fitted, works as a classifier's does.
    """

    def __init__(
        self, members: Sequence[Classifier], weights: Sequence[float] | None = None
    ) -> None:
        """Join classifiers.

        ``weights`` are positive with sum 1; equal ones by default.

        Raises:
            ConfigError: members differ in policy or size, or the weights are not usable.
        """
        _require_alike(members)
        super().__init__(members[0].policy)
        self.weights = _checked_weights(weights, len(members))
        self.members = nn.ModuleList(members)

    @property
    def size(self) -> int:
        """Side of each member's input in pixels."""
        return self.classifiers[0].size

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.classifiers[0].device

    @property
    def classifiers(self) -> list[Classifier]:
        """The members as what they are."""
        return [cast(Classifier, member) for member in self.members]

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """``(N, S, S, 3)`` uint8 RGB to ``(N, 2)`` logarithms of the mean probabilities."""
        judged = [
            member.calibrated(member(images)).log_softmax(dim=1) + math.log(weight)
            for member, weight in zip(self.classifiers, self.weights, strict=True)
        ]
        return torch.stack(judged).logsumexp(dim=0)

    @property
    def diagnoses(self) -> Diagnoses | None:
        """Those of the first member; ``None`` unless all members tell the same."""
        told = [member.diagnoses for member in self.classifiers]
        names = {None if one is None else (one.benign, one.malignant) for one in told}
        return told[0] if len(names) == 1 else None

    def forward_with_shares(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits, and shares of the diagnoses: those of their mean probabilities."""
        if self.diagnoses is None:
            raise ConfigError("the members of this ensemble do not tell the same diagnoses")
        judged, told = [], []
        benign = len(self.diagnoses.benign)
        for member, weight in zip(self.classifiers, self.weights, strict=True):
            logits, shares = member.forward_with_shares(images)
            judged.append(member.calibrated(logits).log_softmax(dim=1) + math.log(weight))
            told.append(shares)
        logarithms = torch.stack(judged)
        logits = logarithms.logsumexp(dim=0)
        weights = (logarithms - logits).exp()  # of each member's shares, for each class
        shares = torch.stack(told)
        parts = (
            (weights[:, :, :1] * shares[:, :, :benign]).sum(dim=0),
            (weights[:, :, 1:] * shares[:, :, benign:]).sum(dim=0),
        )
        return logits, torch.cat(parts, dim=1)

    def describe(self) -> dict[str, Any]:
        """The settings of all members and of the ensemble as plain JSON values."""
        told = {} if self.diagnoses is None else {"diagnoses": self.diagnoses.describe()}
        return {
            "ensemble": [member.describe() for member in self.classifiers],
            "weights": list(self.weights),
            **self._describe_use(),
            **told,
        }

    @classmethod
    def from_description(cls, description: Mapping[str, Any]) -> Self:
        """An untrained ensemble of the described members.

        Raises:
            ModelFileError: a member's classes are not benign, malignant in this order.
        """
        members = [Classifier.from_description(member) for member in description["ensemble"]]
        ensemble = cls(members, description["weights"])
        ensemble._restore_use(description)
        return ensemble


def load_classifier(
    path: str | os.PathLike[str] | Artifact, *, device: str = "auto", source: str = "model"
) -> Classifier | ClassifierEnsemble:
    """Read the second stage for use, whether it is one classifier or an ensemble.

    Args:
        path: file of a classifier, an ensemble or a cascade, or such a file in memory.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        source: what error messages call a file that is already in memory.

    Raises:
        ModelFileError: the file is missing, damaged, or does not hold a classifier.
    """
    if isinstance(path, Artifact):
        artifact = path
    else:
        artifact, source = read_artifact(path, needs=(Classifier.stage,)), str(path)
    if "ensemble" in artifact.stages[Classifier.stage]:
        return ClassifierEnsemble.from_artifact(artifact, device=device, source=source)
    return Classifier.from_artifact(artifact, device=device, source=source)


def join_classifiers(
    parts: Sequence[Classifier | ClassifierEnsemble], weights: Sequence[float]
) -> ClassifierEnsemble:
    """One ensemble out of classifiers and ensembles, which give it their members.

    ``weights`` has one number a part, with sum 1; a part of weight 0 is left out.

    Raises:
        ConfigError: a part is an ensemble with a calibration of its own, which a mean of members
            cannot keep, or the members do not fit together.
    """
    members: list[Classifier] = []
    shares: list[float] = []
    for part, weight in zip(parts, weights, strict=True):
        if weight < SMALLEST_WEIGHT:
            continue
        if isinstance(part, Classifier):
            members.append(part)
            shares.append(weight)
            continue
        if part.is_calibrated:
            raise ConfigError(
                "an ensemble that was calibrated as a whole cannot be taken apart again; join the "
                "ensembles first and calibrate the result"
            )
        members += part.classifiers
        shares += [weight * share for share in part.weights]
    total = math.fsum(shares)
    return ClassifierEnsemble(members, [share / total for share in shares])


def _require_alike(members: Sequence[Classifier]) -> None:
    if not members:
        raise ConfigError("an ensemble of no classifiers cannot judge anything; give at least one")
    first = members[0]
    for number, member in enumerate(members):
        if member.policy != first.policy:
            raise ConfigError(
                f"member {number} was trained with mask policy {member.policy}, member 0 with "
                f"{first.policy}; all members of an ensemble see the same crop"
            )
        if member.size != first.size:
            raise ConfigError(
                f"member {number} takes {member.size} pixels, member 0 takes {first.size}; all "
                "members of an ensemble see the same crop"
            )


def _checked_weights(weights: Sequence[float] | None, count: int) -> tuple[float, ...]:
    given = [1 / count] * count if weights is None else [float(weight) for weight in weights]
    if len(given) != count:
        raise ConfigError(f"{len(given)} weights for {count} members; give one weight a member")
    usable = all(weight >= SMALLEST_WEIGHT for weight in given)  # not-a-number fails too
    if not usable or not math.isclose(math.fsum(given), 1.0, abs_tol=1e-6):
        raise ConfigError(
            f"the weights of an ensemble are {given}; they must be positive with sum 1 (leave a "
            "member of weight 0 out)"
        )
    return tuple(given)
