"""Time and memory of ``cascade serve``: one image after the other, then several at once.

    python benchmarks/serving.py --runtime onnx --threads 1 --address_space_mb 1024
    python benchmarks/serving.py images/*.jpg --model models/default.safetensors
    python benchmarks/serving.py --runtime onnx --threads 2 --rounds 5

Without images it draws some of 600 x 450 pixels. The service runs in a process of its own on a
free port of this machine; ``--address_space_mb`` is a hard limit on its virtual memory, as
``ulimit -v``. With ``--rounds`` the service and ``Cascade.predict_iter`` over the same files take
turns: images a second of both, and the latency of a client that is alone. ``--against`` lets the
service of another clone take turns with them.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cascade.data.synthetic import draw_lesion
from cascade.imaging import encode_image

ROOT = Path(__file__).resolve().parents[1]


@dataclass
class Service:
    """A running service.

    Attributes:
        process: its process.
        port: where it listens.
        ready_s: seconds from its start until it predicted its first image.
    """

    process: subprocess.Popen[str]
    port: int
    ready_s: float

    def memory_mb(self, line: str = "VmHWM") -> float:
        """Resident memory in MB: ``VmHWM`` at its highest, ``VmRSS`` now."""
        text = Path(f"/proc/{self.process.pid}/status").read_text(encoding="utf-8")
        found = next(item for item in text.splitlines() if item.startswith(line))
        return int(found.split()[1]) * 1024 / 1e6


@contextlib.contextmanager
def running(
    flags: Sequence[str], *, address_space_mb: int | None = None, root: Path = ROOT
) -> Iterator[Service]:
    """Start the service of a clone, wait until it is ready, and end it afterwards."""

    def limit() -> None:
        if address_space_mb is not None:
            size = address_space_mb * 2**20
            resource.setrlimit(resource.RLIMIT_AS, (size, size))

    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "cascade", "serve", "--port", "0", *flags],
        stderr=subprocess.PIPE,
        text=True,
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
        preexec_fn=limit,
    )
    try:
        port = wait_until_ready(process)
        yield Service(process, port, time.perf_counter() - start)
    finally:
        process.terminate()
        process.wait(30)


def wait_until_ready(process: subprocess.Popen[str]) -> int:
    """Read the log until the model is loaded; returns the port."""
    port, lines = 0, []
    for line in process.stderr or ():
        lines.append(line)
        if line.startswith("listening on "):
            port = int(line.split(",")[0].rsplit(":", 1)[1])
        if line.startswith("ready: "):
            break
    else:
        raise SystemExit("the service did not start:\n" + "".join(lines))
    # the log is read on, or the pipe would fill and stop the service
    threading.Thread(target=process.communicate, daemon=True).start()
    return port


class Client:
    """One connection."""

    def __init__(self, port: int, query: str) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
        self._path = "/v1/predict" + (f"?{query}" if query else "")

    def ask(self, image: bytes) -> tuple[int, float]:
        """Status and seconds of one request."""
        start = time.perf_counter()
        headers = {"Content-Type": "application/octet-stream"}
        self._connection.request("POST", self._path, image, headers)
        response = self._connection.getresponse()
        response.read()
        return response.status, time.perf_counter() - start

    def is_ready(self) -> bool:
        """Whether the process behind this connection can predict."""
        self._connection.request("GET", "/readyz")
        return self._connection.getresponse().status == 200


def in_sequence(service: Service, images: Sequence[bytes], count: int, query: str) -> None:
    """One image after the other, and whether memory grows."""
    client = Client(service.port, query)
    client.ask(images[0])
    before = service.memory_mb("VmRSS")
    answers = [client.ask(images[number % len(images)]) for number in range(count)]
    report("in sequence", answers)
    grown = service.memory_mb("VmRSS") - before
    print(
        f"memory        {before:.0f} MB after the first image, {grown:+.1f} MB after {count} more"
    )


def at_once(service: Service, images: Sequence[bytes], parallel: int, query: str) -> None:
    """So many requests at the same moment, each on a connection of its own."""
    barrier = threading.Barrier(parallel)

    def ask(number: int) -> tuple[int, float]:
        client = Client(service.port, query)
        barrier.wait()
        return client.ask(images[number % len(images)])

    with ThreadPoolExecutor(parallel) as pool:
        report(f"{parallel} at once", list(pool.map(ask, range(parallel))))


@contextlib.contextmanager
def bulk(task: dict[str, object]) -> Iterator[subprocess.Popen[str]]:
    """A process that predicts all files of a task each time it is asked; see :func:`rate`."""
    process = subprocess.Popen(
        [sys.executable, __file__, "--bulk", json.dumps(task)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": str(task["threads"])},
    )
    try:
        rate(process)  # the first one warms up
        yield process
    finally:
        process.communicate()


def rate(process: subprocess.Popen[str]) -> float:
    """Images a second of ``Cascade.predict_iter`` over all files."""
    if process.stdin is None or process.stdout is None:
        raise SystemExit("the process has no pipes")
    process.stdin.write("go\n")
    process.stdin.flush()
    return float(process.stdout.readline())


def predict_in_bulk(task: dict[str, object]) -> None:
    """What the process of :func:`bulk` does for each line that it is sent."""
    from cascade import Cascade

    threads = None if task["runtime"] == "torch" else task["threads"]
    cascade = Cascade.load(task["model"], runtime=task["runtime"], threads=threads)
    for _ in sys.stdin:
        start = time.perf_counter()
        count = sum(1 for _ in cascade.predict_iter(task["files"]))
        print(count / (time.perf_counter() - start), flush=True)


def processor_seconds(process: subprocess.Popen[str]) -> float:
    """Processor time of a process and all its threads so far."""
    text = Path(f"/proc/{process.pid}/stat").read_text(encoding="utf-8")
    user, system = text.rsplit(")", 1)[1].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def saturated(service: Service, images: Sequence[bytes], clients: int) -> float:
    """Images a second when so many clients send one image after the other, all images once."""
    left = iter(images)
    taking = threading.Lock()

    def ask_on(client: Client) -> list[int]:
        statuses = []
        while True:
            with taking:
                image = next(left, None)
            if image is None:
                return statuses
            statuses.append(client.ask(image)[0])

    with ThreadPoolExecutor(clients) as pool:
        start = time.perf_counter()
        asking = pool.map(ask_on, [Client(service.port, "") for _ in range(clients)])
        statuses = [status for client in asking for status in client]
        seconds = time.perf_counter() - start
    if set(statuses) != {200}:
        raise SystemExit(f"statuses {sorted(set(statuses))}: take fewer --clients")
    return len(statuses) / seconds


def in_turns(
    services: dict[str, Service], files: subprocess.Popen[str], images: Sequence[bytes],
    *, clients: int, rounds: int,
) -> None:  # fmt: skip
    """Bulk prediction and each service in turn; medians of the rounds."""
    processes = {"bulk": files, **{name: item.process for name, item in services.items()}}
    rates: dict[str, list[float]] = {name: [] for name in processes}
    spent = dict.fromkeys(processes, 0.0)
    alone: dict[str, list[float]] = {name: [] for name in services}
    for _ in range(rounds):
        for name, process in processes.items():
            before = processor_seconds(process)
            ours = services.get(name)
            rates[name].append(saturated(ours, images, clients) if ours else rate(files))
            spent[name] += processor_seconds(process) - before
        single = {name: Client(service.port, "") for name, service in services.items()}
        for image in images:  # one after the other, so that a busy machine slows all alike
            for name, client in single.items():
                alone[name].append(client.ask(image)[1])
    print(f"{'':<9} images/s  share of bulk  CPU ms  alone p50 ms  p95 ms  peak MB")
    for name in processes:
        shares = [one / other for one, other in zip(rates[name], rates["bulk"], strict=True)]
        processor = 1000 * spent[name] / rounds / len(images)
        row = f"{name:<9} {statistics.median(rates[name]):>8.1f} "
        row += f"{statistics.median(shares):>14.2f} {processor:>7.1f}"
        if name in services:
            p50, p95 = np.quantile(alone[name], [0.5, 0.95]) * 1000
            row += f" {p50:>13.1f} {p95:>7.1f} {services[name].memory_mb():>8.0f}"
        print(row)


def take_turns(
    flags: Sequence[str], images: Sequence[bytes], arguments: argparse.Namespace
) -> None:
    """Start what is to be compared, and compare it."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for number, image in enumerate(images):
            (folder / f"{number:04}").write_bytes(image)
        task = {
            "model": arguments.model, "runtime": arguments.runtime, "threads": arguments.threads,
            "files": [str(path) for path in sorted(folder.iterdir())],
        }  # fmt: skip
        clones = {"service": ROOT, **({"against": arguments.against} if arguments.against else {})}
        services = {
            name: stack.enter_context(running(flags, root=root)) for name, root in clones.items()
        }
        files = stack.enter_context(bulk(task))
        in_turns(services, files, images, clients=arguments.clients, rounds=arguments.rounds)


