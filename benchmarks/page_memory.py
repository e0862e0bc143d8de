"""Time and memory of ``cascade app``: one image after the other through a headless Chromium.

    python benchmarks/page_memory.py --model models/default_onnx --address_space_mb 1024
    python benchmarks/page_memory.py images/*.jpg --size 4000 3000

Without images it draws some. The page runs in a process of its own on a free port of this machine;
``--address_space_mb`` is a hard limit on its virtual memory, as ``ulimit -v``. The browser is not
limited and not counted; it needs the package ``websockets``, which Streamlit brings.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import queue
import re
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from cascade.data.synthetic import draw_lesion

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from chromium import Page, chromium  # noqa: E402 - it lies beside the tests of the page

READY = (
    "document.querySelector('[data-testid=stApp]')?.dataset.testScriptState === 'notRunning'"
    " && document.querySelectorAll('h1').length === 1"
)
REMOVE = "[...document.querySelectorAll('button')].find(b => /Remove/.test(b.innerText))"
SHOWN = "document.querySelectorAll('.cs-verdict, .cs-problem').length"


@dataclass
class Running:
    """The page's process.

    Attributes:
        process: its process.
        lines: what it writes to standard error.
        address: where the page is.
    """

    process: subprocess.Popen[str]
    lines: queue.Queue[str] = field(default_factory=queue.Queue)
    address: str = ""

    def wait_for(self, pattern: str) -> str:
        """Read its messages until one fits; returns the first group."""
        while True:
            try:
                line = self.lines.get(timeout=120)
            except queue.Empty:
                raise SystemExit(f"the page did not write {pattern!r}") from None
            if found := re.search(pattern, line):
                return found[1]
            if not line:
                raise SystemExit("the page ended")
            sys.stderr.write(line)

    def memory_mb(self, line: str = "VmHWM") -> float:
        """Resident memory, of children too: ``VmHWM`` at its highest, ``VmRSS`` now."""
        tasks = Path(f"/proc/{self.process.pid}/task").glob("*/children")
        children = [child for task in tasks for child in task.read_text().split()]
        total = 0
        for pid in (str(self.process.pid), *children):
            text = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
            found = re.search(rf"{line}:\s+(\d+) kB", text)
            total += int(found[1]) if found else 0
        return total * 1024 / 1e6

    def busy_s(self) -> float:
        """Seconds that processors spent on the process, whatever else they did."""
        numbers = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(numbers[11]) + int(numbers[12])) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def running(flags: Sequence[str], *, address_space_mb: int | None) -> Iterator[Running]:
    """Start the page, wait until it is there, and end it afterwards."""

    def limit() -> None:
        if address_space_mb is not None:
            size = address_space_mb * 2**20
            resource.setrlimit(resource.RLIMIT_AS, (size, size))

    process = subprocess.Popen(
        [sys.executable, "-m", "cascade", "app", "--port", "0", *flags],
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={"OMP_NUM_THREADS": "1", **os.environ},
        preexec_fn=limit,
    )
    page = Running(process)

    def read() -> None:
        for line in process.stderr or ():
            page.lines.put(line)
        page.lines.put("")

    threading.Thread(target=read, daemon=True).start()
    try:
        page.address = page.wait_for(r"(http://\S+)")
        yield page
    finally:
        process.terminate()
        process.wait(30)


def drawn_images(folder: Path, size: tuple[int, int], count: int = 5) -> list[Path]:
    """Write invented images of ``(width, height)`` pixels."""
    paths = []
    for seed in range(count):
        generator = np.random.default_rng(seed)
        image = draw_lesion(generator, malignant=bool(seed % 2), shape=(450, 600)).image
        pixels = cv2.resize(image, size, interpolation=cv2.INTER_CUBIC)
        path = folder / f"drawn_{seed}.jpg"
        cv2.imwrite(str(path), cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))
        paths.append(path)
    return paths


@dataclass
class Costs:
    """What images cost, one entry each.

    Attributes:
        examining_s: seconds within the cascade.
        shown_s: seconds from the upload until the result is on the screen.
        busy_s: seconds of processor time of the page's process.
        memory_mb: resident memory afterwards.
    """

    examining_s: list[float] = field(default_factory=list)
    shown_s: list[float] = field(default_factory=list)
    busy_s: list[float] = field(default_factory=list)
    memory_mb: list[float] = field(default_factory=list)


def show_images(page: Running, tab: Page, images: Sequence[Path], count: int) -> Costs:
    """Show one image after the other, and remove it."""
    costs = Costs()
    tab.open(page.address)
    tab.wait_for("document.body?.innerText.includes('No lesion')", 120)
    tab.wait_for(READY)
    for number in range(count):
        start, before = time.perf_counter(), page.busy_s()
        tab.upload(images[number % len(images)])
        tab.wait_for(f"{SHOWN} === 1 && {READY}", 120, every_s=0.02)
        costs.shown_s.append(time.perf_counter() - start)
        costs.busy_s.append(page.busy_s() - before)
        costs.examining_s.append(float(page.wait_for(r"took ([\d.]+) s")))
        costs.memory_mb.append(page.memory_mb("VmRSS"))
        if problem := tab.run("document.querySelector('.cs-problem')?.innerText"):
            raise SystemExit(f"{images[number % len(images)].name}: {problem}")
        tab.run(f"{REMOVE}.click()")
        tab.wait_for(f"{SHOWN} === 0 && {READY}", every_s=0.02)
    return costs


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", nargs="*", type=Path, help="image files; by default drawn ones")
    parser.add_argument("--model", help="file or exported folder; by default the library's own")
    parser.add_argument("--runtime", default="auto", help="auto, torch or onnx")
    parser.add_argument("--count", type=int, default=20, help="images to show")
    parser.add_argument("--size", type=int, nargs=2, default=(1024, 768), help="of drawn images")
    parser.add_argument("--address_space_mb", type=int, help="hard limit on virtual memory")
    arguments = parser.parse_args()
    flags = ["--runtime", arguments.runtime, "--device", "cpu"]
    flags += ["--model", arguments.model] if arguments.model else []
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        images = arguments.images or drawn_images(folder, tuple(arguments.size))
        limit = arguments.address_space_mb
        page = stack.enter_context(running(flags, address_space_mb=limit))
        tab = stack.enter_context(chromium(folder / "profile"))
        costs = show_images(page, tab, images, arguments.count)
        for name, seconds in (
            ("examining", costs.examining_s),
            ("upload until shown", costs.shown_s),
            ("processor time", costs.busy_s),
        ):
            middle, slow = np.percentile(seconds, (50, 95))
            print(f"{name}: p50 {middle:.2f} s, p95 {slow:.2f} s, n = {len(seconds)}")
        first, last = costs.memory_mb[0], costs.memory_mb[-1]
        print(f"resident after the first image {first:.0f} MB, after the last {last:.0f} MB")
        print(f"peak of the page's process: {page.memory_mb():.0f} MB, limit {limit or 'none'}")


if __name__ == "__main__":
    main()
