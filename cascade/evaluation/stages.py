"""Running one stage, or the whole cascade, over a table.

Segmentation is scored at the original image size, on the mask that the cascade would use.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from cascade.config import CLASSES
from cascade.errors import CascadeError, DataError
from cascade.evaluation.cases import (
    Case,
    classification_of,
    probabilities,
    segmentation_of,
    true_labels,
)
from cascade.evaluation.diagnosis_scores import diagnosis_scores
from cascade.evaluation.safeguard_metrics import safeguards_of
from cascade.imaging import LoadedImage, read_image, read_mask
from cascade.lesion.masking import (
    Lesion,
    MaskPolicy,
    apply_mask,
    find_lesion,
    lesion_from_mask,
    reduce_mask,
)
from cascade.lesion.skin_tone import individual_typology_angle
from cascade.metrics.classification import roc_auc
from cascade.metrics.intervals import paired_difference, plan_resampling
from cascade.metrics.segmentation import PixelCounts, count_pixels
from cascade.pipeline import Cascade
from cascade.pipeline.augmented_views import TestTimeAugmentation
from cascade.pipeline.prediction import Failure, Prediction
from cascade.pipeline.stages import classify, segment, working_side
from cascade.progress import progress

if TYPE_CHECKING:
    from cascade.data.tables import Record, Table
    from cascade.models.protocol import ClassifierStage, SegmenterStage

Loaded = list[tuple["Record", LoadedImage]]
_TOGETHER = 8
"""Images that are held at a time, so that several threads have something to do."""

WHOLE_IMAGE, TRUTH_MASK, PREDICTED_MASK = "whole_image", "truth_mask", "predicted_mask"


@dataclass(frozen=True)
class Evaluation:
    """What came out of a run over a table.

    Attributes:
        cases: one for each image, in the table's order.
        metrics: ``segmentation`` and ``classification``, each only where there is truth for it,
            and for a cascade ``stages``: what each choice of mask gives, and the differences,
            ``diagnoses``, see :func:`cascade.evaluation.diagnosis_scores.diagnosis_scores`, and
            ``safeguards``, see :func:`cascade.evaluation.safeguard_metrics.safeguards_of`.
        cutoff: from which probability a case counts as malignant.
    """

    cases: tuple[Case, ...]
    metrics: dict[str, Any] = field(default_factory=dict)
    cutoff: float = 0.5


def evaluate_segmenter(
    segmenter: SegmenterStage,
    table: Table,
    *,
    policy: MaskPolicy | None = None,
    tta: TestTimeAugmentation = "none",
    batch_size: int = 1,
    num_workers: int = 0,
    seed: int = 0,
) -> Evaluation:
    """Score a segmenter on the records that have a true mask.

    Args:
        segmenter: the stage.
        table: records with masks.
        policy: threshold and component rules of the mask.
        tta: test-time augmentation.
        batch_size: images that pass the network together.
        num_workers: threads that read images ahead.
        seed: seed of the bootstrap intervals.

    Raises:
        DataError: an image cannot be read, or no record has a mask.
    """
    policy = policy or MaskPolicy()
    cases: list[Case] = []
    for loaded in _batches(
        table.with_mask(), batch_size, num_workers, short_side=working_side(segmenter)
    ):
        maps = segment(segmenter, [image.pixels for _, image in loaded], tta=tta)
        for (record, image), probability in zip(loaded, maps, strict=True):
            lesion = find_lesion(probability, policy, shape=image.full_shape)
            cases.append(
                Case(
                    record,
                    counts=_counts(record, lesion.mask),
                    area_fraction=lesion.area_fraction,
                    warnings=(*image.warnings, *lesion.warnings),
                )
            )
    if not cases:
        raise DataError(f"{table.path}: no image has a mask, so a segmenter cannot be scored")
    return Evaluation(tuple(cases), {"segmentation": segmentation_of(cases, seed=seed)})


def evaluate_classifier(
    classifier: ClassifierStage,
    table: Table,
    *,
    cutoff: float | None = None,
    tta: TestTimeAugmentation = "none",
    batch_size: int = 1,
    num_workers: int = 0,
    seed: int = 0,
) -> Evaluation:
    """Score a classifier on crops cut by the masks that the table names.

    Args:
        classifier: the stage; its policy cuts the crops.
        table: labelled records, with true or predicted masks if the policy uses them.
        cutoff: probability of malignant from which a case counts as malignant.
        tta: test-time augmentation.
        batch_size: crops that pass the network together.
        num_workers: threads that read images ahead.
        seed: seed of the bootstrap intervals.
    """
    cutoff = classifier.cutoff if cutoff is None else cutoff
    policy = classifier.policy
    cases: list[Case] = []
    for loaded in _batches(table, batch_size, num_workers, short_side=working_side(classifier)):
        lesions = [_true_lesion(record, image, policy) for record, image in loaded]
        crops = [
            apply_mask(image.pixels, lesion, policy, size=classifier.size)
            for (_, image), lesion in zip(loaded, lesions, strict=True)
        ]
        judged = classify(classifier, crops, tta=tta)[:, 1]
        for (record, image), lesion, probability in zip(loaded, lesions, judged, strict=True):
            cases.append(
                Case(
                    record,
                    label=CLASSES[int(probability >= cutoff)],
                    probability=float(probability),
                    warnings=(*image.warnings, *(lesion.warnings if policy.uses_mask else ())),
                )
            )
    metrics = {"classification": classification_of(cases, cutoff=cutoff, seed=seed)}
    return Evaluation(tuple(cases), metrics, cutoff)


def evaluate_cascade(
    cascade: Cascade,
    table: Table,
    *,
    tta: TestTimeAugmentation = "none",
    batch_size: int = 1,
    num_workers: int = 0,
    seed: int = 0,
) -> Evaluation:
    """Score both stages end to end, and what the first stage costs the second.

    Beside the end-to-end numbers, ``metrics["stages"]`` holds the classifier's numbers on the same
    images with the predicted mask, the true mask (where there are any) and no mask at all;
    ``metrics["safeguards"]`` says how often its safeguards fired and what that was worth.

    Args:
        cascade: both stages.
        table: records with labels, masks or both.
        tta: test-time augmentation of both stages.
        batch_size: images that pass the networks together.
        num_workers: threads that read images ahead.
        seed: seed of the bootstrap intervals.

    Raises:
        DataError: an image cannot be predicted; a score over the rest would hide the failure.
    """
    cases: list[Case] = []
    others: dict[str, list[float | None]] = {TRUTH_MASK: [], WHOLE_IMAGE: []}
    for loaded in _batches(table, batch_size, num_workers, short_side=cascade.working_side):
        cases += _predicted_cases(cascade, loaded, tta, batch_size)
        for name, values in others.items():
            values += _with_other_mask(cascade, loaded, name, tta)
    metrics: dict[str, Any] = {}
    if (segmentation := segmentation_of(cases, seed=seed)) is not None:
        metrics["segmentation"] = segmentation
    classification = classification_of(cases, cutoff=cascade.cutoff, seed=seed)
    if classification is not None:
        metrics["classification"] = classification
        metrics["stages"] = _compare(cases, others, cutoff=cascade.cutoff, seed=seed)
    if scores := diagnosis_scores(cases, cascade.diagnoses, seed=seed):
        metrics["diagnoses"] = scores
    if safeguards := safeguards_of(cascade, cases, seed=seed):
        metrics["safeguards"] = safeguards
    return Evaluation(tuple(cases), metrics, cascade.cutoff)


def _batches(
    table: Table, batch_size: int, num_workers: int, *, short_side: int
) -> Iterator[Loaded]:
    """The table's images in batches, read ahead by threads while the networks compute."""
    size = max(_TOGETHER, batch_size)
    records = list(table)
    bar = progress(records, description="evaluating")
    with ThreadPoolExecutor(max(1, num_workers)) as readers:
        waiting: deque[tuple[Record, Future[LoadedImage]]] = deque()
        remaining = iter(records)
        while True:
            for record in itertools.islice(
                remaining, size * (1 + (num_workers > 0)) - len(waiting)
            ):
                waiting.append(
                    (record, readers.submit(read_image, record.image_path, short_side=short_side))
                )
            if not waiting:
                break
            chunk = [waiting.popleft() for _ in range(min(size, len(waiting)))]
            yield [(record, _read(future)) for record, future in chunk]
            bar.update(len(chunk))
    bar.close()


