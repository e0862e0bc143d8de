"""Grad-CAM: where in its crop a classifier finds what speaks for a class."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any, Self

import cv2
import numpy as np
import torch
from torch import nn

from cascade.config import CLASSES
from cascade.errors import ConfigError, MissingExtraError
from cascade.explain.layers import TargetLayer, find_layer, named_layer
from cascade.models.classifier import Classifier
from cascade.models.ensemble import ClassifierEnsemble

_LOCK = threading.RLock()
"""Held as long as a network is hooked: neither hooks nor switched-off gradients belong to a thread
of their own."""


class GradCAM:
    """Gradient-weighted class activation maps of a classifier (Selvaraju et al. 2017).

    What is explained are the log odds of a class, because the probability depends on nothing else.
    Within the ``with`` block the network is in evaluation mode and its weights have no gradients;
    afterwards it is as it was. Only one block is open at a time, other threads wait for theirs;
    predicting goes on meanwhile.

    >>> with GradCAM(classifier) as maps:  # doctest: +SKIP
    ...     maps.activation_map(crops, target="malignant")
    """

    def __init__(
        self, classifier: Classifier | ClassifierEnsemble, *, layer: str | None = None
    ) -> None:
        """Choose what to explain; nothing is hooked before the ``with`` block.

        Args:
            classifier: of any architecture of torchvision or timm, or an ensemble of them.
            layer: path of a layer within the network, such as ``features.17``; by default what
                suits the architecture, that is, the last layer whose output is a map.

        Raises:
            ConfigError: this is no classifier of torch.
        """
        if not isinstance(classifier, (Classifier, ClassifierEnsemble)):
            raise ConfigError(
                "Grad-CAM explains a Classifier or ClassifierEnsemble of torch, not a "
                f"{type(classifier).__name__}"
            )
        self.classifier = classifier
        self.layer = layer
        self._hooked: list[_HookedNetwork] = []
        self._opened = contextlib.ExitStack()

    def __enter__(self) -> Self:
        """Find the layers, freeze the networks and hook them.

        Raises:
            MissingExtraError: the library grad-cam is not installed.
            ConfigError: a network has no layer with a map, or was loaded in inference mode; or this
                block is open already.
        """
        if self._hooked:
            raise ConfigError("this GradCAM is open already; make another one")
        library = _import_library()
        with contextlib.ExitStack() as stack:
            stack.enter_context(_LOCK)
            stack.enter_context(_frozen(self.classifier))
            stack.callback(self._hooked.clear)
            for member, _ in _members(self.classifier):
                hooked = _HookedNetwork(library, member, _layer_of(member, self.layer))
                stack.callback(hooked.release)
                self._hooked.append(hooked)
            self._opened = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Remove all hooks and leave the networks as they were."""
        self._opened.close()

    def activation_map(self, images: np.ndarray, *, target: str = CLASSES[1]) -> np.ndarray:
        """Where the classifier finds what speaks for a class, and where what speaks against it.

        The channels of the layer, each weighted by the summed gradient of the class's log odds. For
        a network that ends in a mean over all places and one linear layer this is its class
        activation map (Zhou et al. 2016), whose mean is the log odds but for a constant. For an
        ensemble it is the weighted mean over the members.

        Args:
            images: ``(N, S, S, 3)`` uint8 RGB crops.
            target: ``benign`` or ``malignant``.

        Returns:
            ``(N, h, w)`` float32 log odds, not scaled; h and w are those of the layer.

        Raises:
            ConfigError: the target is no class, or this is not within the ``with`` block.
            ShapeError: the images are not uint8 RGB of the classifier's size.
        """
        if target not in CLASSES:
            raise ConfigError(f"target is {target!r}; choose from {', '.join(CLASSES)}")
        if not self._hooked:
            raise ConfigError("nothing is hooked yet; write: with GradCAM(classifier) as maps: ...")
        maps = [hooked.activation_map(images, target) for hooked in self._hooked]
        weights = [weight for _, weight in _members(self.classifier)]
        return _weighted_mean(maps, weights)