def report(what: str, answers: Sequence[tuple[int, float]]) -> None:
    """Print how many were answered and how fast."""
    seconds = sorted(spent for status, spent in answers if status == 200)
    others = [status for status, _ in answers if status != 200]
    if not seconds:
        print(f"{what:<13} none of {len(answers)} answered: {sorted(set(others))}")
        return
    p50, p95 = statistics.median(seconds), float(np.quantile(seconds, 0.95))
    print(
        f"{what:<13} {len(seconds)} answered, p50 {1000 * p50:.0f} ms, p95 {1000 * p95:.0f} ms"
        + (f"; {len(others)} refused with {sorted(set(others))}" if others else "")
    )


def drawn_images(count: int) -> list[bytes]:
    """PNG files of invented lesions, 450 x 600."""
    rng = np.random.default_rng(0)
    return [
        encode_image(draw_lesion(rng, malignant=bool(number % 2), shape=(450, 600)).image)
        for number in range(count)
    ]


def main() -> None:
    """Start the service and measure it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("images", nargs="*", type=Path, help="image files; without any, drawn ones")
    parser.add_argument("--model", help="as for cascade serve")
    parser.add_argument("--runtime", default="auto", help="as for cascade serve")
    parser.add_argument("--threads", type=int, default=1, help="as for cascade serve")
    parser.add_argument("--count", type=int, default=50, help="images in sequence")
    parser.add_argument("--parallel", type=int, default=64, help="requests at once")
    parser.add_argument("--query", default="", help="options of each request, as include=overlay")
    parser.add_argument("--address_space_mb", type=int, help="hard limit of the virtual memory")
    parser.add_argument("--rounds", type=int, default=0, help="compare with bulk so many times")
    parser.add_argument("--clients", type=int, default=8, help="clients at once in a comparison")
    parser.add_argument("--against", type=Path, help="another clone, compared as well")
    parser.add_argument("--bulk", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.bulk:
        predict_in_bulk(arguments.bulk)
        return
    images = [path.read_bytes() for path in arguments.images] or drawn_images(8)
    flags = ["--runtime", arguments.runtime, "--threads", str(arguments.threads)]
    flags += ["--model", str(Path(arguments.model).resolve())] if arguments.model else []
    if arguments.rounds:
        count = arguments.count
        repeated = [images[number % len(images)] for number in range(count)]
        take_turns(flags, repeated, arguments)
        return
    with running(flags, address_space_mb=arguments.address_space_mb) as service:
        print(f"ready         after {service.ready_s:.1f} s")
        in_sequence(service, images, arguments.count, arguments.query)
        at_once(service, images, arguments.parallel, arguments.query)
        print(f"peak memory   {service.memory_mb():.0f} MB resident")


if __name__ == "__main__":
    main()
