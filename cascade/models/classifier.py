"""The second stage: benign or malignant, judged on a masked crop."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import nn

from cascade.config import CLASSES, ClassifierConfig, from_dict, to_dict
from cascade.errors import ConfigError, ModelFileError
from cascade.lesion.masking import MaskPolicy
from cascade.models.architectures import (
    AUXILIARY_WEIGHTS,
    build_architecture,
    find_architecture,
    last_layer,
    load_weights,
)
from cascade.models.network import Network, Normalization, hooked
from cascade.models.pretrained import HALF
from cascade.reliability import Diagnoses


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

    @property
    def diagnoses(self) -> Diagnoses | None:
        """The diagnoses that it tells apart; ``None`` where it tells none."""
        raise NotImplementedError

    def forward_with_shares(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits as the network gives them, and ``(N, K)`` shares of its diagnoses."""
        raise NotImplementedError

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

    def predict_with_shares(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The same, and ``(N, K)`` float32 shares of each diagnosis within its class.

        Only for a classifier that tells diagnoses; see :class:`cascade.reliability.Diagnoses`.
        """
        with self.predicting():
            logits, shares = self.forward_with_shares(self.to_device(images))
            probabilities = self.calibrated(logits).softmax(dim=1)
            return probabilities.cpu().numpy(), shares.cpu().numpy()

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
        diagnosis_head: from the features before the last layer to the logits of the diagnoses;
            ``None`` where it tells none.
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
        self.diagnosis_head: nn.Linear | None = None
        self._diagnoses: Diagnoses | None = None

    @property
    def diagnoses(self) -> Diagnoses | None:
        """The diagnoses that it tells apart; ``None`` where it tells none."""
        return self._diagnoses

    def set_diagnoses(self, diagnoses: Diagnoses | None) -> None:
        """Give the classifier an untrained layer for these diagnoses, or take its layer away.

        A layer for the same diagnoses stays as it is.

        Raises:
            ConfigError: the network does not end in a linear layer.
        """
        before, self._diagnoses = self._diagnoses, diagnoses
        if diagnoses is None:
            self.diagnosis_head = None
        elif before is None or before.names != diagnoses.names:
            last = last_layer(self.network, self.config.architecture)
            head = nn.Linear(last.in_features, len(diagnoses.names))
            self.diagnosis_head = head.to(self.device)

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

    def _take_over(self, other: Network, source: str) -> None:
        if isinstance(other, Classifier):
            self.set_diagnoses(other.diagnoses)
        super()._take_over(other, source)

    def describe(self) -> dict[str, Any]:
        """The classifier's settings as plain JSON values."""
        told = {} if self.diagnoses is None else {"diagnoses": self.diagnoses.describe()}
        return {"config": to_dict(self.config), **self._describe_use(), **told}

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
        classifier.set_diagnoses(Diagnoses.from_description(description.get("diagnoses")))
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

    def forward_with_features(
        self, images: torch.Tensor
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, ...], torch.Tensor]:
        """The same, and the features ``(N, D)`` that the last layer makes the logits of.

        Raises:
            ConfigError: the network does not end in a linear layer.
        """
        seen: list[torch.Tensor] = []
        last = last_layer(self.network, self.config.architecture)
        with hooked([last], lambda _, inputs, __: seen.append(inputs[0])):
            logits, auxiliary = self.forward_with_auxiliary(images)
        return logits, auxiliary, seen[0]

    def forward_with_shares(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits ``(N, 2)``, and ``(N, K)`` shares of each diagnosis within its class."""
        if self.diagnosis_head is None or self.diagnoses is None:
            raise ConfigError("this classifier tells no diagnoses; see cascade fit-diagnoses")
        logits, _, features = self.forward_with_features(images)
        told = self.diagnosis_head(features).float()
        benign = len(self.diagnoses.benign)
        parts = (told[:, :benign], told[:, benign:])
        return logits, torch.cat([part.softmax(dim=1) for part in parts], dim=1)
