"""One network from several: the mean of the weights of trainings that share their start.

Networks that were trained on from the same weights, with other settings or seeds, lie close enough
for their mean to be a network too, often a better one than any of them and as fast as one (model
soups, Wortsman et al. 2022, arXiv:2203.05482).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import update_bn
from torch.utils.data import DataLoader, Subset

from cascade.config import Augmentation
from cascade.data.datasets import ClassificationDataset
from cascade.data.splits import Splits
from cascade.data.tables import Table
from cascade.errors import ConfigError, DataError, ModelFileError
from cascade.models.artifact import check_tensors, tensor_shapes
from cascade.models.classifier import Classifier
from cascade.progress import progress
from cascade.training.images_seen import (
    division_of,
    images_seen,
    require_same_division,
    without_images,
)
from cascade.training.loop import quiet_worker, seeded


def average_classifiers(paths: Sequence[str | Path], *, size: int | None = None) -> Classifier:
    """Average the weights and batch statistics of classifiers.

    All share architecture, mask policy and division into training and validation images. ``size``
    is the side of the input of the average; by default that of the first, see
    :meth:`Classifier.at_size`. It tells diagnoses if all of them tell the same.

    Returns:
        The mean network, on the CPU, without cutoffs, which belong to one network's probabilities.

    Raises:
        ConfigError: fewer than two files, a size that the architecture cannot take, other mask
            policies, or one that is calibrated already.
        DataError: they were trained with different divisions, so that an image that validated one
            trained another.
        ModelFileError: a file is missing or damaged, or holds another architecture, or its weights
            belong to one size only.
    """
    if len(paths) < 2:
        raise ConfigError(f"{len(paths)} classifier: an average needs at least two")
    members = [Classifier.load(path, device="cpu") for path in paths]
    first = members[0]
    if len({member.diagnoses and member.diagnoses.names for member in members}) > 1:
        for member in members:  # layers of different diagnoses have no mean
            member.set_diagnoses(None)
    for path, member in zip(paths, members, strict=True):
        _check(first, member, str(path), str(paths[0]))
    mean = first.at_size(first.size if size is None else size)
    states = [member.state_dict() for member in members]
    mean.load_state_dict({name: _mean([state[name] for state in states]) for name in states[0]})
    mean.provenance = {**_provenance(members), "averaged_at": mean.size}
    return mean


def _check(first: Classifier, member: Classifier, path: str, reference: str) -> None:
    if member.config.architecture != first.config.architecture:
        raise ModelFileError(
            f"{path}: is a {member.config.architecture}, {reference} a {first.config.architecture}"
        )
    check_tensors(path, tensor_shapes(member.state_dict()), tensor_shapes(first.state_dict()))
    if member.policy != first.policy:
        raise ConfigError(f"{path}: was trained on other crops than {reference} (mask policy)")
    if member.is_calibrated:
        raise ConfigError(f"{path}: is calibrated; average first, calibrate the average")
    if division_of(member.provenance) != division_of(first.provenance):
        raise DataError(
            f"{path}: was trained with another division than {reference}, so no image would be "
            "left to judge the average; train both with the same --splits"
        )


def _mean(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    if not tensors[0].is_floating_point():  # counters of batches
        return torch.stack(list(tensors)).amax(dim=0)
    return torch.stack([tensor.double() for tensor in tensors]).mean(dim=0).to(tensors[0].dtype)


def _provenance(members: Sequence[Classifier]) -> dict[str, Any]:
    """That of the first member, with what all have seen, and the others below ``averaged_with``.

    A member that is an average itself keeps its own ``averaged_with``, so it is never the first;
    where all are averages, the first is none of them and says only what they share.
    """
    seen = images_seen(*(member.provenance for member in members))
    made = [without_images(member.provenance) for member in members]
    plain = [number for number, one in enumerate(made) if "averaged_with" not in one]
    if plain:
        first = made.pop(plain[0])
    else:
        of_one = {"averaged_with", "averaged_at", "batch_statistics", "settings", "initial_model"}
        first = {key: value for key, value in made[0].items() if key not in of_one}
    return {**first, **seen, "averaged_with": made}


BATCH_SIZE = 64
log = logging.getLogger(__name__)


def estimate_batch_statistics(
    classifier: Classifier,
    table: Table,
    splits: Splits,
    *,
    images: int,
    augmentation: Augmentation = "none",
    whole_image_share: float = 0.0,
    seed: int = 0,
    num_workers: int = 0,
) -> int:
    """Replace a classifier's batch statistics by those of crops of its training part.

    The crops are cut by the classifier's mask policy. The statistics are the means over batches of
    64 crops (fewer where there are fewer), each counting the same; crops beyond the last full batch
    are left out. What was done is recorded in ``provenance["batch_statistics"]``.

    ``classifier`` is changed in place. ``images``, at least 2, of the training part are drawn, each
    at most once; ``augmentation`` and ``whole_image_share`` are usually those of its training.

    Returns:
        How many crops were used.

    Raises:
        ConfigError: fewer than two images are asked for, the classifier is calibrated already, or
            it has no batch normalisation.
        DataError: it was trained with another division.
    """
    _check_statistics(classifier, splits, images)
    train, _ = splits.parts(table)
    data = ClassificationDataset(
        train.records,
        size=classifier.size,
        policy=classifier.policy,
        augmentation=augmentation,
        seed=seed,
        whole_image_share=whole_image_share,
    )
    drawn = np.random.default_rng(seed).permutation(len(data))[:images].tolist()
    batch_size = min(BATCH_SIZE, len(drawn))
    used = len(drawn) // batch_size * batch_size
    loader: DataLoader[Any] = DataLoader(
        Subset(data, drawn[:used]),
        batch_size=batch_size,
        num_workers=num_workers,
        worker_init_fn=quiet_worker,
    )
    log.info("estimating batch statistics on %d training crops", used)
    with seeded(seed):  # layers that drop at random do so here as in training
        update_bn(
            progress(loader, description="batch statistics", unit="batch"),
            classifier,
            device=classifier.device,
        )
    classifier.eval()
    classifier.provenance["batch_statistics"] = {
        "batch_statistics": used,
        "augmentation": augmentation,
        "whole_image_share": whole_image_share,
        "seed": seed,
    }
    return used


def _check_statistics(classifier: Classifier, splits: Splits, images: int) -> None:
    if images < 2:
        raise ConfigError(f"batch statistics of {images} images; at least 2 are needed")
    if classifier.is_calibrated:
        raise ConfigError(
            "the classifier is calibrated; estimate batch statistics first, then calibrate"
        )
    if not any(isinstance(layer, _BatchNorm) for layer in classifier.modules()):
        raise ConfigError(
            f"{classifier.config.architecture} has no batch normalisation, so there are no "
            "statistics to estimate"
        )
    require_same_division(classifier.provenance, splits)
