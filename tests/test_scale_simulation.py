"""The simulation of clusters agrees with what can be computed by hand."""

import importlib
import math
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture
def simulation(monkeypatch):
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks"))
    return importlib.import_module("scale_simulation")


@pytest.fixture
def setting(simulation):
    """A hundred images in each of 32 shards, two for each worker; nothing goes wrong."""

    def make(**changes):
        plain = {"images": 3200, "image_s": 0.1, "image_deviation_s": 0.0, "shard_rows": 100,
                 "start_s": 0.0, "dispatch_s": 0.0, "workers": 16}  # fmt: skip
        return simulation.Setting(**{**plain, **changes})

    return make


def test_one_node_without_trouble_loses_nothing(simulation, setting):
    assert simulation.makespan(setting(), 1) == pytest.approx(20)
    assert simulation.efficiency(setting(), 1) == pytest.approx(1)


def test_the_start_is_added_once(simulation, setting):
    assert simulation.efficiency(setting(start_s=5.0), 1) == pytest.approx(20 / 25)


def test_workers_without_a_task_wait(simulation, setting):
    assert simulation.efficiency(setting(), 4) == pytest.approx(0.5), "32 shards, 64 workers"
    # three tasks of two workers: the second round is half empty
    three = setting(images=300, workers=2)
    assert simulation.efficiency(three, 1) == pytest.approx(0.75)
    # 32 shards in 8 tasks are more than 16 workers can share
    assert simulation.efficiency(setting(most_tasks=8), 1) == pytest.approx(0.5)


def test_the_driver_hands_out_one_task_at_a_time(simulation, setting):
    slow = setting(dispatch_s=30.0)
    assert simulation.makespan(slow, 1) == pytest.approx(32 * 30 + 10)


def test_a_slow_node_takes_its_factor_longer(simulation, setting):
    slow = setting(slow_share=1.0, slow_factor=2.0)
    assert simulation.efficiency(slow, 1) == pytest.approx(0.5)
    # one of two is: it does one shard on each worker while the other would do two
    half = setting(slow_share=0.5, slow_factor=2.0, images=4800)
    assert simulation.makespan(half, 2) == pytest.approx(20)


def test_a_short_last_shard_takes_less(simulation, setting):
    assert simulation.makespan(setting(images=150, workers=1), 1) == pytest.approx(15)


@pytest.mark.parametrize("shards_a_task", [1, 10])
def test_lost_shards_are_done_again_as_often_as_expected(simulation, setting, shards_a_task):
    """A stretch of s seconds that begins again after each loss takes (exp(rate s) - 1) / rate."""
    shards, rate = 4000, 1 / 20
    lost = setting(
        images=shards * 100, workers=1, preemptions=3600 * rate, replacement_s=0.0,
        most_tasks=shards // shards_a_task,
    )  # fmt: skip
    expected = shards * (math.exp(rate * 10) - 1) / rate
    assert simulation.makespan(lost, 1) == pytest.approx(expected, rel=0.04)


def test_the_same_seed_gives_the_same_run(simulation, setting):
    lost = setting(images=32_000, preemptions=50.0, image_deviation_s=0.05)
    first, again, other = (simulation.makespan(lost, 2, seed=seed) for seed in (1, 1, 2))
    assert first == again != other


def test_it_says_until_where_nine_tenths_are_reached(simulation):
    assert simulation.enough_until({1: 1.0, 10: 0.9, 100: 0.89, 1000: 0.95}) == 10
    assert simulation.enough_until({1: 0.5}) == 0


def test_a_table_and_a_picture_are_made(simulation, setting, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(simulation, "SCENARIOS", {"small": setting()})
    monkeypatch.setattr("sys.argv", ["scale_simulation.py", "--plot", str(tmp_path / "a.png")])
    simulation.main()
    printed = capsys.readouterr().out
    assert "small" in printed
    assert printed.splitlines()[1].split()[1:3] == ["1.000", "0.200"]
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
