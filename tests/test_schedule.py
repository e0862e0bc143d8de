"""Learning-rate schedules work for any length of training."""

import pytest

from cascade.config import TrainConfig


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5, 9, 10, 99])
@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.2, 0.5, 0.9])
def test_onecycle_stays_within_the_learning_rate_and_ends_near_zero(steps, warmup):
    torch = pytest.importorskip("torch")
    from cascade.training.optimization import make_schedule

    config = TrainConfig(schedule="onecycle", warmup=warmup, learning_rate=0.01)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.01)
    schedule = make_schedule(optimizer, config, steps=steps)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert all(0 <= rate <= 0.01 + 1e-12 for rate in rates)
    assert optimizer.param_groups[0]["lr"] < 0.0001
