"""The onecycle schedule at any number of steps, also where torch itself divides by zero."""

import pytest
import torch

from cascade.config import TrainConfig
from cascade.training.optimization import make_schedule


@pytest.mark.parametrize("warmup", [0.0, 0.25, 0.9])
@pytest.mark.parametrize("steps", [1, 2, 4, 19])
def test_onecycle_runs_all_steps_and_anneals(steps, warmup):
    config = TrainConfig(learning_rate=0.1, warmup=warmup)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    schedule = make_schedule(optimizer, config, steps=steps)
    rates = [schedule.get_last_lr()[0]]
    for _ in range(steps):
        optimizer.step()
        schedule.step()
        rates.append(schedule.get_last_lr()[0])
    assert all(0 < rate <= 0.1 + 1e-9 for rate in rates)
    assert rates[-1] < 1e-5


def test_onecycle_warms_up_where_the_warmup_is_one_step_long():
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    schedule = make_schedule(optimizer, TrainConfig(learning_rate=0.1, warmup=0.2), steps=4)
    first = schedule.get_last_lr()[0]
    optimizer.step()
    schedule.step()
    assert first == pytest.approx(0.004)
    assert schedule.get_last_lr()[0] > 0.05
