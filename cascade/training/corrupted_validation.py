"""Validation images as another camera might have taken them, for a calibration that holds there."""

from __future__ import annotations

import numpy as np
import torch

from cascade.config import CLASSES
from cascade.data.corruptions import AMOUNTS, corrupted_image
from cascade.data.tables import Table
from cascade.imaging import read_image
from cascade.lesion.masking import Lesion, apply_mask, find_lesion
from cascade.models.classifier import Classifier
from cascade.models.ensemble import ClassifierEnsemble
from cascade.models.network import inference_mode
from cascade.models.segmenter import Segmenter
from cascade.pipeline.stages import segment, working_side
from cascade.progress import progress


def corrupted_logits(
    segmenter: Segmenter,
    classifier: Classifier | ClassifierEnsemble,
    table: Table,
    *,
    copies: int,
    seed: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Logits of images that were changed at random, each segmented and cut as it is then.

    Args:
        segmenter: the first stage.
        classifier: the second stage.
        table: labelled records.
        copies: different corruptions of each image, drawn among all kinds and strengths.
        seed: decides them.

    Returns:
        ``(N * copies, 2)`` float32 logits before calibration, and ``(N * copies,)`` int64 labels,
        1 for malignant.
    """
    side = working_side(segmenter, classifier)
    generator = np.random.default_rng(seed)
    kinds = list(AMOUNTS)
    logits = [torch.empty(0, len(CLASSES))]
    for record in progress(list(table) if copies else [], description="corrupted images"):
        image = read_image(record.image_path, short_side=side).pixels
        lesion = _lesion(segmenter, classifier, image)
        crops = []
        for number in generator.choice(len(kinds), size=copies, replace=False):
            changed, _ = corrupted_image(image, lesion.mask, record.name, seed, kinds[number])
            found = _lesion(segmenter, classifier, changed)
            crops.append(apply_mask(changed, found, classifier.policy, size=classifier.size).pixels)
        with inference_mode(classifier):
            logits.append(classifier(torch.from_numpy(np.stack(crops)).to(classifier.device)).cpu())
    labels = np.repeat([CLASSES.index(str(record.label)) for record in table], copies)
    return torch.cat(logits).float().numpy(), labels.astype(np.int64)


def _lesion(
    segmenter: Segmenter, classifier: Classifier | ClassifierEnsemble, image: np.ndarray
) -> Lesion:
    probability = segment(segmenter, [image])[0]
    return find_lesion(probability, classifier.policy, shape=image.shape[:2])
