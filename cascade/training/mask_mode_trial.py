"""One classifier for each masking mode, so that nothing but the mode tells them apart."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cascade.config import CLASSES, ClassificationTrainConfig, ClassifierConfig
from cascade.data.splits import Splits, require_disjoint
from cascade.data.tables import Table
from cascade.errors import ConfigError, DataError
from cascade.files import file_digest, read_json, write_json
from cascade.lesion.policy import MASK_MODES, MaskPolicy
from cascade.models.segmenter import Segmenter
from cascade.training.classification import train_classifier
from cascade.training.images_seen import require_unseen
from cascade.training.predicted_masks import write_masks
from cascade.training.run import CONFIG_FILE, open_run, run_settings

log = logging.getLogger(__name__)

WHOLE, NO_MASKS = "whole", "none"
_FINISHED, _MASKS, _SEGMENTER = "finished", "masks.json", "segmenter.json"
_OF_RUNS = (_FINISHED, _MASKS, CONFIG_FILE)


@dataclass(frozen=True)
class _Run:
    """One training: a mode, the masks that cut its crops, and a seed."""

    mode: str
    masks: str
    seed: int
    folder: Path


def train_mask_modes(
    tables: Mapping[str, Table],
    splits: Splits,
    test: Table,
    *,
    modes: Sequence[str] = tuple(MASK_MODES),
    config: ClassifierConfig | None = None,
    training: ClassificationTrainConfig | None = None,
    policy: MaskPolicy | None = None,
    weights: str = "none",
    output: str | Path = "models/mask_modes",
    device: str = "auto",
    repeats: int = 1,
    resume: bool = False,
    overwrite: bool = False,
    resume_changed: bool = False,
) -> dict[tuple[str, str], tuple[Path, ...]]:
    """Train a classifier for each mode and kind of masks, all with the same settings and images.

    The whole image is always among the modes, because the others are compared with it; it is
    trained once, as it needs no masks. Each training is an ordinary run in ``output/MODE_MASKS``.

    ``tables`` are the training table by the kind of its masks, such as ``truth`` and ``predicted``,
    all of the same images; ``modes`` are names of :data:`cascade.lesion.policy.MASK_MODES`.
    ``policy`` gives margin, soft edge and component rules; each mode puts its own frame and
    background. ``repeats`` trains each with one seed after the other; on a resume, which keeps
    finished runs, modes and repeats may be added. The other arguments are those of
    :func:`cascade.train_classifier`.

    Returns:
        By mode and kind of masks (``none`` for the whole image) the classifiers' files, one for
        each seed.

    Raises:
        ConfigError: a mode is unknown, another run is in ``output``, or a resumed run has other
            settings or masks.
        DataError: the tables differ in their images, an image lacks a mask, or the test table has
            one class only.
        LeakageError: a patient, lesion or image is in both training and test.
    """
    config, training = config or ClassifierConfig(), training or ClassificationTrainConfig()
    policies = _policies(modes, policy or MaskPolicy())
    _check_tables(tables, test, policies)
    if repeats < 1:
        raise ConfigError(f"repeats is {repeats}; train each mode at least once")
    shared = {
        key: value
        for key, value in (policy or MaskPolicy()).to_dict().items()
        if key not in ("frame", "background")
    }
    settings = run_settings(config, training, weights)
    settings |= {"mask_policy": shared, "splits_digest": splits.digest}
    folder = Path(output)
    open_run(
        folder, settings, resume=resume, overwrite=overwrite, resume_changed=resume_changed,
        results=[f"{mode}*/{name}" for mode in MASK_MODES for name in _OF_RUNS],
    )  # fmt: skip
    runs = list(_plan(policies, list(tables), folder, seed=training.seed, repeats=repeats))
    trained: dict[tuple[str, str], tuple[Path, ...]] = {}
    for number, run in enumerate(runs, start=1):
        log.info("%s (%d of %d)", run.folder.name, number, len(runs))
        table = tables[run.masks] if run.masks in tables else next(iter(tables.values()))
        _keep_to_masks(run, table)
        if not (run.folder / _FINISHED).is_file():
            train_classifier(
                table,
                splits,
                config=config,
                training=replace(training, seed=run.seed),
                policy=policies[run.mode],
                weights=weights,
                output=run.folder,
                device=device,
                resume=(run.folder / CONFIG_FILE).is_file(),
                resume_changed=resume_changed,
            )
            (run.folder / _FINISHED).touch()
        key = (run.mode, run.masks)
        trained[key] = (*trained.get(key, ()), run.folder / "best.safetensors")
    return trained


def predict_test_masks(
    model: str | Path,
    test: Table,
    folder: str | Path,
    *,
    device: str = "auto",
    policy: MaskPolicy | None = None,
    overwrite: bool = False,
) -> Path:
    """Write the masks that a segmenter predicts for the test images, unless they are there.

    ``policy`` gives threshold and component rules of the masks; ``overwrite`` predicts those that
    are there again.

    Returns:
        The folder, for ``Table.with_masks_from``.

    Raises:
        ConfigError: the folder holds the masks of another segmenter.
        DataError: the segmenter was trained on some of the images.
    """
    segmenter = Segmenter.load(model, device=device)
    require_unseen(segmenter.provenance, test.names(), model=str(model))
    folder, policy = Path(folder), policy or MaskPolicy()
    note = folder / _SEGMENTER
    made_by = {"segmenter": file_digest(model), "threshold": policy.threshold}
    if note.is_file() and not overwrite and read_json(note) != made_by:
        raise ConfigError(
            f"{folder}: holds the masks of another segmenter than {model}; take that one, replace "
            "them (--overwrite) or choose another folder (--output)"
        )
    # without the note nobody knows who made the masks, so they are made again
    kept = note.is_file() and not overwrite
    if not kept:
        write_json(note, made_by)
    write_masks([segmenter], test, folder, policy, keep=kept)
    return folder


def _policies(modes: Sequence[str], policy: MaskPolicy) -> dict[str, MaskPolicy]:
    """Each mode's policy, the whole image first."""
    policies = {}
    for mode in dict.fromkeys((WHOLE, *modes)):
        named = MaskPolicy.from_mode(mode)
        policies[mode] = replace(policy, frame=named.frame, background=named.background)
    return policies


