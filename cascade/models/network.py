"""What both torch networks share: a stage's file, its device, and prediction on arrays."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import nn

from cascade.errors import DeviceError, ModelFileError, ShapeError
from cascade.models.artifact import (
    Artifact,
    check_tensors,
    read_artifact,
    tensor_shapes,
    write_artifact,
)
from cascade.models.cores import usable_cores


def resolve_device(device: str = "auto") -> torch.device:
    """Turn ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps`` into a device that exists.

    ``auto`` takes CUDA where there is one, then Apple's MPS, else the CPU. Torch is left no more
    threads than :func:`cascade.models.cores.usable_cores`.

    Raises:
        DeviceError: the device asked for is unknown or absent; nothing is silently replaced.
    """
    torch.set_num_threads(min(torch.get_num_threads(), usable_cores()))
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise DeviceError(f"device {device!r} is unknown; use auto, cpu, cuda or cuda:N") from error
    if chosen.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (chosen.index or 0) >= count:
            raise DeviceError(
                f"device {device!r} was asked for, but torch sees {count} CUDA devices; "
                "use --device auto or --device cpu"
            )
    elif chosen.type == "mps" and not torch.backends.mps.is_available():
        raise DeviceError("device 'mps' was asked for, but it is not available here")
    elif chosen.type not in ("cpu", "mps"):
        raise DeviceError(f"device {device!r} is not supported; use auto, cpu, cuda or cuda:N")
    return chosen


def computes_in_bfloat16(device: torch.device) -> bool:
    """Whether the hardware of a device computes in bfloat16, rather than imitating it."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    supported = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    return device.type == "cpu" and bool(supported())


def describe_device(device: torch.device) -> str:
    """A device in words, such as ``cuda:0 (NVIDIA A100)``."""
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"{device.type} ({torch.get_num_threads()} threads)"


class Normalization(nn.Module):
    """Turns ``(N, S, S, 3)`` uint8 RGB into ``(N, 3, S, S)`` float32 around zero.

    Mean and standard deviation are buffers, so they travel with the weights and into exported
    graphs, and nothing outside a network ever normalises.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float], *, size: int) -> None:
        super().__init__()
        self.size = size
        self.register_buffer("mean", torch.tensor(list(mean)).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(list(std)).view(1, 3, 1, 1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Normalise a batch.

        Raises:
            ShapeError: the batch is not uint8 RGB at this network's size.
        """
        expected = (self.size, self.size, 3)
        if images.dtype != torch.uint8 or tuple(images.shape[1:]) != expected:
            raise ShapeError(
                f"a network takes uint8 RGB (N, {self.size}, {self.size}, 3), got "
                f"{tuple(images.shape)} {images.dtype}",
                expected=("N", *expected),
                actual=tuple(images.shape),
            )
        # permuting NHWC gives a channels_last tensor without a copy
        return (images.permute(0, 3, 1, 2).float() / 255.0 - self.mean) / self.std


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


@contextlib.contextmanager
def hooked(modules: Iterable[nn.Module], hook: Callable[..., None]) -> Iterator[None]:
    """Call ``hook(module, inputs, output)`` after each of the modules, within the block only."""
    handles = [module.register_forward_hook(hook) for module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class Network(nn.Module):
    """A stage as a torch module.

    Subclasses set ``stage``, build themselves from their settings, and name those in
    :meth:`describe`. ``provenance`` and ``metrics`` are written into the file beside the weights.

    Attributes:
        precision: of predictions: ``float32``, or ``bfloat16`` by autocast. Weights stay float32.
    """

    stage: ClassVar[str]
    runtime: ClassVar[str] = "torch"
    precision: str = "float32"
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

    @property
    def cores(self) -> int:
        """How many cores torch may use."""
        return torch.get_num_threads()

    @property
    def on_gpu(self) -> bool:
        """Whether a GPU computes."""
        return self.device.type != "cpu"

    def single_threaded(self) -> None:
        """``None``: torch computes with all its threads; see :class:`.protocol.Stage`."""

    @contextlib.contextmanager
    def predicting(self) -> Iterator[None]:
        """Evaluate without gradients, in the precision of :attr:`precision`."""
        lower = self.precision == "bfloat16"
        with (
            inference_mode(self),
            torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=lower),
        ):
            yield

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
        """Move ``(N, S, S, 3)`` uint8 to the network's device, still as bytes.

        A copy from pinned memory to CUDA does not wait for what the device computes.
        """
        pixels = torch.from_numpy(np.ascontiguousarray(images))
        if self.device.type == "cuda":
            pixels = pixels.pin_memory()
        return pixels.to(self.device, non_blocking=True)
