"""Do two processes of the service behind one port hold twice the rate of one?

    python benchmarks/load.py
    python benchmarks/load.py images/*.jpg --share 0.7 --seconds 30

Each process has one thread. uvicorn starts one, and two that share a socket. What one answers at
most is measured first; then, in turns, one process gets a share of that, two get twice as much, and
one gets as much as the two. Requests arrive at random moments whether or not earlier ones are
answered, each on a connection of its own; a latency counts from the moment at which a request was
due. The clients run on the same machine.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from serving import ROOT, Client, drawn_images

CLIENTS = 64
"""So many requests can be under way; a service refuses long before."""


@dataclass
class Load:
    """What became of the requests of one row of the table.

    Attributes:
        name: of the row.
        port: of the service.
        rate: requests a second.
        statuses: of all requests.
        seconds: of those that were answered.
    """

    name: str
    port: int
    rate: float
    statuses: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def send(self, images: Sequence[bytes], seconds: float, rng: np.random.Generator) -> None:
        """Send requests for some seconds, at random moments."""
        moments = np.cumsum(rng.exponential(1 / self.rate, max(1, round(seconds * self.rate))))
        start = time.perf_counter()

        def ask(number: int) -> tuple[int, float]:
            status, _ = Client(self.port, "").ask(images[number % len(images)])
            return status, time.perf_counter() - start - moments[number]

        with ThreadPoolExecutor(CLIENTS) as pool:
            calls = []
            for number, moment in enumerate(moments):
                time.sleep(max(0.0, start + moment - time.perf_counter()))
                calls.append(pool.submit(ask, number))
        answers = [call.result() for call in calls]
        self.statuses += [status for status, _ in answers]
        self.seconds += [spent for status, spent in answers if status == 200]

    def p95(self) -> float:
        """Milliseconds."""
        return float(np.quantile(self.seconds, 0.95)) * 1000 if self.seconds else float("nan")

    def show(self) -> None:
        """Print the row."""
        answered = len(self.seconds) / len(self.statuses)
        p50 = statistics.median(self.seconds) * 1000 if self.seconds else float("nan")
        print(f"{self.name:<22} {self.rate:>10.1f} {answered:>9.1%} {p50:>7.0f} {self.p95():>7.0f}")


@contextlib.contextmanager
def processes(count: int) -> Iterator[int]:
    """So many processes of the service behind one port, once all are ready; gives the port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "uvicorn", "--factory", "cascade.serving.rest.api:create_app"]
    child = subprocess.Popen(
        [*command, "--port", str(port), "--workers", str(count), "--log-level", "error"],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )
    try:
        wait_until_ready(child, port, answers=20 * count)
        yield port
    finally:
        child.terminate()
        child.wait(30)


def wait_until_ready(child: subprocess.Popen[bytes], port: int, *, answers: int) -> None:
    """Until so many connections in a row are answered, so that none of the processes is loading."""
    ready = 0
    for _ in range(3000):
        try:
            ready = ready + 1 if Client(port, "").is_ready() else 0
        except OSError:
            ready = 0
        if ready == answers:
            return
        if child.poll() is not None:
            break
        time.sleep(0.02)
    raise SystemExit("the service did not become ready")


def most(port: int, images: Sequence[bytes], seconds: float) -> float:
    """Answers a second when a request waits at any time."""
    end = time.perf_counter() + seconds

    def ask_on(number: int) -> int:
        answered = 0
        while time.perf_counter() < end:
            status, _ = Client(port, "").ask(images[(number + answered) % len(images)])
            answered += status == 200
        return answered

    with ThreadPoolExecutor(4) as pool:
        start = time.perf_counter()
        return sum(pool.map(ask_on, range(4))) / (time.perf_counter() - start)


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("images", nargs="*", type=Path, help="image files; without any, drawn ones")
    parser.add_argument("--share", type=float, default=0.6, help="of what one process answers")
    parser.add_argument("--seconds", type=float, default=15.0, help="of each turn")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each row")
    arguments = parser.parse_args()
    images = [path.read_bytes() for path in arguments.images] or drawn_images(8)
    rng = np.random.default_rng(0)
    with processes(1) as single, processes(2) as double:
        limit = most(single, images, arguments.seconds)
        rate = arguments.share * limit
        print(f"one process answers at most {limit:.1f} requests a second")
        rows = [
            Load("1 process", single, rate),
            Load("2 processes, twice", double, 2 * rate),
            Load("1 process, twice", single, 2 * rate),
        ]
        for _ in range(arguments.rounds):
            for row in rows:
                row.send(images, arguments.seconds, rng)
    print(f"{'':<22} requests/s  answered  p50 ms  p95 ms")
    for row in rows:
        row.show()
    print(f"p95 of two at twice the rate over p95 of one: {rows[1].p95() / rows[0].p95():.2f}")


if __name__ == "__main__":
    main()
