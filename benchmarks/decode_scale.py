"""How much a probability depends on the size at which a JPEG is decoded.

Each image is enlarged four times and saved as JPEG, then predicted from its full decode, from a
half and from a quarter of it. For comparison the crop of the full image is moved by 0.3 % of its
side.

    python benchmarks/decode_scale.py dataset/images_all --limit 40
"""

from __future__ import annotations

import argparse
import random
import sys
from pathlib import Path

import cv2
import numpy as np

from cascade.errors import CascadeError
from cascade.imaging import encode_jpeg, iter_image_paths, read_image, resize_pixels
from cascade.pipeline import Cascade, Prediction
from cascade.progress import progress

ENLARGED = 4
MOVED = 0.003


class Unreduced(Cascade):
    """A cascade that takes pixels as they are, however many."""

    @property
    def working_side(self) -> int:
        """More than any image has."""
        return 10**6


def moved_crop(cascade: Cascade, pixels: np.ndarray, prediction: Prediction) -> float:
    """Probability of malignant of the crop, moved along both axes."""
    top, left, bottom, _ = prediction.crop_box
    side = bottom - top
    start = top + round(MOVED * side), left + round(MOVED * side)
    padded = cv2.copyMakeBorder(
        pixels, side, side, side, side, cv2.BORDER_CONSTANT, value=cascade.policy.fill
    )
    window = padded[start[0] + side : start[0] + 2 * side, start[1] + side : start[1] + 2 * side]
    crop = resize_pixels(window, cascade.classifier.size)
    return float(cascade.classifier.predict_proba(crop[None])[0, 1])


def main() -> None:
    """Measure the images of some folders and print quantiles of the differences."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--limit", type=int, default=40, help="that many, drawn with seed 0")
    arguments = parser.parse_args()
    paths = [found.path for folder in arguments.folders for found in iter_image_paths(folder)]
    paths = sorted(random.Random(0).sample(paths, min(arguments.limit, len(paths))))
    cascade = Unreduced.load()
    differences: dict[str, list[float]] = {}
    for path in progress(paths, description="decode scale"):
        image = read_image(path).pixels
        large = cv2.resize(image, None, fx=ENLARGED, fy=ENLARGED, interpolation=cv2.INTER_CUBIC)
        data = encode_jpeg(large)
        whole = read_image(data)
        short = min(whole.shape)
        chances = {}
        for name, divisor in (("full", 1), ("half", 2), ("quarter", 4)):
            loaded = read_image(data, short_side=short // divisor)
            try:
                (prediction,) = cascade([loaded.pixels])
            except CascadeError as error:
                raise SystemExit(f"{path}: {error}") from error
            chances[name] = prediction.probabilities["malignant"]
            if name == "full" and not prediction.whole_image_fallback:
                chances["crop moved by 0.3 %"] = moved_crop(cascade, loaded.pixels, prediction)
        reference = chances.pop("full")
        for name, chance in chances.items():
            differences.setdefault(name, []).append(abs(chance - reference))
    for name, values in differences.items():
        median, high = np.quantile(values, (0.5, 0.95))
        above = np.mean(np.array(values) > 0.01)
        sys.stdout.write(
            f"{name}: {len(values)} images, difference of the probability {median:.4f} in the "
            f"median, {high:.4f} at 95 %, above 0.01 in {above:.3f}\n"
        )


if __name__ == "__main__":
    main()
