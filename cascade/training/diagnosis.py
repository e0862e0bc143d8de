"""A second question in training: which diagnosis it is, from the same features.

Benign and malignant are coarse. A network that must also tell a basal cell carcinoma from a
melanoma learns features that serve both, as the entries to the ISIC challenges found (Ha et al.
2020, arXiv:2010.05351). The layer that answers is trained along and kept, see
:class:`cascade.reliability.Diagnoses`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import nn

from cascade.config import CLASSES
from cascade.data.datasets import ClassificationDataset
from cascade.data.spreadsheet import listed
from cascade.data.tables import Record
from cascade.errors import ConfigError, DataError
from cascade.models.classifier import Classifier
from cascade.reliability import Diagnoses, diagnosis_name
from cascade.training.mixing import Mixing

UNKNOWN = -1


def diagnoses_of(records: Sequence[Record]) -> Diagnoses:
    """The diagnoses of labelled records (column ``diagnosis``) and how frequent each is.

    Raises:
        DataError: a class has no diagnosis, or a diagnosis is benign in some records and malignant
            in others.
    """
    pairs = Counter((_name(record), record.label) for record in records if _name(record))
    names = {name for name, _ in pairs}
    both = sorted(name for name in names if all((name, label) in pairs for label in CLASSES))
    if both:
        raise DataError(
            f"{len(both)} diagnoses are benign in some images and malignant in others: "
            f"{listed(both)}; correct the column diagnosis, or leave these cells empty"
        )
    malignant = {name for name, label in pairs if label == CLASSES[1]}
    try:
        return Diagnoses.of_images([_name(record) for record in records], malignant)
    except ConfigError as error:
        raise DataError(
            f"the training table names {len(names)} diagnoses (column diagnosis), "
            f"{len(malignant)} of them malignant; a classifier that tells diagnoses needs one of "
            "each class at least; fill the column, or train a classifier without it "
            "(--diagnosis_weight 0)"
        ) from error


def diagnosis_indices(records: Sequence[Record], diagnoses: Diagnoses) -> np.ndarray:
    """``(N,)`` int64 place of each record's diagnosis, -1 where it is unknown or another one."""
    place = {name: index for index, name in enumerate(diagnoses.names)}
    return np.array([place.get(_name(record), UNKNOWN) for record in records], np.int64)


def diagnosis_frequencies(records: Sequence[Record]) -> np.ndarray:
    """``(N,)`` float64: of each record, how many have its diagnosis.

    One without a diagnosis counts like those of the most frequent one.

    Raises:
        DataError: no record has a diagnosis.
    """
    names = [_name(record) for record in records]
    counts = Counter(name for name in names if name)
    if not counts:
        raise DataError(
            "no training image has a diagnosis; fill the column 'diagnosis' or set "
            "--diagnosis_balance 0"
        )
    most = max(counts.values())
    return np.array([counts.get(name, most) for name in names], np.float64)


def drawn_excess(
    indices: np.ndarray, diagnoses: Diagnoses, weights: np.ndarray | None
) -> np.ndarray:
    """``(K,)`` logarithm of how much more often training draws each diagnosis than it occurs.

    Args:
        indices: ``(N,)`` place of each record's diagnosis, -1 where it is unknown.
        diagnoses: the K diagnoses.
        weights: ``(N,)``, how often each record is drawn; all alike where there are none.
    """
    known = indices != UNKNOWN
    chances = None if weights is None else weights[known]
    drawn = np.bincount(indices[known], chances, minlength=len(diagnoses.names))
    excess: np.ndarray = np.log(drawn / drawn.sum() / np.array(diagnoses.training_shares))
    return excess


def _name(record: Record) -> str:
    return diagnosis_name(record.attributes.get("diagnosis", ""))


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


def with_diagnosis(
    criterion: nn.Module,
    weight: float,
    mixing: Mixing = Mixing(),  # noqa: B008  (frozen)
    excess: np.ndarray | None = None,
) -> Callable[[Classifier, Sequence[torch.Tensor]], torch.Tensor]:
    """Add the cross entropy of the diagnosis to the criterion of the class.

    Args:
        criterion: that of the class.
        weight: that of the cross entropy, averaged over the crops that have a diagnosis.
        mixing: how crops are mixed and copied.
        excess: ``(K,)`` of :func:`drawn_excess`, added to the logits in training only, so that
            the layer learns the diagnoses as they occur (Menon et al. 2021, arXiv:2007.07314);
            none where all are drawn alike.

    Returns:
        Both losses, of a classifier with a layer for diagnoses, crops, labels and diagnoses.
    """
    offset = None if excess is None else torch.from_numpy(excess).float()

    def joint(classifier: Classifier, batch: Sequence[torch.Tensor]) -> torch.Tensor:
        if classifier.diagnosis_head is None:
            raise ConfigError("the classifier has no layer for diagnoses")
        crops, *targets = batch
        mixed = mixing.mix(crops)
        logits, auxiliary, features = classifier.forward_with_features(mixed.crops)
        told = classifier.diagnosis_head(features).float()
        if offset is not None:
            told = told + offset.to(told.device)

        def both(targets: Sequence[torch.Tensor]) -> torch.Tensor:
            labels, diagnoses = targets
            first = class_loss(classifier, logits, auxiliary, labels, criterion)
            second = nn.functional.cross_entropy(
                told, diagnoses, ignore_index=UNKNOWN, reduction="sum"
            )
            named = (diagnoses != UNKNOWN).sum().clamp(min=1)
            return torch.stack([first, weight * second / named])

        apart = torch.stack([mixed.divergence(logits), weight * mixed.divergence(told)])
        return mixed.loss(both, targets) + apart

    return joint


def class_loss(
    classifier: Classifier,
    logits: torch.Tensor,
    auxiliary: Sequence[torch.Tensor],
    labels: torch.Tensor,
    criterion: nn.Module,
) -> torch.Tensor:
    """The criterion, with the auxiliary heads' share where a network has such heads."""
    loss: torch.Tensor = criterion(logits.float(), labels)
    for other in auxiliary:
        loss = loss + classifier.auxiliary_weight * criterion(other.float(), labels)
    return loss


def with_diagnosis_shares(
    shares: Callable[[list[torch.Tensor]], torch.Tensor],
) -> Callable[[list[torch.Tensor]], torch.Tensor]:
    """Also the weight of a batch in the mean over crops that have a diagnosis."""

    def joint(batch: list[torch.Tensor]) -> torch.Tensor:
        named = (batch[2] != UNKNOWN).sum()
        return torch.stack([shares(batch), named.to(torch.float32)])

    return joint
