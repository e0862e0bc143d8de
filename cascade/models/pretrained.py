"""Pretrained weights: downloaded when asked for, or read from a local file.

A network connection is opened for ``imagenet`` only. Without a network it fails within seconds and
says what to do.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from cascade.errors import HubError, PretrainedWeightsError
from cascade.models.hub import require_answer

Result = TypeVar("Result")
log = logging.getLogger(__name__)
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5)
NETWORK_TIMEOUT_S = 3.0
_ADVICE = (
    "use --encoder_weights none to start from random weights, or --encoder_weights FILE with "
    "weights that you downloaded elsewhere"
)
_HEADS = ("classifier", "fc", "head", "last_linear", "AuxLogits", "aux1", "aux2", "heads", "linear")


def download(url: str, fetch: Callable[[], Result], *, cached: bool) -> Result:
    """Run ``fetch`` after checking that its server answers.

    ``url`` is on the server that ``fetch`` will talk to, which is not needed for what is cached.

    Raises:
        PretrainedWeightsError: the server cannot be reached within a few seconds.
    """
    if not cached:
        _require_server(url)
    try:
        return fetch()
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        raise PretrainedWeightsError(f"ImageNet weights: {error}; {_ADVICE}") from error


def _require_server(url: str) -> None:
    log.info("downloading ImageNet weights from %s", url)
    try:
        require_answer(url, timeout_s=NETWORK_TIMEOUT_S)
    except HubError as error:
        raise PretrainedWeightsError(
            f"ImageNet weights cannot be downloaded: {error}; {_ADVICE}"
        ) from error


def hub_file(repository: str, filename: str, revision: str | None = None) -> str:
    """Path of a file of a Hugging Face repository, from the local cache or downloaded."""
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    cached = isinstance(try_to_load_from_cache(repository, filename, revision=revision), str)
    return download(
        f"https://huggingface.co/{repository}",
        lambda: hf_hub_download(
            repository, filename, revision=revision, local_files_only=cached, etag_timeout=5
        ),
        cached=cached,
    )


def read_weights(path: str) -> dict[str, torch.Tensor]:
    """Read a state dict from ``.safetensors``, or from ``.pth``/``.pt`` without running its code.

    Raises:
        PretrainedWeightsError: the file is missing, holds anything but tensors, or is damaged.
    """
    if not Path(path).is_file():
        raise PretrainedWeightsError(
            f"{path}: there is no such file; {_ADVICE}, or imagenet to download them"
        )
    try:
        if path.endswith(".safetensors"):
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except SafetensorError as error:
        raise PretrainedWeightsError(f"{path}: is damaged ({error})") from error
    except Exception as error:  # torch raises many types for a hostile pickle
        raise PretrainedWeightsError(
            f"{path}: refused, it holds something other than tensors or is damaged "
            f"({type(error).__name__}); convert it to .safetensors"
        ) from error
    state = state.get("state_dict", state) if isinstance(state, Mapping) else state
    if not isinstance(state, Mapping) or not all(
        isinstance(value, torch.Tensor) for value in state.values()
    ):
        raise PretrainedWeightsError(f"{path}: is not a dictionary of tensors (a state dict)")
    return dict(state)


def load_backbone(module: torch.nn.Module, state: Mapping[str, torch.Tensor], source: str) -> None:
    """Load pretrained tensors into a network whose last layers may be new.

    Tensors of the classification head may be absent or of another shape; anything else must fit.

    Raises:
        PretrainedWeightsError: the tensors belong to another network; the differences are listed.
    """
    own = module.state_dict()
    fitting = {
        name: value
        for name, value in state.items()
        if name in own and own[name].shape == value.shape
    }
    problems = [
        name
        for name in sorted(set(own) | set(state))
        if name not in fitting
        and not name.startswith(_HEADS)
        and not name.endswith("num_batches_tracked")
    ]
    if problems:
        raise PretrainedWeightsError(
            f"{source}: {len(problems)} tensors do not fit this network, for instance "
            f"{', '.join(problems[:4])}; these weights belong to another architecture"
        )
    torch.nn.Module.load_state_dict(module, fitting, strict=False)


_TOP = {
    "_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2",
    "_fc": "classifier",
}  # fmt: skip
_SQUEEZE = {"_se_reduce": "se.conv_reduce", "_se_expand": "se.conv_expand"}
_EXPANDING = {
    "_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2",
    "_project_conv": "conv_pwl", "_bn2": "bn3", **_SQUEEZE,
}  # fmt: skip
_SEPARABLE = {  # the first blocks do not expand
    "_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2",
    **_SQUEEZE,
}  # fmt: skip


def timm_layout(state: Mapping[str, torch.Tensor], network: nn.Module) -> dict[str, torch.Tensor]:
    """Give tensors in efficientnet-pytorch's layout the names of timm's; leave others alone.

    efficientnet-pytorch counts all blocks through, timm counts them within their stage.

    Returns:
        The same tensors. A name that has no counterpart is kept, for :func:`load_backbone` to
        refuse.
    """
    if "_conv_stem.weight" not in state or not isinstance(
        stages := getattr(network, "blocks", None), nn.Sequential
    ):
        return dict(state)
    places = [(s, b) for s, stage in enumerate(stages) for b in range(len(list(stage.children())))]
    expanding = {name.split(".")[1] for name in state if "._expand_conv." in name}
    renamed = {}
    for name, value in state.items():
        module, _, rest = name.partition(".")
        if module != "_blocks":
            renamed[f"{_TOP.get(module, module)}.{rest}"] = value
            continue
        number, part, leaf = rest.split(".", 2)
        words = _EXPANDING if number in expanding else _SEPARABLE
        if int(number) < len(places) and part in words:
            stage, block = places[int(number)]
            name = f"blocks.{stage}.{block}.{words[part]}.{leaf}"
        renamed[name] = value
    return renamed
