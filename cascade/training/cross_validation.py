"""Cross-validation of the classifier: an honest score of every training image, and an ensemble.

Each fold holds whole groups and is an ordinary run. What is held out chooses nothing: the best
epoch is chosen on a part of the fold's training images.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cascade.config import CLASSES, ClassificationTrainConfig, ClassifierConfig
from cascade.data.datasets import ClassificationDataset
from cascade.data.splits import Splits, make_folds
from cascade.data.tables import Table
from cascade.errors import ConfigError, DataError
from cascade.files import write_json
from cascade.lesion.masking import MaskPolicy
from cascade.metrics.classification import classification_metrics
from cascade.models.artifact import read_document
from cascade.models.classifier import Classifier
from cascade.models.ensemble import ClassifierEnsemble
from cascade.models.network import resolve_device
from cascade.pipeline.augmented_views import VIEWS, TestTimeAugmentation
from cascade.training import processes
from cascade.training.classification import (
    malignant_probabilities,
    operating_points,
    predict_raw_logits,
    train_classifier,
)
from cascade.training.images_seen import require_unseen
from cascade.training.out_of_fold import (
    OUT_OF_FOLD_FILE,
    OutOfFold,
    join_folds,
    read_out_of_fold,
    write_out_of_fold,
)
from cascade.training.run import (
    FoldRun,
    data_digest,
    inner_splits,
    open_folds,
    provenance,
    run_settings,
)

log = logging.getLogger(__name__)

ENSEMBLE_FILE = "ensemble.safetensors"
SUMMARY_FILE = "cross_validation.json"


@dataclass(frozen=True)
class CrossValidation:
    """What came out of a cross-validation.

    ``scores`` has one out-of-fold score for each image of the table, in its order; ``metrics`` are
    those of all scores together, with intervals over groups. ``folds`` holds for each fold its
    ``fold`` number, ``n``, ``positives``, ``roc_auc``, ``average_precision`` and ``best_epoch``;
    ``ensemble`` all folds' classifiers with equal weights.
    """

    folder: Path
    scores: OutOfFold
    metrics: dict[str, Any]
    folds: tuple[dict[str, Any], ...]
    ensemble: ClassifierEnsemble


def cross_validate_classifier(
    table: Table,
    *,
    folds: int = 5,
    config: ClassifierConfig | None = None,
    training: ClassificationTrainConfig | None = None,
    policy: MaskPolicy | None = None,
    weights: str = "none",
    initial_model: str | Path | None = None,
    output: str | Path = "models/classifier",
    device: str = "auto",
    validation_fraction: float = 0.15,
    tta: TestTimeAugmentation = "none",
    seed: int = 0,
    resume: bool = False,
    overwrite: bool = False,
    resume_changed: bool = False,
) -> CrossValidation:
    """Train one classifier for each fold, score what it did not see, and join all of them.

    Each fold holds whole groups and both classes; ``validation_fraction`` is the share of its
    training part that chooses its best epoch. ``output`` gets ``fold_N/`` (each an ordinary run),
    ``out_of_fold.csv``, ``cross_validation.json`` and ``ensemble.safetensors``. ``tta`` is the
    test-time augmentation of the out-of-fold scores, and hence of the ensemble's operating points;
    each epoch is validated without. ``seed`` is that of the folds and of the bootstrap; the
    training has its own. A resume keeps finished folds. The other arguments are those of
    :func:`cascade.train_classifier`.

    Raises:
        ConfigError: another run is in ``output``, a resumed run has other settings or images, or
            ``tta`` is unknown.
        DataError: a fold would lack a class, or ``initial_model`` has seen images of the table.
    """
    config, training = config or ClassifierConfig(), training or ClassificationTrainConfig()
    policy = policy or MaskPolicy()
    if tta not in VIEWS:
        raise ConfigError(f"tta is {tta!r}; choose from {', '.join(VIEWS)}")
    folder = Path(output)
    divided = make_folds(table, folds, seed=seed)
    inner = [inner_splits(table, fold, fraction=validation_fraction, seed=seed) for fold in divided]
    _require_both_classes(table, inner)
    settings = run_settings(config, training, weights, initial_model) | {
        "mask_policy": policy.to_dict(), "folds": folds, "fold_seed": seed,
        "validation_fraction": validation_fraction, "table_digest": table.digest,
        "data_digest": data_digest(table),
    }  # fmt: skip
    if tta != "none":
        settings["tta"] = tta
    if initial_model is not None:
        seen = read_document(initial_model)["provenance"].get(Classifier.stage, {})
        require_unseen(seen, table.names(), model=str(initial_model))
    results = (OUT_OF_FOLD_FILE, SUMMARY_FILE, ENSEMBLE_FILE)
    runs = open_folds(
        folder, divided, settings, resume=resume, overwrite=overwrite,
        resume_changed=resume_changed, results=results,
    )  # fmt: skip
    for run, splits in zip(runs, inner, strict=True):
        log.info("fold %d of %d", run.number + 1, folds)
        if run.finished:
            continue
        classifier = train_classifier(
            table, splits, config=config, training=training, policy=policy, weights=weights,
            initial_model=initial_model, output=run.folder, device=device, resume=run.started,
            resume_changed=resume_changed,
        )  # fmt: skip
        if processes.is_main():
            write_out_of_fold(
                run.folder / OUT_OF_FOLD_FILE, _score_fold(classifier, table, run, training, tta)
            )
            run.finish()
    processes.wait()
    return _join(table, runs, settings, folder, device=device)


def _require_both_classes(table: Table, inner: Sequence[Splits]) -> None:
    """Fail before the first fold trains, and not in the last one.

    Raises:
        DataError: a fold's training or validation part has one class only.
    """
    labels = dict(zip(table.names(), table.labels().tolist(), strict=True))
    for number, splits in enumerate(inner):
        for side, names in (("training", splits.train), ("validation", splits.validation)):
            present = {labels[name] for name in names}
            if len(present) < len(CLASSES):
                only = CLASSES[present.pop()]
                raise DataError(
                    f"{table.path}: the {side} part of fold {number} ({len(names)} images) is all "
                    f"{only}; use fewer folds, more images or another --validation_fraction"
                )


def _score_fold(
    classifier: Classifier,
    table: Table,
    run: FoldRun,
    training: ClassificationTrainConfig,
    tta: TestTimeAugmentation,
) -> OutOfFold:
    held_out = table.subset(run.fold.validation)
    data = ClassificationDataset(held_out.records, size=classifier.size, policy=classifier.policy)
    logits = predict_raw_logits(classifier, data, training, tta=tta)
    sources = [record.attributes.get("source") for record in held_out]
    return OutOfFold(
        names=tuple(held_out.names()),
        labels=held_out.labels(),
        groups=tuple(held_out.groups()),
        folds=np.full(len(held_out), run.number, np.int64),
        logits=(logits[:, 1] - logits[:, 0]).cpu().numpy().astype(np.float64),
        probabilities=malignant_probabilities(classifier.calibrated(logits)),
        sources=None if None in sources else tuple(str(source) for source in sources),
    )


def _join(
    table: Table, runs: Sequence[FoldRun], settings: dict[str, Any], folder: Path, *, device: str
) -> CrossValidation:
    """Write the scores of all folds, their summary and the ensemble."""
    parts = [read_out_of_fold(run.folder / OUT_OF_FOLD_FILE) for run in runs]
    scores = join_folds(parts, table.names())
    metrics = classification_metrics(
        scores.labels,
        scores.probabilities,
        groups=scores.groups,
        seed=settings["fold_seed"],
        names=scores.names,
    )
    members = [Classifier.load(run.folder / "best.safetensors", device="cpu") for run in runs]
    summaries = tuple(
        {
            "fold": run.number,
            **_point_metrics(part),
            "best_epoch": member.metrics["validation"]["epoch"],
        }
        for run, part, member in zip(runs, parts, members, strict=True)
    )
    ensemble = ClassifierEnsemble(members)
    # scores of one member each; their mean is less extreme, so its sensitivity is near the target
    ensemble.operating_points = operating_points(scores.labels, scores.probabilities)
    ensemble.metrics = {"out_of_fold": metrics, "folds": list(summaries)}
    ensemble.provenance = {
        **provenance(table, runs[0].fold, settings),
        "splits": {"folds": len(runs), "seed": settings["fold_seed"]},
    }
    if processes.is_main():
        write_out_of_fold(folder / OUT_OF_FOLD_FILE, scores)
        write_json(
            folder / SUMMARY_FILE,
            {"table": table.path.name, "table_digest": table.digest, "out_of_fold": metrics,
             "folds": summaries},
        )  # fmt: skip
        ensemble.save(folder / ENSEMBLE_FILE)
    return CrossValidation(
        folder, scores, metrics, summaries, ensemble.to(resolve_device(device)).eval()
    )


def _point_metrics(part: OutOfFold) -> dict[str, Any]:
    found = classification_metrics(part.labels, part.probabilities, resamples=1)
    return {name: found[name] for name in ("n", "positives", "roc_auc", "average_precision")}
