"""One network from several: the mean of the weights of trainings that share their start.

Networks that were trained on from the same weights, with other settings or seeds, lie close enough
for their mean to be a network too, often a better one than any of them and as fast as one (model
soups, Wortsman et al. 2022, arXiv:2203.05482).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from cascade.errors import ConfigError, DataError, ModelFileError
from cascade.models.artifact import check_tensors, tensor_shapes
from cascade.models.classifier import Classifier
from cascade.training.run import division_of


def average_classifiers(paths: Sequence[str | Path], *, size: int | None = None) -> Classifier:
    """Average the weights and batch statistics of classifiers.

    Args:
        paths: files of at least two classifiers that share architecture, mask policy and division
            into training and validation images.
        size: side of the average's input in pixels; by default the first one's. See
            :meth:`Classifier.at_size`.

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
    seen = {mark for member in members for mark in member.provenance.get("trained_on", ())}
    made = [
        {key: value for key, value in member.provenance.items() if key != "trained_on"}
        for member in members
    ]
    plain = [number for number, one in enumerate(made) if "averaged_with" not in one]
    if plain:
        first = made.pop(plain[0])
    else:
        of_one = {"averaged_with", "averaged_at", "batch_statistics", "settings", "initial_model"}
        first = {key: value for key, value in made[0].items() if key not in of_one}
    return {**first, "trained_on": sorted(seen), "averaged_with": made}
