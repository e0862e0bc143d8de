"""The means and variances of batch normalisation, estimated anew for averaged weights.

Averaged weights do not give the average of the members' activations, so the statistics that the
members gathered in training fit the average only where the members lie close together. A pass over
training crops without gradients gives its own (Izmailov et al. 2018, arXiv:1803.05407).
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import update_bn
from torch.utils.data import DataLoader, Subset

from cascade.config import Augmentation
from cascade.data.datasets import ClassificationDataset
from cascade.errors import ConfigError
from cascade.models.classifier import Classifier
from cascade.progress import progress
from cascade.training.loop import quiet_worker, seeded
from cascade.training.run import require_same_division

if TYPE_CHECKING:
    from cascade.data.splits import Splits
    from cascade.data.tables import Table

BATCH_SIZE = 64
log = logging.getLogger(__name__)


def estimate_batch_statistics(
    classifier: Classifier,
    table: Table,
    splits: Splits,
    *,
    images: int,
    augmentation: Augmentation = "none",
    whole_image_share: float = 0.0,
    seed: int = 0,
    num_workers: int = 0,
) -> int:
    """Replace a classifier's batch statistics by those of crops of its training part.

    The crops are cut by the classifier's mask policy. The statistics are the means over batches of
    64 crops (fewer where there are fewer), each counting the same; crops beyond the last full batch
    are left out. What was done is recorded in ``provenance["batch_statistics"]``.

    Args:
        classifier: the network, usually an average; changed in place.
        table: labelled records, with masks if the policy uses them.
        splits: the division that it was trained with.
        images: how many training images are drawn, each at most once; at least 2.
        augmentation: as in its training.
        whole_image_share: as in its training, in [0, 1].
        seed: decides which images are drawn and how they are augmented.
        num_workers: loader processes.

    Returns:
        How many crops were used.

    Raises:
        ConfigError: fewer than two images are asked for, the classifier is calibrated already, or
            it has no batch normalisation.
        DataError: it was trained with another division.
    """
    _check(classifier, splits, images)
    train, _ = splits.parts(table)
    data = ClassificationDataset(
        train.records,
        size=classifier.size,
        policy=classifier.policy,
        augmentation=augmentation,
        seed=seed,
        whole_image_share=whole_image_share,
    )
    drawn = np.random.default_rng(seed).permutation(len(data))[:images].tolist()
    batch_size = min(BATCH_SIZE, len(drawn))
    used = len(drawn) // batch_size * batch_size
    loader: DataLoader[Any] = DataLoader(
        Subset(data, drawn[:used]),
        batch_size=batch_size,
        num_workers=num_workers,
        worker_init_fn=quiet_worker,
    )
    log.info("estimating batch statistics on %d training crops", used)
    with seeded(seed):  # layers that drop at random do so here as in training
        update_bn(
            progress(loader, description="batch statistics", unit="batch"),
            classifier,
            device=classifier.device,
        )
    classifier.eval()
    classifier.provenance["batch_statistics"] = {
        "batch_statistics": used,
        "augmentation": augmentation,
        "whole_image_share": whole_image_share,
        "seed": seed,
    }
    return used


def _check(classifier: Classifier, splits: Splits, images: int) -> None:
    if images < 2:
        raise ConfigError(f"batch statistics of {images} images; at least 2 are needed")
    if classifier.is_calibrated:
        raise ConfigError(
            "the classifier is calibrated; estimate batch statistics first, then calibrate"
        )
    if not any(isinstance(layer, _BatchNorm) for layer in classifier.modules()):
        raise ConfigError(
            f"{classifier.config.architecture} has no batch normalisation, so there are no "
            "statistics to estimate"
        )
    require_same_division(classifier.provenance, splits)
