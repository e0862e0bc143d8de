"""Training of the second stage, on masked crops."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from cascade.config import CLASSES, ClassificationTrainConfig, ClassifierConfig
from cascade.data.cache import SampleCache
from cascade.data.datasets import ClassificationDataset
from cascade.data.splits import Splits
from cascade.data.tables import Record, Table
from cascade.errors import DataError
from cascade.lesion.masking import MaskPolicy
from cascade.metrics.classification import cutoff_at_sensitivity
from cascade.models.classifier import Classifier
from cascade.models.network import describe_device, inference_mode, resolve_device
from cascade.pipeline.augmented_views import VIEWS, TestTimeAugmentation, view
from cascade.training import processes
from cascade.training.diagnosis import (
    DiagnosedCrops,
    class_loss,
    diagnoses_of,
    diagnosis_frequencies,
    diagnosis_indices,
    drawn_excess,
    with_diagnosis,
    with_diagnosis_shares,
)
from cascade.training.loop import Trainer, log, quiet_worker, seeded
from cascade.training.mixing import Mixing
from cascade.training.order import batches_of, own_batches
from cascade.training.run import begin_run, run_settings
from cascade.training.task import Row, Task

SENSITIVITIES = (0.80, 0.90, 0.95)


def train_classifier(
    table: Table,
    splits: Splits,
    *,
    config: ClassifierConfig | None = None,
    training: ClassificationTrainConfig | None = None,
    policy: MaskPolicy | None = None,
    weights: str = "none",
    initial_model: str | Path | None = None,
    output: str | Path = "models/classifier",
    device: str = "auto",
    resume: bool = False,
    overwrite: bool = False,
    resume_changed: bool = False,
) -> Classifier:
    """Train a classifier on masked crops of the table's training part and keep the best epoch.

    The masks are those of the table: human ones, or predicted ones after
    ``table.with_masks_from(folder)``. The rarer class of the training part is found and weighted
    by ``class_weight`` in the cross entropy. An epoch is judged by the area under the ROC curve.

    Args:
        table: labelled records, with masks if the policy uses them.
        splits: which of them train and which validate.
        config: the network.
        training: how to train it.
        policy: how masks cut the crops; stored in the classifier's file.
        weights: ``imagenet``, ``none`` or a local file.
        initial_model: file of a trained network of this architecture to start from instead; its
            input size may differ.
        output: folder for the run's files.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        resume: go on with the run in ``output``.
        overwrite: replace the run in ``output``.
        resume_changed: go on although settings or data are others, which the file will tell.

    Returns:
        The best classifier, with cutoffs for given sensitivities chosen on the validation part.

    Raises:
        DataError: the training part has one class only.
    """
    config, training = config or ClassifierConfig(), training or ClassificationTrainConfig()
    policy = policy or MaskPolicy()
    chosen = resolve_device(device)
    settings = run_settings(config, training, weights, initial_model)
    settings["mask_policy"] = policy.to_dict()
    folder = Path(output)
    with seeded(training.seed):
        start = "none" if initial_model else weights
        network = Classifier.build(config, policy=policy, weights=start)
    train, validation = splits.parts(table)
    data, held_out = _crops(train, validation, network.size, policy, training)
    class_weights = rarer_class_weights(data.labels, training.class_weight)
    _require_both_classes(held_out)
    begin_run(
        network, folder, settings, table, splits, initial_model,
        resume=resume, overwrite=overwrite, resume_changed=resume_changed,
    )  # fmt: skip
    network.to(chosen)
    log.info(
        "training %s on %s: %d crops (%d malignant), %d to validate",
        network.config.architecture, describe_device(chosen), len(data), data.labels.sum(),
        len(held_out),
    )  # fmt: skip
    task = classification_task(network, data, held_out, training, class_weights.to(chosen))
    Trainer(network, task, training, folder).run(resume=resume)
    best = Classifier.load(folder / "best.safetensors", device=str(chosen))
    probabilities = malignant_probabilities(predict_logits(best, held_out, training))
    best.operating_points = operating_points(held_out.labels, probabilities)
    processes.wait()  # all have read it
    if processes.is_main():
        best.save(folder / "best.safetensors")
    processes.wait()
    return best


def _crops(
    train: Table,
    validation: Table,
    size: int,
    policy: MaskPolicy,
    training: ClassificationTrainConfig,
) -> tuple[ClassificationDataset, ClassificationDataset]:
    """What is trained and validated on."""
    cache = SampleCache(training.cache_gigabytes)
    data = ClassificationDataset(
        train.records,
        size=size,
        policy=policy,
        augmentation=training.augmentation,
        extra_augmentation=training.extra_augmentation,
        seed=training.seed,
        whole_image_share=training.whole_image_share,
        cache=cache,
    )
    return data, ClassificationDataset(validation.records, size=size, policy=policy, cache=cache)


def _require_both_classes(held_out: ClassificationDataset) -> None:
    if len(set(held_out.labels.tolist())) < len(CLASSES):
        raise DataError(
            f"the validation part ({len(held_out)} images) has one class only, so no epoch can be "
            "judged; use more images, or another --validation_fraction or --splits"
        )


def classification_task(
    network: Classifier,
    data: ClassificationDataset,
    held_out: ClassificationDataset,
    training: ClassificationTrainConfig,
    class_weights: torch.Tensor,
) -> Task:
    """What a classifier is trained on, with the diagnosis as second question where asked for.

    The network gets a layer for that question, or loses the one it had.
    """
    criterion = torch.nn.CrossEntropyLoss(
        weight=class_weights, label_smoothing=training.label_smoothing
    )

    mixing = Mixing(training.mixup, training.cutmix, training.consistency)

    def loss(classifier: Classifier, batch: Sequence[torch.Tensor]) -> torch.Tensor:
        return classification_loss(classifier, batch, criterion, mixing)

    task = Task(
        data=data,
        loss=loss,
        validate=lambda classifier: validate_classifier(classifier, held_out, training, criterion),
        monitor="validation_roc_auc",
        shares=lambda batch: class_weights[batch[1]].sum(),
        weights=sampling_weights(data.records, training),
    )
    if not training.diagnosis_weight:
        network.set_diagnoses(None)  # one of an earlier training would not fit new features
        return task
    diagnoses = diagnoses_of(data.records)
    log.info("also asking for the diagnosis: %s", ", ".join(diagnoses.names))
    with seeded(training.seed):
        network.set_diagnoses(diagnoses)
    indices = diagnosis_indices(data.records, diagnoses)
    excess = drawn_excess(indices, diagnoses, task.weights)
    return replace(
        task,
        data=DiagnosedCrops(data, indices),
        loss=with_diagnosis(criterion, training.diagnosis_weight, mixing, excess),
        shares=with_diagnosis_shares(task.shares),
    )


def operating_points(labels: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
    """Target sensitivity, as text such as ``"0.90"``, to the cutoff that reaches it."""
    return {
        f"{target:.2f}": cutoff_at_sensitivity(labels, probabilities, target)
        for target in SENSITIVITIES
    }


def sampling_weights(
    records: Sequence[Record], training: ClassificationTrainConfig
) -> np.ndarray | None:
    """How often each record is drawn relative to the others, or ``None`` for once an epoch.

    ``balanced_sampling`` makes both classes equally likely; ``source_balance`` divides by the size
    of the source of a record (column ``source``) to that power, ``diagnosis_balance`` by the number
    of records with its diagnosis.

    Raises:
        DataError: sources are to be balanced, but a record has none; or diagnoses, but none is
            known.
    """
    weights = np.ones(len(records))
    if training.diagnosis_balance:
        weights *= diagnosis_frequencies(records) ** -training.diagnosis_balance
    if training.source_balance:
        sources = [record.attributes.get("source", "") for record in records]
        bare = [record.name for record in records if not record.attributes.get("source")]
        if bare:
            raise DataError(
                f"{len(bare)} images have no source, e.g. {', '.join(bare[:3])}; fill the column "
                "'source' or set --source_balance 0"
            )
        sizes = Counter(sources)
        weights *= np.array([sizes[source] for source in sources]) ** -training.source_balance
    if training.balanced_sampling:
        labels = np.array([record.label or "" for record in records])
        for label in CLASSES:
            weights[labels == label] /= weights[labels == label].sum()
    balanced = training.source_balance, training.diagnosis_balance, training.balanced_sampling
    return weights if any(balanced) else None


def rarer_class_weights(labels: np.ndarray, weight: float) -> torch.Tensor:
    """Weights of both classes: ``weight`` for the rarer one, 1 for the other.

    Of two equally large classes, malignant gets the weight.

    Raises:
        DataError: there is only one class.
    """
    counts = np.bincount(labels, minlength=len(CLASSES))
    if (counts == 0).any():
        only = CLASSES[int(counts.argmax())]
        raise DataError(f"all {labels.size} training images are {only}; both classes are needed")
    weights = torch.ones(len(CLASSES))
    rarer = int(counts[1] <= counts[0])
    weights[rarer] = weight
    if weight != 1:
        log.info("the rarer class is %s (%d images); its weight is %g",
                 CLASSES[rarer], counts[rarer], weight)  # fmt: skip
    return weights


def classification_loss(
    classifier: Classifier,
    batch: Sequence[torch.Tensor],
    criterion: torch.nn.Module,
    mixing: Mixing = Mixing(),  # noqa: B008  (frozen)
) -> torch.Tensor:
    """The criterion of a batch of crops and labels, mixed and copied where asked for."""
    crops, labels = batch
    mixed = mixing.mix(crops)
    logits, auxiliary = classifier.forward_with_auxiliary(mixed.crops)
    loss = mixed.loss(
        lambda targets: class_loss(classifier, logits, auxiliary, targets[0], criterion), [labels]
    )
    return loss + mixed.divergence(logits)


def predict_logits(
    classifier: Classifier, data: ClassificationDataset, training: ClassificationTrainConfig
) -> torch.Tensor:
    """Calibrated logits ``(N, 2)`` float32 over a data set.

    Processes that train together each take some of the batches, and all have the whole result.
    """
    batches = own_batches(len(data), training.batch_size)
    logits = predict_raw_logits(classifier, data, training, batches=batches)
    found = torch.zeros(len(data), len(CLASSES), device=logits.device)
    found[[place for batch in batches for place in batch]] = logits
    return classifier.calibrated(processes.total(found))


def predict_raw_logits(
    classifier: Classifier,
    data: ClassificationDataset,
    training: ClassificationTrainConfig,
    *,
    tta: TestTimeAugmentation = "none",
    batches: Sequence[list[int]] | None = None,
) -> torch.Tensor:
    """Logits ``(N, 2)`` float32 over a data set, as the network gives them before calibration.

    With several views they are the logarithms of the mean of their probabilities. ``batches`` are
    places in the data set, by default all of them in their order.
    """
    if batches is None:
        batches = batches_of(len(data), training.batch_size)
    loader: DataLoader[Any] = DataLoader(
        data,
        batch_sampler=batches,
        num_workers=training.num_workers,
        worker_init_fn=quiet_worker,
    )
    with inference_mode(classifier):
        logits = [_logits_of_views(classifier, crops, tta) for crops, _ in loader]
    return torch.cat([torch.empty(0, len(CLASSES), device=classifier.device), *logits])


def _logits_of_views(
    classifier: Classifier, crops: torch.Tensor, tta: TestTimeAugmentation
) -> torch.Tensor:
    turned = [torch.from_numpy(view(crops.numpy(), how)) for how in VIEWS[tta]]
    judged = [classifier(batch.to(classifier.device)).float() for batch in turned]
    if len(judged) == 1:
        return judged[0]
    logarithms = torch.stack([logits.log_softmax(dim=1) for logits in judged])
    return logarithms.logsumexp(dim=0) - math.log(len(judged))


def malignant_probabilities(logits: torch.Tensor) -> np.ndarray:
    """``(N,)`` float64 probabilities of malignant."""
    return logits.softmax(dim=1)[:, 1].cpu().numpy().astype(np.float64)


def validate_classifier(
    classifier: Classifier,
    data: ClassificationDataset,
    training: ClassificationTrainConfig,
    criterion: torch.nn.Module,
) -> Row:
    """The training loss, accuracy and ROC AUC over crops; the AUC of broken logits is NaN."""
    from sklearn.metrics import roc_auc_score

    logits = predict_logits(classifier, data, training)
    loss = float(criterion(logits, torch.from_numpy(data.labels).to(logits.device)))
    probabilities = malignant_probabilities(logits)
    usable = bool(np.isfinite(probabilities).all())
    return {
        "validation_loss": loss,
        "validation_accuracy": float(((probabilities >= 0.5) == data.labels).mean()),
        "validation_roc_auc": (
            float(roc_auc_score(data.labels, probabilities)) if usable else math.nan
        ),
    }
