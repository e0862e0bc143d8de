"""A whole data set of invented lesions in the project's layout."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from cascade.config import CLASSES, check_settings, setting
from cascade.data.synthetic.lesion import draw_lesion
from cascade.errors import ConfigError, DataError
from cascade.files import write_csv
from cascade.lesion.patient import FEWEST
from cascade.progress import progress

log = logging.getLogger(__name__)

COLUMNS = ("name", "class", "patient_id", "lesion_id", "diagnosis", "age", "sex", "site", "source")
_DIAGNOSES = {"benign": "synthetic nevus", "malignant": "synthetic melanoma"}
ODD = "synthetic odd nevus"
"""Diagnosis of a benign lesion that does not look like the others of its patient."""

_SITES = ("anterior torso", "posterior torso", "upper extremity", "lower extremity", "head/neck")


@dataclass(frozen=True)
class SyntheticConfig:
    """What an invented data set holds."""

    count_train: int = setting(160, "training images", minimum=1)
    count_test: int = setting(40, "test images; 0 writes no test table", minimum=0)
    malignant_fraction: float = setting(
        0.4, "share of malignant images in each table", minimum=0.0, maximum=1.0
    )
    lesions_per_patient: int = setting(
        0,
        "4 or more: so many lesions of one look for each patient, one of them odd, and "
        "malignant_fraction is the share of odd ones that are malignant; 0: few for a patient",
        minimum=0,
    )
    sizes: tuple[tuple[int, int], ...] = ((240, 320), (288, 384), (256, 256))
    masks: bool = setting(True, "write masks_all")
    jpeg_quality: int = setting(90, "best JPEG quality; images vary below", minimum=60, maximum=100)
    seed: int = setting(0, "seed of everything", minimum=0)

    def __post_init__(self) -> None:
        check_settings(self)
        if 0 < self.lesions_per_patient < FEWEST:
            raise ConfigError(
                f"lesions_per_patient is {self.lesions_per_patient}; give {FEWEST} or more, of "
                "which one is odd, or 0"
            )


@dataclass(frozen=True)
class _Plan:
    """One image before it is drawn."""

    label: str
    patient: int
    lesion: int
    image: int
    odd: bool = False


def write_synthetic_dataset(
    folder: str | os.PathLike[str], config: SyntheticConfig | None = None
) -> dict[str, dict[str, int]]:
    """Write ``images_all``, ``masks_all``, ``train_data.csv`` and ``test_data.csv``.

    Some patients have several lesions, some lesions several images; none of them is in both
    tables. The same configuration gives the same files.

    Returns:
        Images per class for each table written: ``{"train": {"benign": 96, ...}, ...}``.

    Raises:
        DataError: the folder holds one of these already.
    """
    folder, config = Path(folder), config or SyntheticConfig()
    names = ("images_all", "masks_all", "train_data.csv", "test_data.csv")
    present = [name for name in names if (folder / name).exists()]
    if present:
        raise DataError(f"{folder}: already holds {', '.join(present)}; choose an empty folder")
    for name in names[: 1 + config.masks]:
        (folder / name).mkdir(parents=True)
    counts, start = {}, 0
    for place, (split, count) in enumerate(
        (("train", config.count_train), ("test", config.count_test))
    ):
        if count:
            planned = _plan_styles if config.lesions_per_patient else _plan
            generator = np.random.default_rng([config.seed, place])
            plans = list(planned(generator, count, config, start))
            shown = progress(plans, description=f"drawing {split} images")
            rows = [_write_image(folder, config, start + i, plan) for i, plan in enumerate(shown)]
            write_csv(folder / f"{split}_data.csv", COLUMNS, rows)
            counts[split] = {label: sum(row["class"] == label for row in rows) for label in CLASSES}
        start += count
    log.info("drew %d synthetic images", start)
    return counts


def _plan(
    generator: np.random.Generator, count: int, config: SyntheticConfig, start: int
) -> Iterator[_Plan]:
    """Divide ``count`` images among lesions and patients, in an order that tells nothing.

    Patients and lesions are numbered from ``start``, so those of two tables never meet.
    """
    malignant = round(count * config.malignant_fraction)
    lesions = [
        (label, size)
        for label, images in zip(CLASSES, (count - malignant, malignant), strict=True)
        for size in _parts(generator, images)
    ]
    generator.shuffle(lesions)
    patients = np.repeat(*_numbered(_parts(generator, len(lesions))))
    plans = [
        _Plan(label, start + int(patient), start + lesion, image)
        for lesion, ((label, size), patient) in enumerate(zip(lesions, patients, strict=True))
        for image in range(size)
    ]
    yield from (plans[index] for index in generator.permutation(count))


def _plan_styles(
    generator: np.random.Generator, count: int, config: SyntheticConfig, start: int
) -> Iterator[_Plan]:
    """Patients of several lesions that look alike, and of one that does not."""
    each = config.lesions_per_patient
    patients = math.ceil(count / each)
    malignant = generator.permutation(patients) < round(patients * config.malignant_fraction)
    odd = generator.integers(each, size=patients)
    plans = []
    for lesion in range(count):
        patient, place = divmod(lesion, each)
        is_odd = place == odd[patient]
        label = CLASSES[int(is_odd and malignant[patient])]
        plans.append(_Plan(label, start + patient, start + lesion, 0, bool(is_odd)))
    yield from (plans[index] for index in generator.permutation(count))


def _numbered(sizes: Sequence[int]) -> tuple[range, Sequence[int]]:
    return range(len(sizes)), sizes


def _parts(generator: np.random.Generator, total: int) -> list[int]:
    """Cut ``total`` things into heaps of one, two or three; most have one."""
    sizes: list[int] = []
    while (left := total - sum(sizes)) > 0:
        sizes.append(min(left, int(generator.choice([1, 2, 3], p=[0.7, 0.2, 0.1]))))
    return sizes


def _write_image(
    folder: Path, config: SyntheticConfig, number: int, plan: _Plan
) -> Mapping[str, object]:
    """Draw and write one image with its mask; return its row."""
    patient = np.random.default_rng([config.seed, 2, plan.patient])
    of_lesion = np.random.default_rng([config.seed, 3, plan.lesion])
    view = np.random.default_rng([config.seed, 4, plan.lesion, plan.image])
    style = None
    if config.lesions_per_patient and not plan.odd:
        style = np.random.default_rng([config.seed, 6, plan.patient])
    shape = config.sizes[int(of_lesion.integers(len(config.sizes)))]
    drawn = draw_lesion(
        of_lesion,
        malignant=plan.label == "malignant",
        shape=(int(shape[0]), int(shape[1])),
        tone=float(patient.beta(0.9, 1.6)),
        view=view,
        style=style,
    )
    stem = f"synthetic_{number:05d}"
    quality = int(view.integers(config.jpeg_quality - 15, config.jpeg_quality + 1))
    pixels = cv2.cvtColor(drawn.image, cv2.COLOR_RGB2BGR)
    _write(folder / "images_all" / f"{stem}.jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])
    if config.masks:
        _write(folder / "masks_all" / f"{stem}.png", drawn.mask.astype(np.uint8) * 255, [])
    return {
        "name": f"{stem}.jpg",
        "class": plan.label,
        "patient_id": f"synthetic_p{plan.patient:05d}",
        "lesion_id": f"synthetic_l{plan.lesion:05d}",
        "diagnosis": ODD if plan.odd and plan.label == CLASSES[0] else _DIAGNOSES[plan.label],
        "age": str(5 * int(patient.integers(4, 18))),
        "sex": str(patient.choice(["female", "male"])),
        "site": str(np.random.default_rng([config.seed, 5, plan.lesion]).choice(_SITES)),
        "source": "synthetic",
    }


def _write(path: Path, pixels: np.ndarray, options: Sequence[int]) -> None:
    encoded, data = cv2.imencode(path.suffix, pixels, options)
    if not encoded:
        raise DataError(f"{path}: could not be encoded")
    try:
        path.write_bytes(data.tobytes())
    except OSError as error:
        raise DataError(f"{path}: could not be written ({error.strerror})") from error
