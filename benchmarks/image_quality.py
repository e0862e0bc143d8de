"""How often sound images are warned of, and how often spoilt ones are caught.

Each image is judged as it is, blurred with a Gaussian of 2 % of its short side, and three stops
darker and brighter in linear light.

    python benchmarks/image_quality.py dataset/images_all --limit 3000
"""

from __future__ import annotations

import argparse
import random
import sys
from collections import Counter
from pathlib import Path

import cv2
import numpy as np

from cascade.imaging import image_quality, iter_image_paths, read_image
from cascade.imaging.quality import ImageQuality
from cascade.progress import progress

STOPS = 3
BLUR = 0.02


def exposed(image: np.ndarray, stops: float) -> np.ndarray:
    """``(H, W, 3)`` uint8 sRGB, exposed by so many stops more in linear light."""
    values = np.arange(256) / 255
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    linear = np.clip(linear * 2.0**stops, 0, 1)
    srgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.asarray(np.round(255 * srgb).astype(np.uint8)[image])


def main() -> None:
    """Measure the images of some folders and print shares and quantiles."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--limit", type=int, default=None, help="that many, drawn with seed 0")
    arguments = parser.parse_args()
    paths = [found.path for folder in arguments.folders for found in iter_image_paths(folder)]
    paths = sorted(random.Random(0).sample(paths, min(arguments.limit or len(paths), len(paths))))
    counts: Counter[str] = Counter()
    found: dict[str, list[ImageQuality]] = {}
    for path in progress(paths, description="image quality"):
        image = read_image(path).pixels
        versions = {
            "as it is": image,
            "out of focus": cv2.GaussianBlur(image, (0, 0), BLUR * min(image.shape[:2])),
            "under-exposed": exposed(image, -STOPS),
            "over-exposed": exposed(image, STOPS),
        }
        for name, version in versions.items():
            quality = image_quality(version)
            found.setdefault(name, []).append(quality)
            hits = [
                text for text in quality.warnings if name == "as it is" or text.startswith(name)
            ]
            counts[name] += bool(hits)
            counts.update(f"as it is, {text.split(':')[0]}" for text in hits if name == "as it is")
    for name, count in sorted(counts.items()):
        sys.stdout.write(f"{name}: {count} of {len(paths)} warned ({count / len(paths):.4f})\n")
    for name, qualities in found.items():
        bright = [quality.exposure - quality.dark for quality in qualities]
        columns = ([q.sharpness for q in qualities], [q.dark for q in qualities], bright)
        for label, values in zip(("sharpness", "dark", "saturated"), columns, strict=True):
            shown = np.quantile(values, (0, 0.001, 0.005, 0.05, 0.5, 0.95, 0.995, 0.999, 1)).round(
                3
            )
            sys.stdout.write(f"{name}, {label}: {shown.tolist()}\n")


if __name__ == "__main__":
    main()
