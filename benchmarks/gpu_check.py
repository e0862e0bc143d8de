"""Everything that needs a GPU, in one go: tests, speed from files and from memory, training speed.

    make gpu-check

It takes less than eight minutes and writes docs/performance_gpu.md. Without a CUDA device the page
says "Not measured." and nothing else.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "benchmarks")]

import loader  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402

from cascade import Cascade  # noqa: E402
from cascade.config import SegmenterConfig, TrainConfig  # noqa: E402
from cascade.data.cache import SampleCache  # noqa: E402
from cascade.data.datasets import SegmentationDataset  # noqa: E402
from cascade.imaging import read_image  # noqa: E402
from cascade.models.artifact import default_model  # noqa: E402
from cascade.models.cores import usable_cores  # noqa: E402
from cascade.models.network import inference_mode  # noqa: E402
from cascade.models.segmenter import Segmenter  # noqa: E402
from cascade.pipeline.prediction import Failure  # noqa: E402
from cascade.speed.floor import peak_flops, torch_flops  # noqa: E402
from cascade.speed.images import drawn_files  # noqa: E402
from cascade.training.loop import Trainer  # noqa: E402
from cascade.training.segmentation import segmentation_loss  # noqa: E402
from cascade.training.task import Progress, Task  # noqa: E402

PAGE = REPOSITORY / "docs" / "performance_gpu.md"
TITLE = "# Performance on a GPU\n"
NOT_MEASURED = f"{TITLE}\nNot measured.\n"
COMMAND = "make gpu-check"
SHAPES = {(768, 1024): 512, (4000, 6000): 64}
"""Images of each shape, height and width."""
BATCH_SIZES = (32, 128)
BATCHES = 20
"""Of the networks alone."""
PRECISIONS = ("float32", "bfloat16")

SHORT: dict[str, Any] = {"float32": "fp32", "bfloat16": "bf16"}
"""What the settings of a training call them."""

Rows = list[tuple[str, ...]]


def run_tests() -> str:
    """The last line of the tests that need a GPU."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-m", "gpu", "-q", "-p", "no:cacheprovider"],
        capture_output=True, text=True, check=False, cwd=REPOSITORY,
    )  # fmt: skip
    lines = done.stdout.strip().splitlines() or ["no output"]
    return f"{lines[-1]} (exit code {done.returncode})"


def rate(work: Callable[[], Iterable[Any]], count: int) -> float:
    """Results a second, after one untimed pass.

    Raises:
        SystemExit: a result is a failure, or one is missing.
    """
    seconds = 0.0
    for _ in range(2):
        start = time.perf_counter()
        results = list(work())
        seconds = time.perf_counter() - start
        failed = [result for result in results if isinstance(result, Failure)]
        if failed or len(results) != count:
            raise SystemExit(f"{len(results)} of {count} results, {len(failed)} failed")
    return count / seconds


