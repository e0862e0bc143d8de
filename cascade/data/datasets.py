"""Training samples: from checked records to arrays at a network's size.

Both datasets give raw uint8 RGB, because networks own their normalisation. What a sample looks
like depends on the seed, the epoch and the record, never on the process that loads it or on the
cache. What a cache keeps is made before anything random happens: the image and mask at the
network's size, the crop, or for jittered crops the shrunk part of the image that they can reach.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
from torch.utils.data import Dataset

from cascade.config import CLASSES, Augmentation, ExtraAugmentation
from cascade.data.augment import Augmenter
from cascade.data.cache import Sample, SampleCache, sample_key
from cascade.data.tables import Record
from cascade.errors import DataError
from cascade.imaging import read_image, read_mask, read_shape
from cascade.imaging.resize import resize_pixels
from cascade.lesion.masking import (
    LARGEST_MARGIN,
    Box,
    Lesion,
    MaskedCrop,
    MaskPolicy,
    apply_mask,
    crop_box,
    lesion_from_mask,
)

BOX_JITTER = 0.08
"""Largest shift of the lesion's box in training, as a fraction of its longer side."""
MARGIN_JITTER = (0.5, 1.6)
"""Smallest and largest factor on the margin in training."""
OVERSIZE = 1.25
"""Least pixels along the smallest jittered crop that are kept, as a multiple of the crop's side."""


class _Samples(Dataset):
    """Records with a seed and an epoch."""

    def __init__(self, records: Sequence[Record], seed: int, cache: SampleCache | None) -> None:
        self.records = tuple(records)
        self._cache = cache
        self.seed = seed
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.records)

    def sample_seed(self, index: int) -> int:
        """The seed of one sample in this epoch."""
        return int(np.random.SeedSequence([self.seed, self.epoch, index]).generate_state(1)[0])

    def _cached(
        self, record: Record, recipe: str, make: Callable[[], Sample], *, with_mask: bool = True
    ) -> Sample:
        if self._cache is None:
            return make()
        files = [record.image_path, *([_mask_path(record)] if with_mask else [])]
        return self._cache.get(sample_key(files, recipe), make)


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
        extra_augmentation: Sequence[ExtraAugmentation] = (),
        seed: int = 0,
        cache: SampleCache | None = None,
    ) -> None:
        """Take records that all have masks; ``cache`` keeps them at the network's size.

        Raises:
            DataError: a record has no mask; all such names are counted.
        """
        super().__init__(records, seed, cache)
        self.size = size
        self._augment = Augmenter(augmentation, extra=extra_augmentation)
        bare = [record.name for record in self.records if record.mask_path is None]
        if bare:
            raise DataError(f"{len(bare)} images have no mask, e.g. {', '.join(bare[:5])}")

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        record = self.records[index]
        sample = self._cached(record, f"squashed {self.size}", lambda: self._squashed(record))
        image, mask = self._augment(sample.pixels, sample.mask, seed=self.sample_seed(index))
        return np.ascontiguousarray(image), np.ascontiguousarray(mask)

    def _squashed(self, record: Record) -> Sample:
        """Image and mask at the network's size."""
        loaded = read_image(record.image_path, short_side=self.size)
        mask = read_mask(_mask_path(record), shape=read_shape(record.image_path))
        return Sample(
            resize_pixels(loaded.pixels, self.size), _shrunk_mask(mask, (self.size, self.size))
        )


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
        extra_augmentation: Sequence[ExtraAugmentation] = (),
        seed: int = 0,
        whole_image_share: float = 0.0,
        cache: SampleCache | None = None,
    ) -> None:
        """Take labelled records, with masks if the policy uses them.

        Args:
            records: what to cut.
            size: side of the crops in pixels.
            policy: how they are cut.
            augmentation: strength; from ``standard`` on, box and margin vary too.
            extra_augmentation: further changes, see :class:`cascade.data.augment.Augmenter`.
            seed: decides all random choices.
            whole_image_share: share of the samples that show the whole image instead, as the
                cascade does where the mask cannot be trusted.
            cache: keeps crops, or what jittered crops are cut from.

        Raises:
            DataError: a record has no label, or lacks the mask that the policy needs.
        """
        super().__init__(records, seed, cache)
        self.size = size
        self.policy = policy
        self.whole_image_share = whole_image_share
        self._jittered = augmentation in ("standard", "strong") and policy.frame == "crop"
        self._augment = Augmenter(
            augmentation, geometry_only_rotates=self._jittered, extra=extra_augmentation
        )
        for what, missing in (
            ("label", [r.name for r in self.records if r.label is None]),
            ("mask", [r.name for r in self.records if policy.uses_mask and r.mask_path is None]),
        ):
            if missing:
                raise DataError(
                    f"{len(missing)} images have no {what}, e.g. {', '.join(missing[:5])}"
                    + ("; make masks with oof-masks or choose --mask_mode whole" * (what == "mask"))
                )
        self.labels = np.array([CLASSES.index(r.label or "") for r in self.records], np.int64)

    def crop(self, index: int) -> MaskedCrop:
        """One sample's crop before augmentation, cut from the original pixels."""
        return self._cut(self.records[index], self.policy)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        seed = self.sample_seed(index)
        generator = np.random.default_rng(seed)
        policy = self.policy
        if self.whole_image_share and generator.random() < self.whole_image_share:
            policy = policy.without_mask()
        if self._jittered and policy.uses_mask:
            crop = self._jittered_crop(index, generator)
        else:
            crop = self._plain_crop(index, policy)
        pixels, _ = self._augment(crop, seed=seed)
        return np.ascontiguousarray(pixels), int(self.labels[index])

    def _plain_crop(self, index: int, policy: MaskPolicy) -> np.ndarray:
        record = self.records[index]
        recipe = f"crop {self.size} {policy.to_dict() if policy.uses_mask else 'whole'}"
        return self._cached(
            record,
            recipe,
            lambda: Sample(self._cut(record, policy).pixels),
            with_mask=policy.uses_mask,
        ).pixels

    def _cut(self, record: Record, policy: MaskPolicy) -> MaskedCrop:
        if not policy.uses_mask:
            image = read_image(record.image_path, short_side=self.size).pixels
            return apply_mask(image, Lesion(_no_mask(image), None, 0), policy, size=self.size)
        image = read_image(record.image_path).pixels
        mask = read_mask(_mask_path(record), shape=image.shape[:2])
        return apply_mask(image, lesion_from_mask(mask, policy), policy, size=self.size)

    def _jittered_crop(self, index: int, generator: np.random.Generator) -> np.ndarray:
        """A crop whose box and margin are a little wrong, as a segmenter's errors make them."""
        record, policy = self.records[index], self.policy
        recipe = f"reach {self.size} {policy.to_dict()}"
        reach = self._cached(record, recipe, lambda: self._reach(record))
        if reach.box is None:
            return reach.pixels
        mask = _no_mask(reach.pixels) if reach.mask is None else reach.mask.astype(bool)
        longest = _longer(reach.box) * BOX_JITTER
        down, across = np.rint(generator.uniform(-longest, longest, size=2)).astype(int).tolist()
        margin = min(LARGEST_MARGIN, policy.margin * generator.uniform(*MARGIN_JITTER))
        lesion = Lesion(mask, _moved(reach.box, down, across), 1)
        return apply_mask(
            reach.pixels, lesion, replace(policy, margin=margin), size=self.size
        ).pixels

    def _reach(self, record: Record) -> Sample:
        """The part of an image that jittered crops can show, shrunk as far as they allow.

        Without a lesion it is the crop itself.
        """
        shape = read_shape(record.image_path)
        mask = read_mask(_mask_path(record), shape=shape)
        lesion = lesion_from_mask(mask, self.policy)
        if lesion.box is None:
            image = read_image(record.image_path).pixels
            return Sample(apply_mask(image, lesion, self.policy, size=self.size).pixels)
        smallest = _longer(lesion.box) * (1 + 2 * MARGIN_JITTER[0] * self.policy.margin)
        scale = min(1.0, OVERSIZE * self.size / smallest)
        window = _reachable(lesion.box, shape, self.policy.margin)
        image = read_image(record.image_path, short_side=math.ceil(min(shape) * scale)).pixels
        decoded = image.shape[0] / shape[0], image.shape[1] / shape[1]
        target = tuple(max(1, round(length * scale)) for length in _sides(window))
        pixels = cv2.resize(
            _part(image, _scaled(window, *decoded)), target[::-1], interpolation=cv2.INTER_AREA
        )
        down, across = (new / old for new, old in zip(target, _sides(window), strict=True))
        box = _scaled(_moved(lesion.box, -window[0], -window[1]), down, across)
        if self.policy.background == "keep":  # only the box counts
            return Sample(pixels, None, box)
        return Sample(pixels, _shrunk_mask(_part(lesion.mask, window), target), box)


