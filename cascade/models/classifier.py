"""The second stage: benign or malignant, judged on a masked crop."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch

from cascade.config import CLASSES, ClassifierConfig, from_dict, to_dict
from cascade.errors import ConfigError, ModelFileError
from cascade.lesion.masking import MaskPolicy
from cascade.models.architectures import (
    AUXILIARY_WEIGHTS,
    build_architecture,
    find_architecture,
    load_weights,
)
from cascade.models.network import Network, Normalization
from cascade.models.pretrained import HALF


class CalibratedNetwork(Network):
    """What one classifier and an ensemble share: how logits become probabilities and labels.

    Attributes:
        policy: how the crops that it is trained on are cut; the cascade cuts the same way.
        temperature: divides the logits before the softmax (Guo et al. 2017); 1 changes nothing.
        bias: added to the log odds of ``malignant`` (Platt 1999); 0 changes nothing.
        cutoff: probability of ``malignant`` from which the label is ``malignant``.
        operating_points: target sensitivity, as text such as ``"0.90"``, to its cutoff.
    """

    stage = "classifier"

    def __init__(self, policy: MaskPolicy) -> None:
        super().__init__()
        self.policy = policy
        self.temperature = 1.0
        self.bias = 0.0
        self.cutoff = 0.5
        self.operating_points: dict[str, float] = {}

    @property
    def is_calibrated(self) -> bool:
        """Whether :meth:`calibrated` changes the logits."""
        return (self.temperature, self.bias) != (1.0, 0.0)

    def calibrated(self, logits: torch.Tensor) -> torch.Tensor:
        """``(N, 2)`` logits as the softmax takes them; the only place that knows how.

        The softmax of the result is ``sigmoid(d / temperature + bias)`` for ``malignant``, with d
        the difference of the logits.
        """
        bias = torch.tensor([0.0, self.bias], device=logits.device)
        return logits.float() / self.temperature + bias

    def predict_proba(self, images: np.ndarray) -> np.ndarray:
        """``(N, S, S, 3)`` uint8 RGB to ``(N, 2)`` float32 probabilities that sum to 1."""
        with self.predicting():
            logits = self(self.to_device(images)).float()
            return self.calibrated(logits).softmax(dim=1).cpu().numpy()

    def _describe_use(self) -> dict[str, Any]:
        return {
            "classes": list(CLASSES),
            "policy": self.policy.to_dict(),
            "temperature": self.temperature,
            "bias": self.bias,
            "cutoff": self.cutoff,
            "operating_points": self.operating_points,
        }

    def _restore_use(self, description: Mapping[str, Any]) -> None:
        self.temperature = float(description["temperature"])
        self.bias = float(description.get("bias", 0.0))
        self.cutoff = float(description["cutoff"])
        self.operating_points = dict(description["operating_points"])


class Classifier(CalibratedNetwork):
    """Probabilities of ``benign`` and ``malignant`` for a masked crop.

    Attributes:
        config: what was built, with the architecture's full name and its size.
    """

    def __init__(
        self,
        config: ClassifierConfig,
        policy: MaskPolicy,
        network: torch.nn.Module,
        normalization: Normalization,
    ) -> None:
        super().__init__(policy)
        self.config = config
        self.normalization = normalization
        self.network = network
        self.auxiliary_weight = AUXILIARY_WEIGHTS.get(config.architecture.rpartition("/")[2], 0.0)

    @classmethod
    def build(
        cls, config: ClassifierConfig, *, policy: MaskPolicy | None = None, weights: str = "none"
    ) -> Self:
        """Build a classifier.

        Args:
            config: architecture and size.
            policy: how its crops are cut; by default the masked crop of :class:`MaskPolicy`.
            weights: ``imagenet`` downloads weights, ``none`` starts at random, else a local file.

        Raises:
            ConfigError: the architecture is unknown or cannot take images of this size.
            PretrainedWeightsError: the weights cannot be had or belong to another network.
        """
        architecture = find_architecture(config.architecture)
        size = config.size or architecture.default_size
        config = replace(config, architecture=str(architecture), size=size)
        network = build_architecture(
            architecture, size=size, dropout=config.dropout, fresh=weights == "none"
        )
        load_weights(network, architecture, weights)
        normalization = Normalization(*architecture.statistics, size=size)
        classifier = cls(config, policy or MaskPolicy(), network, normalization)
        classifier._check_size()
        named = weights if weights in ("none", "imagenet") else Path(weights).name
        classifier.provenance["weights"] = named
        return classifier.to(memory_format=torch.channels_last)

    def _check_size(self) -> None:
        """Try one image, so that an impossible size fails before training and not within."""
        blank = np.zeros((1, self.size, self.size, 3), np.uint8)
        try:
            self.predict_proba(blank)
        except (RuntimeError, ValueError, AssertionError) as error:  # timm asserts its patch size
            raise ConfigError(
                f"{self.config.architecture} cannot take images of {self.size} pixels: {error}"
            ) from error

    def at_size(self, size: int) -> Self:
        """The same weights with another input size, on the CPU, without calibration and cutoffs.

        A network that was trained on crops of varying scale may judge crops best that are a little
        larger than those (Touvron et al. 2019, arXiv:1906.06423).

        Args:
            size: side of the input in pixels.

        Raises:
            ConfigError: the architecture cannot take images of this size.
            ModelFileError: its weights belong to one size only.
        """
        other = type(self).build(replace(self.config, size=size), policy=self.policy)
        other._take_over(self, f"{self.config.architecture} at {size} pixels")
        other.provenance = dict(self.provenance)
        return other.eval()

    def describe(self) -> dict[str, Any]:
        """The classifier's settings as plain JSON values."""
        return {"config": to_dict(self.config), **self._describe_use()}

    @classmethod
    def from_description(cls, description: Mapping[str, Any]) -> Self:
        """An untrained classifier of the described architecture.

        Raises:
            ModelFileError: its classes are not benign, malignant in this order, or it is an
                ensemble.
        """
        if "ensemble" in description:
            raise ModelFileError(
                f"the model is an ensemble of {len(description['ensemble'])} classifiers, not "
                "a single one; a training goes on from one, such as fold_0/best.safetensors"
            )
        if tuple(description["classes"]) != CLASSES:
            raise ModelFileError(
                f"the model's classes are {description['classes']}, not {list(CLASSES)}"
            )
        config = from_dict(ClassifierConfig, description["config"])
        architecture = find_architecture(config.architecture)
        size = config.size or architecture.default_size
        network = build_architecture(architecture, size=size, dropout=config.dropout, fresh=False)
        policy = MaskPolicy.from_dict(description["policy"])
        classifier = cls(config, policy, network, Normalization(HALF, HALF, size=size))
        classifier._restore_use(description)
        return classifier

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """``(N, S, S, 3)`` uint8 RGB to ``(N, 2)`` float logits."""
        return self.forward_with_auxiliary(images)[0]

    def forward_with_auxiliary(
        self, images: torch.Tensor
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        """Logits, and those of the auxiliary heads that Inception and GoogLeNet train with."""
        outputs = self.network(self.normalization(images))
        if isinstance(outputs, torch.Tensor):
            return outputs, ()
        logits, *auxiliary = outputs
        return logits, tuple(item for item in auxiliary if item is not None)
