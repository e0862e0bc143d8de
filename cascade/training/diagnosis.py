"""A second question in training: which diagnosis it is, from the same features.

Benign and malignant are coarse. A network that must also tell a basal cell carcinoma from a
melanoma learns features that serve both, as the entries to the ISIC challenges found (Ha et al.
2020, arXiv:2010.05351). The layer that answers is trained along and then left behind: the file
holds the benign-or-malignant network alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import nn

from cascade.data.datasets import ClassificationDataset
from cascade.data.tables import Record
from cascade.errors import DataError
from cascade.models.architectures import last_layer
from cascade.models.classifier import Classifier
from cascade.models.network import hooked

UNKNOWN = -1


def diagnosis_indices(records: Sequence[Record]) -> tuple[np.ndarray, tuple[str, ...]]:
    """Which diagnosis each record has.

    Capitals do not count, and neither does the addition "NOS" (not otherwise specified).

    Returns:
        ``(N,)`` int64 places in the sorted names, -1 where the table says nothing, and the names.

    Raises:
        DataError: fewer than two diagnoses are named.
    """
    named = [_plain(record.attributes.get("diagnosis", "")) for record in records]
    names = tuple(sorted(set(named) - {""}))
    if len(names) < 2:
        raise DataError(
            f"the training table names {len(names)} diagnoses (column diagnosis), so they cannot "
            "be told apart; set --diagnosis_weight 0"
        )
    place = {name: index for index, name in enumerate(names)}
    return np.array([place.get(name, UNKNOWN) for name in named], np.int64), names


def _plain(diagnosis: str) -> str:
    return diagnosis.strip().casefold().removesuffix(", nos")


class DiagnosedCrops:
    """The samples of a :class:`ClassificationDataset`, each with its diagnosis as third item."""

    def __init__(self, data: ClassificationDataset, diagnoses: np.ndarray) -> None:
        self.data = data
        self.diagnoses = diagnoses

    @property
    def epoch(self) -> int:
        """The epoch that decides the random changes."""
        return self.data.epoch

    @epoch.setter
    def epoch(self, value: int) -> None:
        self.data.epoch = value

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int, int]:
        return *self.data[index], int(self.diagnoses[index])


def diagnosis_layer(classifier: Classifier, count: int) -> nn.Linear:
    """An untrained layer from the classifier's features to the logits of ``count`` diagnoses."""
    features = last_layer(classifier.network, classifier.config.architecture).in_features
    return nn.Linear(features, count)


def with_diagnosis(
    loss: Callable[[Classifier, Sequence[torch.Tensor]], torch.Tensor],
    layer: nn.Linear,
    weight: float,
) -> Callable[[Classifier, Sequence[torch.Tensor]], torch.Tensor]:
    """Add the cross entropy of the diagnosis to a loss.

    ``weight`` is that of the cross entropy, averaged over the crops that have a diagnosis.

    Returns:
        Both losses, of classifier, crops, labels and diagnoses.
    """

    def joint(classifier: Classifier, batch: Sequence[torch.Tensor]) -> torch.Tensor:
        crops, labels, diagnoses = batch
        last = last_layer(classifier.network, classifier.config.architecture)
        seen: list[torch.Tensor] = []  # what enters the last layer
        with hooked([last], lambda _, inputs, __: seen.append(inputs[0])):
            first = loss(classifier, (crops, labels))
        logits = layer(seen[0]).float()
        second = nn.functional.cross_entropy(
            logits, diagnoses, ignore_index=UNKNOWN, reduction="sum"
        )
        named = (diagnoses != UNKNOWN).sum().clamp(min=1)
        return torch.stack([first, weight * second / named])

    return joint


def with_diagnosis_shares(
    shares: Callable[[list[torch.Tensor]], torch.Tensor],
) -> Callable[[list[torch.Tensor]], torch.Tensor]:
    """Also the weight of a batch in the mean over crops that have a diagnosis."""

    def joint(batch: list[torch.Tensor]) -> torch.Tensor:
        named = (batch[2] != UNKNOWN).sum()
        return torch.stack([shares(batch), named.to(torch.float32)])

    return joint
