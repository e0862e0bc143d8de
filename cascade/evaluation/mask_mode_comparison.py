"""What each masking mode gives on the same test images, against the whole image."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cascade.errors import DataError
from cascade.evaluation.cases import probabilities
from cascade.evaluation.stages import evaluate_classifier
from cascade.files import file_digest, read_json, write_json
from cascade.lesion.masking import NO_LESION, MaskPolicy
from cascade.metrics.classification import classification_metrics, roc_auc
from cascade.metrics.intervals import paired_difference

if TYPE_CHECKING:
    from cascade.data.tables import Table

log = logging.getLogger(__name__)

Interval = tuple[float, float]

NO_DIFFERENCE = "no difference shown"
COLUMNS = (
    "mode", "masks", "trained_on", "roc_auc", "roc_auc_low", "roc_auc_high", "difference",
    "difference_low", "difference_high", "verdict", "average_precision", "n", "n_malignant",
    "n_groups", "empty_masks", "seeds", "lowest_single_roc_auc", "highest_single_roc_auc",
)  # fmt: skip
"""Columns of ``mask_modes.csv``."""


@dataclass(frozen=True)
class ModeScores:
    """Probabilities that one mode gives the test images.

    Attributes:
        mode: name of :data:`cascade.lesion.policy.MASK_MODES`.
        masks: kind of masks that cut the test images' crops; ``none`` for the whole image.
        trained_on: kind of masks that cut the training images' crops.
        single: ``(S, N)`` float64 probabilities of malignant, one row for each seed.
        empty_masks: number of test images whose mask holds no lesion, so that the whole image was
            classified.
    """

    mode: str
    masks: str
    trained_on: str
    single: np.ndarray
    empty_masks: int = 0

    @property
    def column(self) -> str:
        """The column of ``scores.csv``."""
        uses_mask = MaskPolicy.from_mode(self.mode).uses_mask
        return f"{self.mode}_{self.masks}" if uses_mask else self.mode

    @property
    def mean(self) -> np.ndarray:
        """``(N,)`` float64 probabilities of malignant, averaged over the seeds."""
        return np.asarray(self.single.mean(axis=0))


@dataclass(frozen=True)
class ModeResult:
    """One row of the report.

    Attributes:
        scores: what was scored.
        roc_auc: of the probabilities averaged over the seeds.
        roc_auc_interval: 95 % bootstrap over groups; ``None`` with one group in a class.
        average_precision: of the malignant class.
        difference: ROC AUC minus that of the whole image; ``None`` for the whole image.
        difference_interval: 95 %, both on the same resamples; ``None`` as above.
        single_roc_auc: ROC AUC of each seed's classifier by itself.
        n: number of test images.
        positives: malignant ones among them.
        n_groups: number of groups of test images.
    """

    scores: ModeScores
    roc_auc: float
    roc_auc_interval: Interval | None
    average_precision: float
    difference: float | None
    difference_interval: Interval | None
    single_roc_auc: tuple[float, ...]
    n: int
    positives: int
    n_groups: int

    @property
    def verdict(self) -> str:
        """What the interval of the difference allows to say."""
        if self.difference is None:
            return "reference"
        if self.difference_interval is None:
            return "too few images to say"
        low, high = self.difference_interval
        if low <= 0 <= high:
            return NO_DIFFERENCE
        return "better than the whole image" if low > 0 else "worse than the whole image"

    def row(self) -> dict[str, Any]:
        """The result as a row of ``mask_modes.csv``."""
        low, high = self.roc_auc_interval or (None, None)
        difference_low, difference_high = self.difference_interval or (None, None)
        return {
            "mode": self.scores.mode,
            "masks": self.scores.masks,
            "trained_on": self.scores.trained_on,
            "roc_auc": self.roc_auc,
            "roc_auc_low": low,
            "roc_auc_high": high,
            "difference": self.difference,
            "difference_low": difference_low,
            "difference_high": difference_high,
            "verdict": self.verdict,
            "average_precision": self.average_precision,
            "n": self.n,
            "n_malignant": self.positives,
            "n_groups": self.n_groups,
            "empty_masks": self.scores.empty_masks,
            "seeds": len(self.single_roc_auc),
            "lowest_single_roc_auc": min(self.single_roc_auc),
            "highest_single_roc_auc": max(self.single_roc_auc),
        }


@dataclass(frozen=True)
class MaskModeReport:
    """All modes on the same test images.

    Attributes:
        table: the test images.
        results: one for each mode and kind of masks, the whole image first.
    """

    table: Table
    results: tuple[ModeResult, ...]


def evaluate_mask_modes(
    classifiers: Mapping[tuple[str, str], Sequence[Path]],
    tests: Mapping[str, Table],
    *,
    device: str = "auto",
    batch_size: int = 1,
    num_workers: int = 0,
    seed: int = 0,
) -> MaskModeReport:
    """Score each mode's classifiers and compare them with those of the whole image.

    Scores are kept beside each classifier in ``test_MASKS.json`` and used again as long as the
    classifier, the images' names and the masks are the same.

    Args:
        classifiers: files by mode and kind of training masks, one for each seed, as
            :func:`cascade.training.mask_mode_trial.train_mask_modes` returns them.
        tests: the test table by the kind of its masks; all of the same images. A kind that no
            classifier of a mode was trained on is judged by those trained on the first kind.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        batch_size: crops that pass a network together.
        num_workers: threads that read images ahead.
        seed: seed of the bootstrap.

    Raises:
        DataError: the tables differ in their images, an image lacks a mask or cannot be read, the
            test table has one class only, or there is no classifier of the whole image.
    """
    table = _same_images(tests)
    options = {"device": device, "batch_size": batch_size, "num_workers": num_workers}
    scores = []
    for mode in dict.fromkeys(mode for mode, _ in classifiers):
        by_masks = {masks: files for (own, masks), files in classifiers.items() if own == mode}
        needed = MaskPolicy.from_mode(mode).uses_mask
        for masks in tests if needed else by_masks:
            trained_on = masks if masks in by_masks else next(iter(by_masks))
            test = tests[masks] if needed else table
            judged = [_judge(Path(file), masks, test, options) for file in by_masks[trained_on]]
            single = np.array([values for values, _ in judged])
            scores.append(ModeScores(mode, masks, trained_on, single, judged[0][1]))
    return MaskModeReport(table, compare_mask_modes(scores, table, seed=seed))


def compare_mask_modes(
    scores: Sequence[ModeScores], table: Table, *, seed: int = 0
) -> tuple[ModeResult, ...]:
    """The numbers of each mode, and its difference to the whole image.

    Args:
        scores: one of them of a mode without masks, which the others are compared with.
        table: the test images, in the order of the scores.
        seed: seed of the bootstrap.

    Raises:
        DataError: no scores are of the whole image, or the test table has one class only.
    """
    whole = next((own for own in scores if not MaskPolicy.from_mode(own.mode).uses_mask), None)
    if whole is None:
        raise DataError("there are no scores of the whole image, which the modes are compared with")
    labels, groups, names = table.labels(), table.groups(), table.names()
    once = np.ones((1, labels.size))
    results = []
    for own in scores:
        metrics = classification_metrics(labels, own.mean, groups=groups, seed=seed, names=names)
        if metrics["roc_auc"] is None:
            raise DataError(f"{table.path}: {metrics['undefined']['roc_auc']}, so there is no AUC")
        interval = metrics["intervals"]["roc_auc"]
        difference, limits = None, None
        if own is not whole:
            difference, low, high = paired_difference(
                roc_auc, labels, own.mean, whole.mean, groups, seed
            )
            limits = None if interval is None else (low, high)
        results.append(
            ModeResult(
                own,
                roc_auc=metrics["roc_auc"],
                roc_auc_interval=None if interval is None else (interval[0], interval[1]),
                average_precision=metrics["average_precision"],
                difference=difference,
                difference_interval=limits,
                single_roc_auc=tuple(float(roc_auc(labels, row, once)[0]) for row in own.single),
                n=metrics["n"],
                positives=metrics["positives"],
                n_groups=metrics["n_groups"],
            )
        )
    return tuple(results)


def with_interval(value: float, interval: Interval | None, *, signed: bool = False) -> str:
    """A number with its interval, such as ``0.872 (0.836 to 0.906)``."""
    sign = "+" if signed else ""
    text = f"{value:{sign}.3f}"
    if interval is None:
        return text
    return f"{text} ({interval[0]:{sign}.3f} to {interval[1]:{sign}.3f})"


def _same_images(tests: Mapping[str, Table]) -> Table:
    """The first table, after a look whether the others hold the same images in the same order."""
    first = next(iter(tests.values()), None)
    if first is None:
        raise DataError("no test table was given; give one for each kind of masks")
    for masks, table in tests.items():
        if table.names() != first.names():
            raise DataError(
                f"{table.path}: the test images with {masks} masks are not those of the others, "
                "so differences could not be paired; give masks for the same images"
            )
    return first


def _judge(
    file: Path, masks: str, test: Table, options: Mapping[str, Any]
) -> tuple[list[float], int]:
    """Probabilities in the table's order and the number of empty masks, kept beside the file."""
    from cascade.models.classifier import Classifier

    asked = {
        "classifier": file_digest(file),
        "images": test.digest,
        "masks": test.mask_digest,
    }
    kept = file.with_name(f"test_{masks}.json")
    if kept.is_file():
        before = read_json(kept)
        if {key: before.get(key) for key in asked} == asked:
            return [before["probabilities"][name] for name in test.names()], before["empty_masks"]
    classifier = Classifier.load(file, device=options["device"])
    bare = [record.name for record in test if record.mask_path is None]
    if bare and classifier.policy.uses_mask:
        raise DataError(
            f"{test.path}: {len(bare)} images have no {masks} mask, e.g. {', '.join(bare[:5])}"
        )
    evaluation = evaluate_classifier(
        classifier, test, batch_size=options["batch_size"], num_workers=options["num_workers"]
    )
    values = probabilities(evaluation.cases).tolist()
    empty = sum(
        any(warning.startswith(NO_LESION) for warning in case.warnings) for case in evaluation.cases
    )
    named = dict(zip(test.names(), values, strict=True))
    write_json(kept, {**asked, "empty_masks": empty, "probabilities": named})
    return values, empty