def _read(future: Future[LoadedImage]) -> LoadedImage:
    try:
        return future.result()
    except CascadeError as error:
        raise DataError(
            f"cannot be evaluated: {error}. A missing prediction is an error; mend the image or "
            "take its row out of the table"
        ) from error


def _counts(record: Record, mask: np.ndarray) -> PixelCounts | None:
    if record.mask_path is None:
        return None
    return count_pixels(read_mask(record.mask_path, shape=mask.shape), mask)


def _true_lesion(record: Record, image: LoadedImage, policy: MaskPolicy) -> Lesion:
    if record.mask_path is None or not policy.uses_mask:
        return Lesion(np.zeros(image.shape, bool), None, 0)
    mask = read_mask(record.mask_path, shape=image.full_shape)
    return lesion_from_mask(reduce_mask(mask, image.shape), policy)


def _predicted_cases(
    cascade: Cascade, loaded: Loaded, tta: TestTimeAugmentation, batch_size: int
) -> list[Case]:
    images = [image for _, image in loaded]
    results: list[Prediction] = []
    for (record, _), result in zip(
        loaded, cascade.predict_iter(images, tta=tta, batch_size=batch_size), strict=True
    ):
        if isinstance(result, Failure):
            raise DataError(f"{record.name}: cannot be evaluated: {result.error}") from result.error
        results.append(result)
    of_crops = _of_replaced_crops(cascade, images, results, tta)
    cases = []
    for (record, image), result, of_crop in zip(loaded, results, of_crops, strict=True):
        cases.append(
            Case.of(
                record,
                result,
                counts=_counts(record, result.mask),
                skin_angle=individual_typology_angle(image.pixels, result.lesion.mask),
                masked_crop_probability=of_crop,
            )
        )
    return cases


