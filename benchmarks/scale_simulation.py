"""How well do 1 to 1,000 machines work at one run of `cascade predict --engine ray`?

A simulation of its actors with measured service times: shards in tasks, a driver that hands them
out one after the other, slow machines, machines that are taken away, and the shard that is lost
then. Efficiency is the time that the images take on healthy workers, over the time of the run.
docs/scale.md says what it gives and where its numbers come from.

    python benchmarks/scale_simulation.py --plot scale.png
"""

from __future__ import annotations

import argparse
import dataclasses
import heapq
import itertools
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

NODES = (1, 2, 5, 10, 20, 30, 40, 50, 60, 80, 100, 125, 150, 200, 300, 400, 500, 700, 1000)
ENOUGH = 0.9


@dataclass(frozen=True)
class Setting:
    """One run and its cluster.

    Attributes:
        images: of the run.
        image_s: seconds of one image on one core.
        image_deviation_s: its standard deviation.
        shard_rows: images in a shard, of which a worker that is taken away loses one.
        most_tasks: tasks that the run is divided into at most; shards of a task stay together.
        workers: of each node, one core each.
        start_s: seconds until the first worker works.
        dispatch_s: seconds of the driver for each task.
        slow_share: share of the nodes that are slow, from the beginning to the end.
        slow_factor: by which they are slow.
        preemptions: of each node and hour.
        replacement_s: seconds until another node is there and works.
    """

    images: int = 10_000_000
    image_s: float = 1 / 17.34
    image_deviation_s: float = 0.022
    shard_rows: int = 256
    most_tasks: int = 10_000
    workers: int = 16
    start_s: float = 6.0
    dispatch_s: float = 0.0049
    slow_share: float = 0.0
    slow_factor: float = 2.0
    preemptions: float = 0.0
    replacement_s: float = 120.0

    @property
    def shards(self) -> int:
        """Number of shards."""
        return math.ceil(self.images / self.shard_rows)


SMALL = Setting()
LARGE = dataclasses.replace(SMALL, image_s=1 / 12.61, image_deviation_s=0.024)
TROUBLED = dataclasses.replace(SMALL, slow_share=0.05, preemptions=0.2)
SCENARIOS = {
    "1 MP": SMALL,
    "12 MP": LARGE,
    "1 MP, 5 % of the nodes half as fast": dataclasses.replace(TROUBLED, preemptions=0.0),
    "1 MP, a node is taken away every 5 hours": dataclasses.replace(TROUBLED, slow_share=0.0),
    "1 MP, both": TROUBLED,
    "1 MP, both, shards of 1,000": dataclasses.replace(TROUBLED, shard_rows=1000),
    "1 MP, both, 100 million in shards of 2,560": dataclasses.replace(
        TROUBLED, images=100_000_000, shard_rows=2560
    ),
    "1 MP, both, each shard a task": dataclasses.replace(TROUBLED, most_tasks=10**9),
}


def makespan(setting: Setting, nodes: int, *, seed: int = 0) -> float:
    """Seconds from the start of a run to its last row."""
    return _Simulation(setting, nodes, np.random.default_rng(seed)).last_row()


