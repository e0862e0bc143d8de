"""Training samples: from checked records to arrays at a network's size.

Both datasets give raw uint8 RGB, because networks own their normalisation. What a sample looks
like depends on the seed, the epoch and the record, never on the process that loads it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
from torch.utils.data import Dataset

from cascade.config import CLASSES, Augmentation
from cascade.data.augment import Augmenter
from cascade.data.tables import Record
from cascade.errors import DataError
from cascade.imaging import read_image, read_mask, read_shape
from cascade.imaging.resize import resize_pixels
from cascade.lesion.masking import (
    LARGEST_MARGIN,
    Lesion,
    MaskedCrop,
    MaskPolicy,
    apply_mask,
    lesion_from_mask,
)

BOX_JITTER = 0.08
"""Largest shift of the lesion's box in training, as a fraction of its longer side."""


class _Samples(Dataset):
    """Records with a seed and an epoch."""

    def __init__(self, records: Sequence[Record], seed: int) -> None:
        self.records = tuple(records)
        self.seed = seed
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.records)

    def sample_seed(self, index: int) -> int:
        """The seed of one sample in this epoch."""
        return int(np.random.SeedSequence([self.seed, self.epoch, index]).generate_state(1)[0])


class SegmentationDataset(_Samples):
    """Images with their masks, squashed to the segmenter's square as in prediction.

    Items are ``image`` ``(S, S, 3)`` uint8 RGB and ``mask`` ``(S, S)`` uint8, 0 or 1.
    """

    def __init__(
        self,
        records: Sequence[Record],
        *,
        size: int,
        augmentation: Augmentation = "none",
        seed: int = 0,
    ) -> None:
        """Take records that all have masks.

        Raises:
            DataError: a record has no mask; all such names are counted.
        """
        super().__init__(records, seed)
        self.size = size
        self._augment = Augmenter(augmentation)
        bare = [record.name for record in self.records if record.mask_path is None]
        if bare:
            raise DataError(f"{len(bare)} images have no mask, e.g. {', '.join(bare[:5])}")

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        record = self.records[index]
        loaded = read_image(record.image_path, short_side=self.size)
        mask = read_mask(_mask_path(record), shape=read_shape(record.image_path))
        image = resize_pixels(loaded.pixels, self.size)
        square = (self.size, self.size)
        small = cv2.resize(mask.astype(np.float32), square, interpolation=cv2.INTER_AREA)
        image, changed = self._augment(
            image, (small >= 0.5).astype(np.uint8), seed=self.sample_seed(index)
        )
        return np.ascontiguousarray(image), np.ascontiguousarray(changed)


class ClassificationDataset(_Samples):
    """Masked crops with their labels, cut exactly as the cascade cuts them.

    Items are ``crop`` ``(S, S, 3)`` uint8 RGB and the label, 0 for benign and 1 for malignant.
    """

    def __init__(
        self,
        records: Sequence[Record],
        *,
        size: int,
        policy: MaskPolicy,
        augmentation: Augmentation = "none",
        seed: int = 0,
        whole_image_share: float = 0.0,
    ) -> None:
        """Take labelled records, with masks if the policy uses them.

        Args:
            records: what to cut.
            size: side of the crops in pixels.
            policy: how they are cut.
            augmentation: strength; from ``standard`` on, box and margin vary too.
            seed: decides all random choices.
            whole_image_share: share of the samples that show the whole image instead, as the
                cascade does where the mask cannot be trusted.

        Raises:
            DataError: a record has no label, or lacks the mask that the policy needs.
        """
        super().__init__(records, seed)
        self.size = size
        self.policy = policy
        self.whole_image_share = whole_image_share
        self._jittered = augmentation in ("standard", "strong") and policy.frame == "crop"
        self._augment = Augmenter(augmentation, geometry_only_rotates=self._jittered)
        for what, missing in (
            ("label", [r.name for r in self.records if r.label is None]),
            ("mask", [r.name for r in self.records if policy.uses_mask and r.mask_path is None]),
        ):
            if missing:
                raise DataError(
                    f"{len(missing)} images have no {what}, e.g. {', '.join(missing[:5])}"
                    + ("; make masks with oof-masks or choose --mask_mode whole" * (what == "mask"))
                )
        self._boxes: dict[int, Lesion] = {}
        self.labels = np.array([CLASSES.index(r.label or "") for r in self.records], np.int64)

    def crop(self, index: int) -> MaskedCrop:
        """One sample's crop before augmentation."""
        return self._cut(index, self.policy, None)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        seed = self.sample_seed(index)
        generator = np.random.default_rng(seed)
        policy = self.policy
        if self.whole_image_share and generator.random() < self.whole_image_share:
            policy = policy.without_mask()
        crop = self._cut(index, policy, generator if self._jittered else None)
        pixels, _ = self._augment(crop.pixels, seed=seed)
        return np.ascontiguousarray(pixels), int(self.labels[index])

    def _cut(
        self, index: int, policy: MaskPolicy, generator: np.random.Generator | None
    ) -> MaskedCrop:
        record = self.records[index]
        if not policy.uses_mask:
            image = read_image(record.image_path, short_side=self.size).pixels
            empty = np.zeros(image.shape[:2], bool)
            return apply_mask(image, Lesion(empty, None, 0), policy, size=self.size)
        image = read_image(record.image_path).pixels
        lesion = self._lesion(index, image.shape[:2])
        if generator is not None:
            lesion = _shifted(lesion, generator)
            margin = min(LARGEST_MARGIN, policy.margin * generator.uniform(0.5, 1.6))
            policy = replace(policy, margin=margin)
        return apply_mask(image, lesion, policy, size=self.size)

    def _lesion(self, index: int, shape: tuple[int, int]) -> Lesion:
        """The lesion of one record; where only its box counts, each mask is read once."""
        known = self._boxes.get(index)
        if known is not None:
            return replace(known, mask=np.broadcast_to(np.False_, shape))
        mask = read_mask(_mask_path(self.records[index]), shape=shape)
        lesion = lesion_from_mask(mask, self.policy)
        if self.policy.background == "keep":
            self._boxes[index] = replace(lesion, mask=np.zeros((1, 1), bool))
        return lesion


def _mask_path(record: Record) -> Path:
    if record.mask_path is None:
        raise DataError(f"{record.name}: has no mask")
    return record.mask_path


def _shifted(lesion: Lesion, generator: np.random.Generator) -> Lesion:
    """The lesion with its box moved a little, as a segmenter's errors would move it."""
    if lesion.box is None:
        return lesion
    top, left, bottom, right = lesion.box
    reach = BOX_JITTER * max(bottom - top, right - left)
    down, across = np.rint(generator.uniform(-reach, reach, size=2)).astype(int).tolist()
    return replace(lesion, box=(top + down, left + across, bottom + down, right + across))
