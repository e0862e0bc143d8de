"""How fast is a training of a U-Net on MobileNetV2, compared with a naive loop?

The naive loop is NCHW in fp32, augments at full size in the main process, and computes the IoU of
each step in numpy. Both train from image files, ours from its cache, and take turns; the first
round warms up. Read the ratios.

    python benchmarks/training.py
    python benchmarks/training.py --data_path dataset
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "benchmarks")]

import cv2  # noqa: E402
import loader  # noqa: E402
import numpy as np  # noqa: E402
import segmentation_models_pytorch as smp  # noqa: E402
import torch  # noqa: E402

from cascade.config import SegmenterConfig, TrainConfig  # noqa: E402
from cascade.data.augment import Augmenter  # noqa: E402
from cascade.data.cache import SampleCache  # noqa: E402
from cascade.data.datasets import SegmentationDataset  # noqa: E402
from cascade.data.tables import Record, read_table  # noqa: E402
from cascade.models.segmenter import Segmenter  # noqa: E402
from cascade.training.loop import Trainer  # noqa: E402
from cascade.training.memory import kept_memory  # noqa: E402
from cascade.training.optimization import make_optimizer  # noqa: E402
from cascade.training.segmentation import segmentation_loss  # noqa: E402
from cascade.training.task import Progress, Task  # noqa: E402


def naive_epoch(records: list[Record], config: SegmenterConfig, training: TrainConfig) -> Any:
    """A function that trains one epoch as a script without this library would."""
    network: Any = smp.create_model(
        config.decoder, encoder_name=config.encoder, encoder_weights=None,
        decoder_channels=config.decoder_channels,
    )  # fmt: skip
    optimizer = make_optimizer(network, training)
    augment = Augmenter(training.augmentation)

    def epoch(number: int) -> None:
        network.train()
        order = np.random.default_rng(number).permutation(len(records))
        for start in range(0, len(records), training.batch_size):
            batch = [
                loader.naive_sample(records[index], augment, config.size, int(index))
                for index in order[start : start + training.batch_size]
            ]
            images, masks = (torch.stack(items) for items in zip(*batch, strict=True))
            logits = network(images)[:, 0]
            loss = segmentation_loss(logits, masks)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss.item()
            predicted = logits.detach().sigmoid().numpy() > 0.5
            truth = masks.numpy() > 0.5
            pairs = zip(predicted, truth, strict=True)
            np.mean([(a & b).sum() / max(1, (a | b).sum()) for a, b in pairs])

    return epoch


def our_epoch(
    records: list[Record], config: SegmenterConfig, training: TrainConfig, folder: Path
) -> Any:
    """A function that trains one epoch with the library's loop, from its cache."""
    network = Segmenter.build(config)
    cache = SampleCache(training.cache_gigabytes, folder / "samples")
    data = SegmentationDataset(
        records, size=config.size, augmentation=training.augmentation, cache=cache
    )
    task = Task(
        data=data,
        loss=lambda segmenter, batch: segmentation_loss(segmenter(batch[0]), batch[1]),
        validate=lambda _: {},
        monitor="",
    )
    trainer = Trainer(network, task, training, folder)

    def epoch(number: int) -> None:
        trainer.progress = Progress(epoch=number)
        with kept_memory(network.device):
            trainer._train_epoch(number)
        if trainer.progress.seen != len(records):
            raise SystemExit(f"{trainer.progress.seen} of {len(records)} images were trained on")

    return epoch


def seconds(work: Callable[[int], None], number: int) -> tuple[float, float]:
    """CPU time and time on the clock of one epoch."""
    clock, cpu = time.perf_counter(), time.process_time()
    work(number)
    return time.process_time() - cpu, time.perf_counter() - clock


def main() -> None:
    """Let both loops take turns and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data_path", default=None, help="data set; by default invented lesions")
    parser.add_argument("--shape", type=int, nargs=2, default=(450, 600), help="of drawn images")
    parser.add_argument("--count", type=int, default=16, help="images a round")
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--size", type=int, default=256, help="side of the network's input")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--precision", choices=("auto", "fp32", "bf16"), default="auto", help="of our loop"
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    cv2.setNumThreads(0)
    config = SegmenterConfig(encoder="mobilenet_v2", size=arguments.size)
    training = TrainConfig(
        batch_size=arguments.batch_size,
        epochs=arguments.rounds + 1,
        precision=arguments.precision,
    )
    with tempfile.TemporaryDirectory() as name:
        if arguments.data_path is None:
            shape = (arguments.shape[0], arguments.shape[1])
            records = loader.drawn_records(Path(name), shape, arguments.count)
        else:
            table = read_table(Path(arguments.data_path) / "train_data.csv")
            records = [item for item in table if item.mask_path is not None][: arguments.count]
        loops = {
            "naive": naive_epoch(records, config, training),
            "ours": our_epoch(records, config, training, Path(name)),
        }
        timed: dict[str, list[tuple[float, float]]] = {kind: [] for kind in loops}
        for number in range(arguments.rounds + 1):
            for kind, loop in loops.items():
                timed[kind].append(seconds(loop, number))
    print(f"{'loop':<8}{'CPU s/image':>13}{'clock s/image':>15}{'ratio':>8}{'clock ratio':>13}")
    medians = {
        kind: [statistics.median(row[place] for row in rows[1:]) for place in (0, 1)]
        for kind, rows in timed.items()
    }
    for kind, (cpu, clock) in medians.items():
        print(
            f"{kind:<8}{cpu / len(records):>13.3f}{clock / len(records):>15.3f}"
            f"{medians['naive'][0] / cpu:>8.2f}{medians['naive'][1] / clock:>13.2f}"
        )


if __name__ == "__main__":
    main()