class _Simulation:
    """A free worker takes the next task from the driver, which hands out one at a time.

    A node that is taken away loses the shards under way. Finished ones stay, and what is left of
    its tasks is begun again by others, first of all.
    """

    def __init__(self, setting: Setting, nodes: int, generator: np.random.Generator) -> None:
        self.setting, self.generator = setting, generator
        self.speeds = np.ones(nodes)
        self.speeds[: round(setting.slow_share * nodes)] = setting.slow_factor
        self.waiting = _tasks(setting, generator)
        self.left = setting.shards
        self.driver_free = self.last = 0.0
        self.running: dict[int, tuple[float, np.ndarray]] = {}  # by worker: begin, ends of shards
        self.idle: set[int] = set()
        self.lives = [0] * nodes
        self.order = itertools.count()
        self.events: list[tuple[float, int, str, int, int]] = []
        for node in range(nodes):
            self._arrive(node, setting.start_s)
            self._leave_some_time(node, 0.0)

    def last_row(self) -> float:
        """Run until no shard is left."""
        while self.left:
            now, _, kind, place, life = heapq.heappop(self.events)
            if kind == "leaves":
                self._lose(place, now)
            elif life == self.lives[place // self.setting.workers]:  # else the node was replaced
                if kind == "finishes":
                    self.left -= len(self.running.pop(place)[1])
                    self.last = now
                self.idle.add(place)
            while self.waiting and self.idle:
                self._give(self.idle.pop(), now)
        return self.last

    def _note(self, when: float, kind: str, place: int, life: int = 0) -> None:
        heapq.heappush(self.events, (when, next(self.order), kind, place, life))

    def _workers_of(self, node: int) -> range:
        return range(node * self.setting.workers, (node + 1) * self.setting.workers)

    def _arrive(self, node: int, when: float) -> None:
        for worker in self._workers_of(node):
            self._note(when, "arrives", worker, self.lives[node])

    def _leave_some_time(self, node: int, now: float) -> None:
        if self.setting.preemptions:
            hours = self.generator.exponential(1 / self.setting.preemptions)
            self._note(now + 3600 * float(hours), "leaves", node)

    def _give(self, worker: int, now: float) -> None:
        node = worker // self.setting.workers
        self.driver_free = max(self.driver_free, now) + self.setting.dispatch_s
        ends = self.driver_free + np.cumsum(self.waiting.pop() * self.speeds[node])
        self.running[worker] = self.driver_free, ends
        self._note(float(ends[-1]), "finishes", worker, self.lives[node])

    def _lose(self, node: int, now: float) -> None:
        for worker in self._workers_of(node):
            self.idle.discard(worker)
            if worker in self.running:
                begun, ends = self.running.pop(worker)
                self.left -= int((ends <= now).sum())
                self.waiting.append(np.diff(ends, prepend=begun)[ends > now] / self.speeds[node])
        self.lives[node] += 1
        self._arrive(node, now + self.setting.replacement_s)
        self._leave_some_time(node, now)


def efficiency(setting: Setting, nodes: int, *, seed: int = 0) -> float:
    """Share of the nodes' time that goes into images, as healthy workers take for them."""
    useful = setting.images * setting.image_s
    return useful / (nodes * setting.workers * makespan(setting, nodes, seed=seed))


def _tasks(setting: Setting, generator: np.random.Generator) -> list[np.ndarray]:
    """For each task the seconds of its shards on a healthy worker, the last task first."""
    rows = np.full(setting.shards, setting.shard_rows)
    rows[-1] = setting.images - setting.shard_rows * (setting.shards - 1)
    noise = generator.normal(size=setting.shards) * np.sqrt(rows) * setting.image_deviation_s
    seconds = np.maximum(rows * setting.image_s * 0.1, rows * setting.image_s + noise)
    return np.array_split(seconds, min(setting.shards, setting.most_tasks))[::-1]


def enough_until(efficiencies: dict[int, float]) -> int:
    """The most nodes up to which efficiency stays at 90 % or above; 0 where it never is."""
    fine = itertools.takewhile(lambda item: item[1] >= ENOUGH, sorted(efficiencies.items()))
    return max((nodes for nodes, _ in fine), default=0)


def main() -> None:
    """Simulate all scenarios, print a table and draw it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--plot", type=Path, default=None, help="PNG file to draw")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    found = {
        name: {nodes: efficiency(setting, nodes, seed=arguments.seed) for nodes in NODES}
        for name, setting in SCENARIOS.items()
    }
    shown = (1, 10, 50, 100, 200, 500, 1000)
    print("efficiency by nodes".ljust(46) + "".join(f"{n:>7}" for n in shown) + "  >= 90 % until")
    for name, values in found.items():
        numbers = "".join(f"{values[nodes]:>7.3f}" for nodes in shown)
        print(f"{name:<46}{numbers}{enough_until(values):>10} nodes")
    if arguments.plot:
        draw(found, arguments.plot)


def draw(found: dict[str, dict[int, float]], path: Path) -> None:
    """One line for each scenario."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for name, values in found.items():
        axes.plot(list(values), list(values.values()), marker=".", label=name)
    axes.axhline(ENOUGH, color="grey", linestyle=":")
    axes.set(xscale="log", xlabel="nodes of 16 cores", ylabel="efficiency", ylim=(0, 1.02))
    axes.legend(fontsize="small", loc="lower left")
    figure.savefig(path, dpi=100, metadata={"Software": None})


if __name__ == "__main__":
    main()