def _check_tables(
    tables: Mapping[str, Table], test: Table, policies: Mapping[str, MaskPolicy]
) -> None:
    """Refuse before hours of training what would fail after them."""
    if not tables:
        raise ConfigError("no training table was given; give one for each kind of masks")
    first = next(iter(tables.values()))
    for name, table in tables.items():
        if table.digest != first.digest:
            raise DataError(
                f"{table.path}: the images with {name} masks are not those of the others, so "
                "the modes could not be compared; give masks for the same images"
            )
        bare = [record.name for record in table if record.mask_path is None]
        if bare and len(policies) > 1:
            raise DataError(
                f"{table.path}: {len(bare)} images have no {name} mask, e.g. {', '.join(bare[:5])}"
            )
    require_disjoint(first, test)
    if len(set(test.labels().tolist())) < len(CLASSES):
        raise DataError(
            f"{test.path}: all {len(test)} test images are {test[0].label}; an AUC needs both"
        )


def _plan(
    policies: Mapping[str, MaskPolicy],
    masks: Sequence[str],
    folder: Path,
    *,
    seed: int,
    repeats: int,
) -> Iterator[_Run]:
    for mode, policy in policies.items():
        for kind in masks if policy.uses_mask else (NO_MASKS,):
            name = f"{mode}_{kind}" if policy.uses_mask else mode
            for own_seed in range(seed, seed + repeats):
                suffix = "" if own_seed == seed else f"_seed_{own_seed}"
                yield _Run(mode, kind, own_seed, folder / f"{name}{suffix}")


def _keep_to_masks(run: _Run, table: Table) -> None:
    """Note which masks a run is trained on; refuse to go on with others."""
    if run.masks == NO_MASKS:
        return
    note = run.folder / _MASKS
    masks = {"masks": table.mask_digest}
    if not note.is_file():
        write_json(note, masks)
    elif read_json(note) != masks:
        raise ConfigError(
            f"{run.folder}: the {run.masks} masks of the training images have changed since it was "
            "begun; use the same ones, or another --output"
        )