def _of_replaced_crops(
    cascade: Cascade,
    images: Sequence[LoadedImage],
    results: Sequence[Prediction],
    tta: TestTimeAugmentation,
) -> list[float | None]:
    """What the masked crops would have given where the whole image was classified instead."""
    replaced = [place for place, result in enumerate(results) if result.whole_image_fallback]
    crops = [
        apply_mask(
            images[place].pixels,
            # the very lesion of low quality; choosing among its components again could differ
            results[place].lesion,
            cascade.policy,
            size=cascade.classifier.size,
        )
        for place in replaced
    ]
    judged = classify(cascade.classifier, crops, tta=tta)[:, 1].tolist()
    chances = dict(zip(replaced, judged, strict=True))
    return [chances.get(place) for place in range(len(results))]


def _with_other_mask(
    cascade: Cascade, loaded: Loaded, name: str, tta: TestTimeAugmentation
) -> list[float | None]:
    """Probabilities with the true mask, or with none; ``None`` where there is no true mask."""
    policy = cascade.policy
    if name == WHOLE_IMAGE:
        policy = policy.without_mask()
    usable = [pair for pair in loaded if name == WHOLE_IMAGE or pair[0].mask_path is not None]
    crops = [
        apply_mask(
            image.pixels, _true_lesion(record, image, policy), policy, size=cascade.classifier.size
        )
        for record, image in usable
    ]
    judged = dict(
        zip(
            (record.name for record, _ in usable),
            classify(cascade.classifier, crops, tta=tta)[:, 1].tolist(),
            strict=True,
        )
    )
    return [judged.get(record.name) for record, _ in loaded]


def _compare(
    cases: Sequence[Case], others: dict[str, list[float | None]], *, cutoff: float, seed: int
) -> dict[str, Any]:
    """The classifier with each kind of mask, on the images that have all of them."""
    compared: dict[str, Any] = {}
    for name, values in others.items():
        pairs = [
            (case, value)
            for case, value in zip(cases, values, strict=True)
            if case.probability is not None and value is not None and case.record.label is not None
        ]
        if not pairs:
            continue
        chosen = [case for case, _ in pairs]
        changed = [replace(case, probability=value) for case, value in pairs]
        compared[name] = classification_of(changed, cutoff=cutoff, seed=seed)
        compared[name][PREDICTED_MASK] = classification_of(chosen, cutoff=cutoff, seed=seed)
        labels = true_labels(chosen)
        groups = [case.record.group for case in chosen]
        if plan_resampling(labels.size, groups=groups, strata=labels).smallest_stratum > 1 and (
            0 < labels.sum() < labels.size
        ):
            difference, low, high = paired_difference(
                roc_auc,
                labels,
                probabilities(chosen),
                probabilities(changed),
                groups,
                seed,
            )
            compared[name]["predicted_minus_this_roc_auc"] = {
                "difference": difference,
                "interval": [low, high],
            }
    return compared
