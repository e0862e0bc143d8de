"""Predicted masks of a table's images, for a training that has no better ones."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cascade.data.tables import Table
from cascade.errors import ConfigError, ImageError
from cascade.imaging import read_image, write_mask
from cascade.imaging.resize import resize_probability
from cascade.lesion.masking import MaskPolicy, find_lesion
from cascade.models.segmenter import Segmenter
from cascade.pipeline.augmented_views import VIEWS, TestTimeAugmentation, average
from cascade.pipeline.stages import segment_views
from cascade.progress import progress

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class WrittenMasks:
    """Numbers of images.

    Attributes:
        written: with a mask now.
        kept: with one from before.
        doubted: without one for want of agreement.
        unreadable: without one because they cannot be read.
    """

    written: int
    kept: int
    doubted: int
    unreadable: int


def write_masks(
    segmenters: Sequence[Segmenter],
    table: Table,
    folder: Path,
    policy: MaskPolicy,
    *,
    tta: TestTimeAugmentation = "none",
    agreement: float = 0.0,
    keep: bool = False,
    leave_out_unreadable: bool = False,
) -> WrittenMasks:
    """Predict the mask of each record's image and write it to ``STEM.png`` in the folder.

    Args:
        segmenters: their maps are averaged, at the largest network's size.
        table: the images.
        folder: where the masks go.
        policy: threshold and component rules of the masks.
        tta: views of each image whose maps are averaged, too.
        agreement: the mask is left out where the views agree less, see :func:`view_agreement`.
        keep: leave the masks alone that are there already.
        leave_out_unreadable: go on where an image cannot be read, with a line in the log.

    Raises:
        ConfigError: agreement is asked of a single view, which always agrees with itself.
        ImageError: an image cannot be read.
    """
    if agreement and len(segmenters) * len(VIEWS[tta]) == 1:
        raise ConfigError(
            f"agreement {agreement:g}: one view agrees with itself; give --tta flips or "
            "--more_models, or leave --agreement out"
        )
    paths = [(record, folder / f"{record.stem}.png") for record in table]
    missing = [(record, path) for record, path in paths if not (keep and path.is_file())]
    doubted = unreadable = 0
    for record, path in progress(missing, description="predicted masks"):
        try:
            image = read_image(record.image_path).pixels
        except ImageError as error:
            if not leave_out_unreadable:
                raise
            unreadable += 1
            log.error("error: %s", error)
            continue
        maps = all_views(segmenters, image, tta=tta)
        if agreement and view_agreement(maps, threshold=policy.threshold) < agreement:
            doubted += 1
            continue
        lesion = find_lesion(average(list(maps)), policy, shape=image.shape[:2])
        write_mask(path, lesion.mask)
    written = len(missing) - doubted - unreadable
    return WrittenMasks(written, len(paths) - len(missing), doubted, unreadable)


def all_views(
    segmenters: Sequence[Segmenter], image: np.ndarray, *, tta: TestTimeAugmentation
) -> np.ndarray:
    """Probability maps ``(V, S, S)`` float32 of all views by all segmenters.

    ``S`` is the largest network's side, ``image`` ``(H, W, 3)`` uint8 RGB.
    """
    size = max(segmenter.size for segmenter in segmenters)
    maps = [view for one in segmenters for view in segment_views(one, [image], tta=tta)[:, 0]]
    return np.stack([resize_probability(one, (size, size)) for one in maps])


def view_agreement(maps: np.ndarray, *, threshold: float) -> float:
    """Mean over views of the IoU of the view's mask with that of the mean map.

    Args:
        maps: ``(V, S, S)`` float.
        threshold: probability from which a pixel is lesion.

    Returns:
        In [0, 1]; 0 where the mean map has no lesion, which nobody should learn from.
    """
    mean = maps.mean(axis=0) >= threshold
    if not mean.any():
        return 0.0
    masks = maps >= threshold
    overlaps = (masks & mean).sum(axis=(1, 2)) / (masks | mean).sum(axis=(1, 2))
    return float(overlaps.mean())
