"""A training's parts as a checkpoint has them, also where the settings have changed since."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import torch

from cascade.errors import ConfigError
from cascade.training.optimization import Scheduler


def generators(device: torch.device) -> dict[str, torch.Tensor]:
    """The states of torch's random generators, from which dropout and the like are drawn.

    Samples are drawn from the seed, the epoch and their index, and need no state.
    """
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def set_generators(states: Mapping[str, torch.Tensor], device: torch.device) -> None:
    """Go on drawing where :func:`generators` found them; without states they stay."""
    if "cpu" in states:
        torch.set_rng_state(states["cpu"])
    if "cuda" in states and device.type == "cuda":
        torch.cuda.set_rng_state(states["cuda"], device)


def restore(
    parts: Mapping[str, Any], state: Mapping[str, Any], *, changed: Mapping[str, Any]
) -> None:
    """Bring network, optimiser, schedule and average back.

    Where settings have ``changed``, the weights go on, and with them what the optimiser and the
    average remember as far as it fits; rates and schedules are those of the new settings.

    Raises:
        ConfigError: the weights do not fit the changed settings.
    """
    if not changed:
        for name, part in parts.items():
            part.load_state_dict(state[name])
    else:
        _restore_changed(parts, state, changed)
    _lay_out(parts["optimizer"])


def _restore_changed(
    parts: Mapping[str, Any], state: Mapping[str, Any], changed: Mapping[str, Any]
) -> None:
    try:
        for name in ("network", "average"):
            if name in parts and name in state:
                parts[name].load_state_dict(state[name])
    except RuntimeError as error:
        raise ConfigError(
            "the weights of the stopped training do not fit the changed settings "
            f"({', '.join(changed)}); start a new one with another --output"
        ) from error
    if "average" in parts and "average" not in state:
        parts["average"].module.load_state_dict(state["network"])
    if "optimizer" in changed:
        return
    optimizer, before = parts["optimizer"], state["optimizer"]
    groups = optimizer.state_dict()["param_groups"]  # with the new rates
    if "plateau" in parts and "plateau" in state and "learning_rate" not in changed:
        parts["plateau"].load_state_dict(state["plateau"])
        for group, old in zip(groups, before["param_groups"], strict=True):
            group["lr"] = old["lr"]
    optimizer.load_state_dict({"state": before["state"], "param_groups": groups})


def _lay_out(optimizer: torch.optim.Optimizer) -> None:
    """Store what an optimiser remembers in the memory layout of its weights, as it was made."""
    for weight, memory in optimizer.state.items():
        for name, value in memory.items():
            if isinstance(value, torch.Tensor) and value.shape == weight.shape:
                memory[name] = torch.empty_like(weight, dtype=value.dtype).copy_(value)


def catch_up(schedule: Scheduler, steps: int) -> None:
    """Step a new schedule as often as the training has stepped."""
    with warnings.catch_warnings():  # the optimiser has stepped in another process
        warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step", UserWarning)
        for _ in range(steps):
            schedule.step()
