"""Cross-validation of the segmenter: for each image a mask from a network that never saw it.

A classifier that trains on human masks meets worse ones in use. Out-of-fold masks have the errors
of a real segmenter and leak nothing, because each fold holds whole groups.
"""

from __future__ import annotations

import logging
from pathlib import Path

from cascade.config import SegmentationTrainConfig, SegmenterConfig, TrainConfig
from cascade.data.splits import make_folds
from cascade.data.tables import Table
from cascade.lesion.masking import MaskPolicy
from cascade.training import processes
from cascade.training.predicted_masks import write_masks
from cascade.training.run import data_digest, inner_splits, open_folds, run_settings
from cascade.training.segmentation import train_segmenter

log = logging.getLogger(__name__)


def out_of_fold_masks(
    table: Table,
    *,
    folds: int = 5,
    config: SegmenterConfig | None = None,
    training: TrainConfig | None = None,
    weights: str = "none",
    output: str | Path = "models/oof",
    device: str = "auto",
    policy: MaskPolicy | None = None,
    validation_fraction: float = 0.1,
    seed: int = 0,
    resume: bool = False,
    overwrite: bool = False,
    resume_changed: bool = False,
) -> Path:
    """Train one segmenter for each fold and write the masks of the images it did not see.

    ``validation_fraction`` is the share of each fold's training part that chooses its best epoch,
    ``policy`` gives threshold and component rules of the masks, and ``output`` gets ``fold_N/``
    (each an ordinary run) and ``masks/STEM.png``. The other arguments are those of
    :func:`cascade.train_segmenter`; a resume keeps finished folds.

    Returns:
        The folder of masks, for ``Table.with_masks_from``.

    Raises:
        ConfigError: another run is in ``output``, or a resumed run has other settings or images.
    """
    config, training = config or SegmenterConfig(), training or SegmentationTrainConfig()
    policy = policy or MaskPolicy()
    folder, masks = Path(output), Path(output) / "masks"
    divided = make_folds(table, folds, seed=seed, both_classes=False)
    settings = run_settings(config, training, weights) | {
        "mask_policy": policy.to_dict(), "folds": folds, "fold_seed": seed,
        "validation_fraction": validation_fraction, "table_digest": table.digest,
        "data_digest": data_digest(table),
    }  # fmt: skip
    runs = open_folds(
        folder, divided, settings, resume=resume, overwrite=overwrite,
        resume_changed=resume_changed, results=("masks/*.png",),
    )  # fmt: skip
    for run in runs:
        log.info("fold %d of %d", run.number + 1, folds)
        if not run.finished:
            segmenter = train_segmenter(
                table,
                inner_splits(table, run.fold, fraction=validation_fraction, seed=seed),
                config=config,
                training=training,
                weights=weights,
                output=run.folder,
                device=device,
                resume=run.started,
                resume_changed=resume_changed,
            )
            if processes.is_main():
                write_masks([segmenter], table.subset(run.fold.validation), masks, policy)
                run.finish()
    processes.wait()
    return masks
