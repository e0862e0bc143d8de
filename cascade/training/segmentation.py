"""Training of the first stage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import segmentation_models_pytorch as smp
import torch
from torch.nn import functional
from torch.utils.data import DataLoader

from cascade.config import SegmentationTrainConfig, SegmenterConfig, TrainConfig
from cascade.data.cache import SampleCache
from cascade.data.datasets import SegmentationDataset
from cascade.data.splits import Splits
from cascade.data.tables import Table
from cascade.errors import DataError
from cascade.models.network import describe_device, inference_mode, resolve_device
from cascade.models.segmenter import Segmenter
from cascade.training import processes
from cascade.training.loop import Trainer, log, quiet_worker, seeded
from cascade.training.order import own_batches
from cascade.training.run import begin_run, run_settings
from cascade.training.task import Row, Task


def train_segmenter(
    table: Table,
    splits: Splits,
    *,
    config: SegmenterConfig | None = None,
    training: TrainConfig | None = None,
    weights: str = "none",
    initial_model: str | Path | None = None,
    output: str | Path = "models/segmenter",
    device: str = "auto",
    resume: bool = False,
    overwrite: bool = False,
    resume_changed: bool = False,
) -> Segmenter:
    """Train a segmenter on the table's training part and keep the best epoch.

    The loss is the mean Dice loss over images plus binary cross entropy. An epoch is judged by the
    mean over validation images of the lesion's IoU at the network's size and threshold 0.5.

    Args:
        table: records with masks.
        splits: which of them train and which validate.
        config: the network.
        training: how to train it.
        weights: ``imagenet``, ``none`` or a local file for the encoder.
        initial_model: file of a trained network of this architecture to start from instead; its
            input size may differ.
        output: folder for ``best.safetensors``, ``last.safetensors``, ``history.csv`` and
            ``config.yaml``.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        resume: go on with the run in ``output``.
        overwrite: replace the run in ``output``.
        resume_changed: go on although settings or data are others, which the file will tell.

    Returns:
        The best segmenter, read back from its file.

    Raises:
        DataError: a record has no mask, or the validation part is empty.
    """
    config = config or SegmenterConfig()
    training = training or SegmentationTrainConfig()
    chosen = resolve_device(device)
    settings = run_settings(config, training, weights, initial_model)
    folder = Path(output)
    with seeded(training.seed):
        network = Segmenter.build(config, weights="none" if initial_model else weights)
    train, validation = splits.parts(table)
    cache = SampleCache(training.cache_gigabytes)
    data = SegmentationDataset(
        train.records,
        size=config.size,
        augmentation=training.augmentation,
        extra_augmentation=training.extra_augmentation,
        seed=training.seed,
        cache=cache,
    )
    held_out = SegmentationDataset(validation.records, size=config.size, cache=cache)
    if len(held_out) == 0:
        raise DataError("the validation part has no image with a mask, so no epoch can be judged")
    begin_run(
        network, folder, settings, table, splits, initial_model,
        resume=resume, overwrite=overwrite, resume_changed=resume_changed,
    )  # fmt: skip
    network.to(chosen)
    log.info(
        "training %s %s on %s: %d images, %d to validate",
        network.config.encoder, config.decoder, describe_device(chosen), len(data), len(held_out),
    )  # fmt: skip
    task = Task(
        data=data,
        loss=lambda segmenter, batch: segmentation_loss(segmenter(batch[0]), batch[1]),
        validate=lambda segmenter: validate_segmenter(segmenter, held_out, training),
        monitor="validation_iou",
    )
    Trainer(network, task, training, folder).run(resume=resume)
    return Segmenter.load(folder / "best.safetensors", device=str(chosen))


def segmentation_loss(logits: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """The mean over images of their Dice loss, plus binary cross entropy.

    Dice is taken image by image, as it is reported, so that small lesions count as much as large
    ones. An image without a lesion has the cross entropy only.

    Args:
        logits: ``(N, S, S)`` float.
        masks: ``(N, S, S)`` integer, 0 or 1.
    """
    values, truth = logits.float(), masks.float()
    # one image with N channels: the library then averages over what are our images
    dice = smp.losses.DiceLoss(mode="multilabel", from_logits=True)(values[None], truth[None])
    return dice + functional.binary_cross_entropy_with_logits(values, truth)


def validate_segmenter(
    segmenter: Segmenter, data: SegmentationDataset, training: TrainConfig
) -> Row:
    """The training loss and the mean IoU over images, at the network's size, threshold 0.5.

    Processes that train together each take some of the batches.
    """
    batches = own_batches(len(data), training.batch_size)
    loader: DataLoader[Any] = DataLoader(
        data,
        batch_sampler=batches,
        num_workers=training.num_workers,
        worker_init_fn=quiet_worker,
    )
    found = torch.zeros(len(data), 2, dtype=torch.double)  # loss and IoU of each image
    with inference_mode(segmenter):
        for places, (images, masks) in zip(batches, loader, strict=True):
            truth = masks.to(segmenter.device).bool()
            logits = segmenter(images.to(segmenter.device)).float()
            found[places, 0] = segmentation_loss(logits, truth).item()
            predicted = logits >= 0
            union = (predicted | truth).sum(dim=(1, 2))
            overlap = (predicted & truth).sum(dim=(1, 2))
            iou = torch.where(union > 0, overlap / union.clamp(min=1), 1.0)
            found[places, 1] = iou.double().cpu()
    loss, iou = processes.total(found).mean(dim=0).tolist()
    return {"validation_loss": loss, "validation_iou": iou}
