"""How fast do training samples come from the cache, compared with a naive loader?

The naive loader reads image and mask, augments both at full size, shrinks, normalises and makes
tensors. Ours reads the cached sample and augments it; networks normalise themselves. Both run in
one thread and take turns. Read the ratios.

    python benchmarks/loader.py
    python benchmarks/loader.py --data_path dataset
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

import cv2  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402

from cascade.data.augment import Augmenter  # noqa: E402
from cascade.data.cache import SampleCache  # noqa: E402
from cascade.data.datasets import SegmentationDataset  # noqa: E402
from cascade.data.synthetic import draw_lesion  # noqa: E402
from cascade.data.tables import Record, read_table  # noqa: E402
from cascade.imaging import write_image, write_mask  # noqa: E402

SHAPES = ((450, 600), (2000, 3000))


def naive_sample(
    record: Record, augment: Augmenter, size: int, seed: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Augment at full size, then shrink: ``(3, S, S)`` float32 and ``(S, S)`` float32."""
    image = cv2.cvtColor(cv2.imread(str(record.image_path)), cv2.COLOR_BGR2RGB)
    mask = cv2.imread(str(record.mask_path), cv2.IMREAD_GRAYSCALE)
    changed, truth = augment(image, (mask > 127).astype(np.uint8), seed=seed)
    if truth is None:
        raise SystemExit("the mask was lost")
    small = cv2.resize(changed, (size, size), interpolation=cv2.INTER_AREA)
    truth = cv2.resize(truth, (size, size), interpolation=cv2.INTER_NEAREST)
    scaled = (small.astype(np.float32) / 255 - 0.5) / 0.5
    pixels = torch.from_numpy(np.ascontiguousarray(scaled.transpose(2, 0, 1)))
    return pixels, torch.from_numpy(truth.astype(np.float32))


def drawn_records(folder: Path, shape: tuple[int, int], count: int) -> list[Record]:
    """Invented lesions as JPEG files with PNG masks."""
    generator = np.random.default_rng(0)
    records = []
    for number in range(count):
        name = f"{shape[0]}_{number}"
        lesion = draw_lesion(generator, malignant=False, shape=(450, 600))
        image, mask = folder / f"{name}.jpg", folder / f"{name}.png"
        wide = shape[::-1]
        write_image(image, cv2.resize(lesion.image, wide, interpolation=cv2.INTER_CUBIC))
        large = cv2.resize(lesion.mask.astype(np.uint8), wide, interpolation=cv2.INTER_NEAREST)
        write_mask(mask, large.astype(bool))
        records.append(Record(name, None, name, image, mask, {}))
    return records


def milliseconds(work: Callable[[int], object], count: int) -> tuple[float, float]:
    """CPU time and time on the clock of each of ``count`` samples."""
    clock, cpu = time.perf_counter(), time.process_time()
    for index in range(count):
        work(index)
    scale = 1000 / count
    return (time.process_time() - cpu) * scale, (time.perf_counter() - clock) * scale


def compare(name: str, records: list[Record], size: int, rounds: int, folder: Path) -> None:
    """Let both loaders take turns and print a row."""
    augment = Augmenter("standard")
    cache = SampleCache(8.0, folder / "samples")
    ours = SegmentationDataset(records, size=size, augmentation="standard", cache=cache)

    def cached(index: int) -> list[torch.Tensor]:
        return [torch.from_numpy(item) for item in ours[index]]

    def naive(index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return naive_sample(records[index], augment, size, ours.sample_seed(index))

    first = milliseconds(cached, len(records))
    timed: dict[str, list[tuple[float, float]]] = {"naive": [], "cached": []}
    for epoch in range(rounds):
        ours.epoch = epoch
        timed["naive"].append(milliseconds(naive, len(records)))
        timed["cached"].append(milliseconds(cached, len(records)))
    cpu, clock = (
        {kind: statistics.median(row[place] for row in rows) for kind, rows in timed.items()}
        for place in (0, 1)
    )
    print(
        f"{name:<14}{cpu['naive']:>10.2f}{first[0]:>14.2f}{cpu['cached']:>11.2f}"
        f"{cpu['naive'] / cpu['cached']:>8.1f}{clock['naive'] / clock['cached']:>13.1f}",
        flush=True,
    )


def main() -> None:
    """Compare both loaders on drawn images of two sizes, or on a data set."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data_path", default=None, help="data set; by default invented lesions")
    parser.add_argument("--count", type=int, default=8, help="images")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size", type=int, default=256, help="side of the network's input")
    arguments = parser.parse_args()
    cv2.setNumThreads(0)
    print(
        f"{'image':<14}{'naive ms':>10}{'first time ms':>14}{'cached ms':>11}{'ratio':>8}"
        f"{'clock ratio':>13}"
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if arguments.data_path is not None:
            table = read_table(Path(arguments.data_path) / "train_data.csv")
            records = [record for record in table if record.mask_path is not None]
            compare("data set", records[: arguments.count], arguments.size,
                    arguments.rounds, folder)  # fmt: skip
            return
        for shape in SHAPES:
            records = drawn_records(folder, shape, arguments.count)
            compare(f"{shape[1]}x{shape[0]}", records, arguments.size, arguments.rounds, folder)


if __name__ == "__main__":
    main()
