"""Finding what a class activation map is made of: the last feature maps and the linear layer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from cascade.config import CLASSES
from cascade.models.classifier import Classifier
from cascade.models.ensemble import ClassifierEnsemble
from cascade.models.network import hooked, inference_mode

_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Head:
    """How a classifier's logits come from its last feature maps: their mean, then a linear layer.

    ``rectified`` cuts negative values of the output before the mean; ``share`` is the factor of a
    map that is one of several.
    """

    layer: nn.Module
    rectified: bool
    linear: nn.Linear
    share: float = 1.0

    def maps(self, output: torch.Tensor) -> torch.Tensor:
        """``(N, C, h, w)`` output of the layer to ``(N, 2, h, w)`` maps of the classes."""
        features = functional.relu(output) if self.rectified else output
        weight = self.linear.weight[:, :, None, None] * self.share
        return functional.conv2d(features.float(), weight)


def find_heads(classifier: Classifier | ClassifierEnsemble) -> tuple[Head, ...]:
    """The head of a classifier, or of each member of an ensemble.

    An ensemble's map is the mean of its members' maps with their weights, each divided by its
    member's temperature.

    Returns:
        Nothing if a network ends in another way, or the members' maps differ in size.
    """
    if isinstance(classifier, Classifier):
        found = _find(classifier)
        return () if found is None else (found[0],)
    heads: list[Head] = []
    sizes = set()
    for member, weight in zip(classifier.classifiers, classifier.weights, strict=True):
        found = _find(member)
        if found is None:
            return ()
        head, size = found
        heads.append(Head(head.layer, head.rectified, head.linear, weight / member.temperature))
        sizes.add(size)
    return tuple(heads) if len(sizes) == 1 else ()


def _find(classifier: Classifier) -> tuple[Head, tuple[int, int]] | None:
    """The head, and height and width of its maps, from one pass over noise."""
    maps: list[tuple[nn.Module, torch.Tensor]] = []
    last: list[tuple[nn.Linear, torch.Tensor]] = []

    def keep(module: nn.Module, given: tuple[torch.Tensor, ...], output: object) -> None:
        if isinstance(module, nn.Linear) and module.out_features == len(CLASSES):
            last.append((module, given[0]))
        if isinstance(output, torch.Tensor) and output.ndim == 4:
            maps.append((module, output))

    noise = np.random.default_rng(0).integers(
        0, 256, (2, classifier.size, classifier.size, 3), dtype=np.uint8
    )
    with hooked(classifier.network.modules(), keep), inference_mode(classifier):
        logits = classifier(classifier.to_device(noise))
        if not last:
            return None
        linear, pooled = last[-1]
        fitting = [
            (layer, output)
            for layer, output in reversed(maps)
            if output.shape[:2] == pooled.shape and output[0, 0].numel() > 1
        ]
        for layer, output in fitting:
            for rectified in (False, True):
                head = Head(layer, rectified, linear)
                if _explains(head, output, logits):
                    return head, (output.shape[2], output.shape[3])
    return None


def _explains(head: Head, output: torch.Tensor, logits: torch.Tensor) -> bool:
    """Whether the logits are what the head makes of a layer's output."""
    mean = head.maps(output).mean(dim=(2, 3))
    bias = 0.0 if head.linear.bias is None else head.linear.bias
    return torch.allclose(mean + bias, logits.float(), atol=_TOLERANCE)
