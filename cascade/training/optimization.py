"""Optimiser, learning-rate schedule, arithmetic and weight averaging from the settings."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from cascade.config import TrainConfig
from cascade.models.network import computes_in_bfloat16

Scheduler = torch.optim.lr_scheduler.LRScheduler


def make_optimizer(network: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """The optimiser; biases and normalisation layers are not decayed.

    ``momentum`` is sgd's momentum and the beta1 of adam and adamw.
    """
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for parameter in network.parameters():
        (decayed if parameter.ndim > 1 else plain).append(parameter)
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    fused = all(item.device.type in ("cpu", "cuda") for item in (*decayed, *plain))
    rate, momentum = config.learning_rate, config.momentum
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=rate, momentum=momentum, fused=fused)
    kind = torch.optim.Adam if config.optimizer == "adam" else torch.optim.AdamW
    return kind(groups, lr=rate, betas=(momentum, 0.999), fused=fused)


def make_schedule(
    optimizer: torch.optim.Optimizer, config: TrainConfig, *, steps: int
) -> Scheduler | None:
    """The schedule that is stepped after every optimiser step; ``plateau`` has none."""
    schedules = torch.optim.lr_scheduler
    if config.schedule == "onecycle":
        return schedules.OneCycleLR(
            optimizer,
            max_lr=config.learning_rate,
            total_steps=steps + 1,
            # a hair more, because torch divides by zero where the rise lasts exactly one step
            pct_start=config.warmup + 1e-9,
            cycle_momentum=False,
        )
    if config.schedule == "cosine":
        return schedules.CosineAnnealingLR(optimizer, T_max=steps)
    if config.schedule == "step":
        return schedules.MultiStepLR(optimizer, [int(steps * 0.6), int(steps * 0.85)])
    return None


def make_plateau(
    optimizer: torch.optim.Optimizer, config: TrainConfig
) -> torch.optim.lr_scheduler.ReduceLROnPlateau | None:
    """The schedule that is stepped after every validation, for ``plateau``."""
    if config.schedule != "plateau":
        return None
    patience = max(1, config.patience // 3) if config.patience else 3
    return torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, mode="max", patience=patience)


def make_average(network: nn.Module, config: TrainConfig) -> AveragedModel | None:
    """An exponential moving average of weights and batch statistics, if asked for.

    Its memory starts short and grows to what was asked for: the decay after n updates is
    ``min(average, (1 + n) / (2 + average_power + n))``. Else the first epochs would be judged by
    the network that training began with. While the second term is the smaller one, update n counts
    as n to ``average_power`` (polynomial-decay averaging: Shamir and Zhang 2013,
    arXiv:1212.1824). A power of 8 is the ramp of TensorFlow's ``ExponentialMovingAverage`` with
    ``num_updates``; a low power with a decay near 1 averages along the way, as stochastic weight
    averaging does (Izmailov et al. 2018, arXiv:1803.05407).
    """
    if not config.average:
        return None

    def update(averaged: Any, current: Any, count: Any) -> None:
        ramp = (1 + int(count)) / (2 + config.average_power + int(count))
        get_ema_multi_avg_fn(min(config.average, ramp))(averaged, current, count)

    return AveragedModel(network, multi_avg_fn=update, use_buffers=True)


def autocast(config: TrainConfig, device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """bf16 autocast where asked for, or where the hardware computes in it."""
    auto = config.precision == "auto" and computes_in_bfloat16(device)
    wanted = config.precision == "bf16" or auto
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=wanted)
