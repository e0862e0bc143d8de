"""From several cross-validation runs to one ensemble."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cascade.models.ensemble import (
    SMALLEST_WEIGHT,
    ClassifierEnsemble,
    join_classifiers,
    load_classifier,
)
from cascade.training.classification import operating_points
from cascade.training.cross_validation import ENSEMBLE_FILE
from cascade.training.out_of_fold import OUT_OF_FOLD_FILE, read_out_of_fold, require_same_images
from cascade.training.weight_search import EQUAL, SEARCHED, Comparison, compare_runs

log = logging.getLogger(__name__)


def join_runs(
    runs: Sequence[str | Path], output: str | Path, *, searched: bool = False, seed: int = 0
) -> Comparison:
    """Compare cross-validation runs, join their ensembles and write the result.

    Args:
        runs: folders of :func:`cascade.training.cross_validation.cross_validate_classifier` over
            the same images and folds.
        output: the ``.safetensors`` file to write.
        searched: take the searched weights instead of equal ones.
        seed: seed of the search and of the intervals.

    Raises:
        DataError: a run has no out-of-fold scores, or the runs differ in images or folds.
        ModelFileError: a run has no ensemble.
        ConfigError: the runs' classifiers differ in mask policy or size.
    """
    scores = require_same_images(
        [read_out_of_fold(Path(run) / OUT_OF_FOLD_FILE) for run in runs], runs
    )
    parts = [load_classifier(Path(run) / ENSEMBLE_FILE, device="cpu") for run in runs]
    names = [str(run) for run in runs]
    first = scores[0]
    probabilities = np.stack([item.probabilities for item in scores])
    equal = (1 / len(parts),) * len(parts)
    joined = join_classifiers(parts, equal)  # refuses runs that do not fit, before the long search
    comparison = compare_runs(
        names, probabilities, first.labels, first.groups, first.folds, seed=seed
    )
    weights = comparison.weights if searched else equal
    if searched:
        for name, weight in zip(names, weights, strict=True):
            if weight < SMALLEST_WEIGHT:
                log.warning("%s: left out of the ensemble, the search gives it no weight", name)
        joined = join_classifiers(parts, weights)
    mean = np.clip(np.array(weights) @ probabilities, 0.0, 1.0)
    joined.operating_points = operating_points(first.labels, mean)
    _document(joined, parts, comparison, searched=searched)
    joined.save(output)
    return comparison


def _document(
    joined: ClassifierEnsemble, parts: Sequence[Any], comparison: Comparison, *, searched: bool
) -> None:
    joined.metrics = {
        "out_of_fold": comparison.metrics[SEARCHED if searched else EQUAL],
        "weights": "search" if searched else "equal",
        "comparison": {name: metrics["roc_auc"] for name, metrics in comparison.metrics.items()},
        "differences": comparison.differences,
        "fold_weights": {str(fold): row for fold, row in comparison.fold_weights.items()},
    }
    seen = {mark for part in parts for mark in part.provenance.get("trained_on", ())}
    joined.provenance = {
        "trained_on": sorted(seen),
        "runs": [
            {key: value for key, value in part.provenance.items() if key != "trained_on"}
            for part in parts
        ],
    }
