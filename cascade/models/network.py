"""What both torch networks share: a stage's file, its device, and prediction on arrays."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import nn

from cascade.errors import ModelFileError
from cascade.models.artifact import (
    Artifact,
    check_tensors,
    read_artifact,
    tensor_shapes,
    write_artifact,
)
from cascade.models.device import resolve_device
from cascade.models.normalization import Normalization


@contextlib.contextmanager
def inference_mode(network: nn.Module) -> Iterator[None]:
    """Evaluate without gradients; the training state is restored afterwards."""
    training = network.training
    network.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        network.train(training)


class Network(nn.Module):
    """A stage as a torch module.

    Subclasses set ``stage``, build themselves from their settings, and name those in
    :meth:`describe`. ``provenance`` and ``metrics`` are written into the file beside the weights.
    """

    stage: ClassVar[str]
    normalization: Normalization

    def __init__(self) -> None:
        super().__init__()
        self.provenance: dict[str, Any] = {}
        self.metrics: dict[str, Any] = {}

    def describe(self) -> dict[str, Any]:
        """The stage's settings as plain JSON values."""
        raise NotImplementedError

    @classmethod
    def from_description(cls, description: Mapping[str, Any]) -> Self:
        """An untrained network of the described architecture."""
        raise NotImplementedError

    @property
    def size(self) -> int:
        """Side of the network's input in pixels."""
        return self.normalization.size

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.normalization.mean.device

    def to_artifact(self, *, half: bool = False) -> Artifact:
        """This stage as a model file in memory.

        Args:
            half: store floating-point tensors as float16.
        """
        tensors = {}
        for name, tensor in self.state_dict().items():
            array = tensor.detach().cpu().numpy()
            shrink = half and array.dtype == np.float32
            tensors[f"{self.stage}.{name}"] = array.astype(np.float16) if shrink else array
        return Artifact(
            stages={self.stage: self.describe()},
            tensors=tensors,
            provenance={self.stage: self.provenance},
            metrics={self.stage: self.metrics},
        )

    @classmethod
    def from_artifact(
        cls, artifact: Artifact, *, device: str = "auto", source: str = "model"
    ) -> Self:
        """Build the network that an artifact describes and load its weights.

        Raises:
            ModelFileError: the description is incomplete, or tensors are missing, unexpected or of
                another shape.
        """
        try:
            network = cls.from_description(artifact.stages[cls.stage])
        except (KeyError, TypeError, AttributeError) as error:
            raise ModelFileError(
                f"{source}: its description of the {cls.stage} is incomplete or of another kind "
                f"({type(error).__name__}: {error})"
            ) from error
        tensors = artifact.stage_tensors(cls.stage)
        own = network.state_dict()
        check_tensors(source, tensor_shapes(tensors), tensor_shapes(own))
        network.load_state_dict(
            {
                name: torch.from_numpy(np.array(tensor)).to(own[name].dtype)
                for name, tensor in tensors.items()
            }
        )
        network.provenance = dict(artifact.provenance.get(cls.stage, {}))
        network.metrics = dict(artifact.metrics.get(cls.stage, {}))
        chosen = resolve_device(device)
        return network.to(memory_format=torch.channels_last).to(chosen).eval()

    def save(self, path: str | os.PathLike[str], *, half: bool = False) -> None:
        """Write this stage alone as a ``.safetensors`` file."""
        write_artifact(path, self.to_artifact(half=half))

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, device: str = "auto") -> Self:
        """Read this stage from its own file or from a cascade's file.

        Raises:
            ModelFileError: the file is missing, damaged, or does not hold this stage.
        """
        artifact = read_artifact(path, needs=(cls.stage,))
        return cls.from_artifact(artifact, device=device, source=str(path))

    def continue_from(self, path: str | os.PathLike[str]) -> dict[str, Any]:
        """Take over the weights of a trained network of the same architecture.

        The input sizes may differ, so that a training can go on with larger images.

        Args:
            path: a file that holds this stage.

        Returns:
            The provenance of the network in the file.

        Raises:
            ModelFileError: the file is missing or damaged, or holds another architecture.
        """
        other = type(self).load(path, device="cpu")
        self._take_over(other, str(path))
        return other.provenance

    def _take_over(self, other: Network, source: str) -> None:
        """Copy the weights of another network, which ``source`` names where they do not fit."""
        state = other.state_dict()
        check_tensors(source, tensor_shapes(state), tensor_shapes(self.state_dict()))
        self.load_state_dict(state)

    def to_device(self, images: np.ndarray) -> torch.Tensor:
        """Move ``(N, S, S, 3)`` uint8 to the network's device, still as bytes."""
        return torch.from_numpy(np.ascontiguousarray(images)).to(self.device, non_blocking=True)