def prediction_rows(
    model: str, shapes: dict[tuple[int, int], int], *, device: str, batch_sizes: tuple[int, ...]
) -> Rows:
    """Images a second from files and from memory, and the share of the arithmetic's bound."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        files = {shape: drawn_files(shape, count, Path(folder)) for shape, count in shapes.items()}
        for precision, size in itertools.product(PRECISIONS, batch_sizes):
            cascade = Cascade.load(model, device=device, runtime="torch", precision=precision)
            peak = peak_flops(precision, usable_cores(), device) or float("nan")
            bound = peak / sum(operations(cascade))
            for (height, width), paths in files.items():
                side = cascade.working_side
                loaded = [read_image(path, short_side=side) for path in dict.fromkeys(paths)]
                memory = list(itertools.islice(itertools.cycle(loaded), len(paths)))
                read, held = (
                    rate(partial(cascade.predict_iter, items, batch_size=size), len(items))
                    for items in (paths, memory)
                )
                alone = networks_rate(cascade, size)
                rows.append(
                    (
                        f"{width}x{height}", precision, str(size), f"{read:.0f}", f"{held:.0f}",
                        f"{alone:.0f}", f"{bound:.0f}", f"{alone / bound:.0%}",
                    )
                )  # fmt: skip
    return rows


def operations(cascade: Cascade) -> tuple[int, int]:
    """Floating-point operations of both networks for one image."""
    pairs = (
        (cascade.segmenter.predict, cascade.segmenter.size),
        (cascade.classifier.predict_proba, cascade.classifier.size),
    )
    return torch_flops(*pairs[0]), torch_flops(*pairs[1])


def networks_rate(cascade: Cascade, batch_size: int) -> float:
    """Images a second of both networks alone, with their copies to and from the device."""
    generator = np.random.default_rng(0)
    images, crops = (
        generator.integers(0, 256, (batch_size, side, side, 3), dtype=np.uint8)
        for side in (cascade.segmenter.size, cascade.classifier.size)
    )

    def work() -> Iterable[Any]:
        for _ in range(BATCHES):
            cascade.segmenter.predict(images)
            cascade.classifier.predict_proba(crops)
            yield from range(batch_size)

    return rate(work, BATCHES * batch_size)


def training_rows(*, device: str, count: int, batch_size: int, size: int = 256) -> Rows:
    """Images a second of a training of the U-Net on MobileNetV2, and the share of its bound."""
    rows = []
    config = SegmenterConfig(encoder="mobilenet_v2", size=size)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        records = loader.drawn_records(folder, (450, 600), count)
        for arithmetic in PRECISIONS:
            network = Segmenter.build(config).to(device)
            workers = usable_cores() if device.startswith("cuda") else 0
            training = TrainConfig(
                batch_size=batch_size, epochs=3, precision=SHORT[arithmetic], num_workers=workers
            )
            data = SegmentationDataset(
                records, size=size, augmentation="standard",
                cache=SampleCache(training.cache_gigabytes, folder / "samples"),
            )  # fmt: skip
            task = Task(
                data=data,
                loss=lambda segmenter, batch: segmentation_loss(segmenter(batch[0]), batch[1]),
                validate=lambda _: {},
                monitor="",
            )
            trainer = Trainer(network, task, training, folder)
            seconds = []
            for epoch in range(3):
                start = time.perf_counter()
                trainer.progress = Progress(epoch=epoch)
                trainer._train_epoch(epoch)
                seconds.append(time.perf_counter() - start)
            found = count / min(seconds[1:])
            with inference_mode(network):
                work = 3 * torch_flops(network.predict, size)  # forward, and twice that backward
            bound = (peak_flops(arithmetic, usable_cores(), device) or float("nan")) / work
            rows.append((arithmetic, f"{found:.0f}", f"{bound:.0f}", f"{found / bound:.0%}"))
    return rows


def page(machine: str, tests: str, predictions: Rows, trainings: Rows) -> str:
    """The page with what was measured."""
    return "\n".join(
        [
            TITLE,
            f"Measured on {datetime.datetime.now(datetime.UTC):%d %B %Y} with `{COMMAND}`: "
            f"{machine}. Images and lesions are drawn; rates are those of the second pass.",
            "",
            f"Tests that need a GPU: {tests}",
            "",
            "## Prediction, images per second",
            "",
            "From files, from images that were decoded before, and both networks alone. The bound "
            "is the arithmetic of both networks at the highest speed of a 3x3 convolution on this "
            "device.",
            "",
            *table(
                ("images", "precision", "batch", "files", "memory", "networks", "bound",
                 "networks of bound"),
                predictions,
            ),
            "",
            "## Training, images per second",
            "",
            "U-Net on MobileNetV2 at 256 pixels from the cache, augmentation in worker processes. "
            "The bound is three times the arithmetic of a prediction.",
            "",
            *table(("precision", "images/s", "bound", "of bound"), trainings),
            "",
        ]
    )  # fmt: skip


def table(headers: tuple[str, ...], rows: Rows) -> list[str]:
    """The lines of a table in Markdown."""
    return ["| " + " | ".join(cells) + " |" for cells in (headers, ("---",) * len(headers), *rows)]


def main() -> None:
    """Measure and write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", default=str(default_model()))
    parser.add_argument("--output", type=Path, default=PAGE)
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        arguments.output.write_text(NOT_MEASURED, encoding="utf-8")
        print(f"there is no CUDA device; written: {arguments.output}")
        return
    machine = (
        f"{torch.cuda.get_device_name()}, {usable_cores()} CPU cores, torch {torch.__version__}"
    )
    text = page(
        machine,
        run_tests(),
        prediction_rows(arguments.model, SHAPES, device="cuda", batch_sizes=BATCH_SIZES),
        training_rows(device="cuda", count=1024, batch_size=64),
    )
    arguments.output.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