def _no_mask(image: np.ndarray) -> np.ndarray:
    return np.broadcast_to(np.False_, image.shape[:2])


def _shrunk_mask(mask: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """``(H, W)`` bool to uint8 of another shape, 1 where at least half of a pixel was covered."""
    small = cv2.resize(mask.astype(np.float32), shape[::-1], interpolation=cv2.INTER_AREA)
    return (small >= 0.5).astype(np.uint8)


def _reachable(box: Box, shape: tuple[int, int], margin: float) -> Box:
    """The smallest box in an image that holds all jittered crops."""
    margin = min(LARGEST_MARGIN, margin * MARGIN_JITTER[1])
    step = math.ceil(_longer(box) * BOX_JITTER)
    first = crop_box(_moved(box, -step, -step), shape, margin)
    last = crop_box(_moved(box, step, step), shape, margin)
    return max(0, first[0]), max(0, first[1]), min(shape[0], last[2]), min(shape[1], last[3])


def _moved(box: Box, down: int, across: int) -> Box:
    return box[0] + down, box[1] + across, box[2] + down, box[3] + across


def _scaled(box: Box, down: float, across: float) -> Box:
    """A box in another resolution, at least one pixel large."""
    top, left = round(box[0] * down), round(box[1] * across)
    bottom, right = round(box[2] * down), round(box[3] * across)
    return top, left, max(top + 1, bottom), max(left + 1, right)


def _sides(box: Box) -> tuple[int, int]:
    return box[2] - box[0], box[3] - box[1]


def _longer(box: Box) -> int:
    return max(_sides(box))


def _part(values: np.ndarray, box: Box) -> np.ndarray:
    return values[box[0] : box[2], box[1] : box[3]]


def _mask_path(record: Record) -> Path:
    if record.mask_path is None:
        raise DataError(f"{record.name}: has no mask")
    return record.mask_path