class _HookedNetwork:
    """One classifier whose layer hands its output through a probe of the library.

    The network itself carries one hook, which does nothing unless this very thread computes a map.
    """

    def __init__(self, library: Any, classifier: Classifier, layer: TargetLayer) -> None:
        self._classifier = classifier
        self._layer = layer
        self._probe = nn.Identity()
        self._thread: int | None = None
        self._library = library(classifier, [self._probe], layer.as_maps)
        self._hook = layer.module.register_forward_hook(self._through_probe)

    def release(self) -> None:
        """Remove the hooks."""
        self._hook.remove()
        self._library.activations_and_grads.release()

    def _through_probe(
        self, module: nn.Module, inputs: object, output: torch.Tensor
    ) -> torch.Tensor | None:
        if self._thread != threading.get_ident():
            return None
        # gradients begin here, so neither weights nor earlier layers are differentiated
        start = output.detach().relu() if self._layer.rectified else output.detach()
        seen: torch.Tensor = self._probe(start.requires_grad_())
        return seen.clone()  # the next layer may work in place

    def activation_map(self, images: np.ndarray, target: str) -> np.ndarray:
        """``(N, h, w)`` float32 log odds of the target."""
        recorded = self._library.activations_and_grads
        self._thread = threading.get_ident()
        try:
            with torch.inference_mode(False), torch.enable_grad():
                logits = self._classifier.calibrated(recorded(self._classifier.to_device(images)))
                index = CLASSES.index(target)
                log_odds = logits[:, index] - logits[:, 1 - index]
                if not log_odds.requires_grad:
                    raise ConfigError(
                        f"the layer {type(self._layer.module).__name__} does not change the class; "
                        "choose another one"
                    )
                log_odds.sum().backward()
            activations = recorded.activations[-1].float().numpy()
            gradients = recorded.gradients[-1].float().numpy()
        finally:
            self._thread = None
            recorded.clear()
        places = activations.shape[2] * activations.shape[3]
        # the library weighs by the mean of the gradient over all places; their sum keeps log odds
        maps = self._library.get_cam_image(images, self._probe, [], activations, gradients) * places
        return np.asarray(maps, np.float32)


def _import_library() -> Any:
    try:
        from pytorch_grad_cam import GradCAM as Library
    except ImportError as error:
        raise MissingExtraError(
            "Grad-CAM needs the library grad-cam: pip install 'cascade[explain]'"
        ) from error
    return Library


@contextlib.contextmanager
def _frozen(network: nn.Module) -> Iterator[None]:
    """Evaluation mode and weights without gradients; both restored, module by module."""
    if any(parameter.is_inference() for parameter in network.parameters()):
        raise ConfigError(
            "the classifier was made within torch.inference_mode, so nothing can be differentiated "
            "by it; load it outside"
        )
    training = {module: module.training for module in network.modules()}
    learning = [item for item in network.parameters() if item.requires_grad]
    network.eval()
    for parameter in learning:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)
        for module, state in training.items():
            module.training = state


def _members(classifier: Classifier | ClassifierEnsemble) -> list[tuple[Classifier, float]]:
    if isinstance(classifier, Classifier):
        return [(classifier, 1.0)]
    return list(zip(classifier.classifiers, classifier.weights, strict=True))


def _layer_of(classifier: Classifier, name: str | None) -> TargetLayer:
    if name is not None:
        return named_layer(classifier.network, name)
    blank = np.zeros((1, classifier.size, classifier.size, 3), np.uint8)
    return find_layer(classifier.network, lambda: classifier.predict_proba(blank))


def _weighted_mean(maps: Sequence[np.ndarray], weights: Sequence[float]) -> np.ndarray:
    """Mean of ``(N, h, w)`` maps, each brought to the finest of their sizes (bilinear)."""
    height, width = max(item.shape[1:] for item in maps)
    alike = [
        np.stack([cv2.resize(one, (width, height), interpolation=cv2.INTER_LINEAR) for one in item])
        for item in maps
    ]
    return np.asarray(np.average(alike, axis=0, weights=weights), np.float32)
