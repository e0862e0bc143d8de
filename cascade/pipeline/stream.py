"""A stream of images through both stages: read, segment, cut, classify, put together.

On a CPU, where the stages allow it, each of several threads carries a whole image from file to
prediction with networks that compute in that thread alone: nothing waits for anything but the
processor. On a GPU the networks take batches, and threads read, cut and measure meanwhile.
"""

from __future__ import annotations

import itertools
import math
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from cascade.errors import CascadeError, ModelFileError
from cascade.imaging import ImageLimits, ImageSource, LoadedImage, NamedBytes, read_image
from cascade.imaging.read import reduced
from cascade.imaging.resize import reduction, resize_pixels
from cascade.lesion.masking import (
    Lesion,
    MaskedCrop,
    MaskPolicy,
    apply_mask,
    find_lesion,
    lesion_at,
)
from cascade.models.cores import usable_cores
from cascade.models.protocol import ClassifierStage, SegmenterStage, single_threaded
from cascade.pipeline.assemble import DecisionRule, Joined, assemble, full_box
from cascade.pipeline.augmented_views import TestTimeAugmentation, average
from cascade.pipeline.metadata import MetadataOf, paired
from cascade.pipeline.prediction import Failure, Prediction
from cascade.pipeline.stages import (
    classify_with_shares,
    segment_views,
    segment_views_with_features,
)
from cascade.reliability import Metadata, Safeguards, mask_quality

Result = Prediction | Failure
Item = TypeVar("Item")
Outcome = TypeVar("Outcome")

_ON_GPU = 32
"""Images that pass a GPU together by default."""


@dataclass(frozen=True)
class Chain:
    """Both stages, and everything that decides what becomes of an image.

    Attributes:
        segmenter: finds the lesion.
        classifier: judges the crop.
        rule: how probabilities become an answer.
        safeguards: when not to trust it.
        limits: what images are accepted.
        working_side: pixels that the short side of an image keeps at least when it is read.
        tta: test-time augmentation.
        bgr: arrays hold blue first.
        pixels_per_millimetre: scale of all images, or ``None``.
    """

    segmenter: SegmenterStage
    classifier: ClassifierStage
    rule: DecisionRule
    safeguards: Safeguards
    limits: ImageLimits
    working_side: int
    tta: TestTimeAugmentation = "none"
    bgr: bool = False
    pixels_per_millimetre: float | None = None

    def predict(
        self,
        sources: Iterable[ImageSource | LoadedImage],
        *,
        batch_size: int | None,
        metadata: MetadataOf = None,
    ) -> Iterator[Result]:
        """One result for each source, in order; a bounded number is under way at a time.

        Args:
            sources: read ahead by a few images.
            batch_size: images that pass the networks together where one thread computes them;
                ``None`` takes 32 on a GPU, else 1.
            metadata: of all sources, or of each; see :func:`cascade.pipeline.metadata.paired`.
        """
        one = isinstance(sources, Sequence) and len(sources) == 1
        pairs = paired(sources, metadata, self.rule.metadata)
        held = (_Asked(self._hold(source), known) for source, known in pairs)
        if one:
            yield self.predict_one(next(held))
            return
        if getattr(self.segmenter, "on_gpu", False):
            yield from self._in_batches(held, batch_size or _ON_GPU)
            return
        chain = self._single_threaded()
        if chain is not None:
            yield from in_order(chain.predict_one, held, workers=chain.segmenter.cores)
            return
        for batch in _batches(in_order(self._read, held, workers=1), batch_size or 1):
            yield from self._predict_batch(batch)

    def _in_batches(self, held: Iterator[_Asked], batch_size: int) -> Iterator[Result]:
        """All cores read, cut and measure while the device computes; two batches are under way."""
        cores = usable_cores()
        pool = ThreadPoolExecutor(cores)
        batches = _batches(in_order(self._read, held, workers=cores), batch_size)
        try:
            for results in in_order(
                lambda batch: list(self._predict_batch(batch, pool.map)), batches, workers=2
            ):
                yield from results
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _single_threaded(self) -> Chain | None:
        """The chain for several threads; ``None`` with one core, or if a stage declines."""
        if getattr(self.segmenter, "cores", 1) == 1:
            return None
        segmenter, classifier = single_threaded(self.segmenter), single_threaded(self.classifier)
        if segmenter is None or classifier is None:
            return None
        return replace(self, segmenter=segmenter, classifier=classifier)

    def _hold(self, source: Any) -> Any:
        """What a thread may read later; pixels in memory may change when the next is drawn."""
        if isinstance(source, (str, os.PathLike, bytes, NamedBytes, LoadedImage)):
            return source
        try:
            return read_image(source, limits=self.limits, bgr=self.bgr)
        except CascadeError as error:
            return Failure(source_name(source), error)

    def predict_one(self, asked: _Asked) -> Result:
        """Carry one image from its source to its prediction."""
        (result,) = self._predict_batch([self._read(asked)])
        return result

    def _read(self, asked: _Asked) -> _Read | Failure:
        source = asked.source
        if isinstance(source, Failure):
            return source
        try:
            image = self._image(source, self.working_side)
        except CascadeError as error:
            return Failure(source_name(source), error)
        small = resize_pixels(image.pixels, self.segmenter.size)
        return _Read(source, image, small, asked.known)

    def _image(self, source: ImageSource | LoadedImage, short_side: int) -> LoadedImage:
        if isinstance(source, LoadedImage):
            if source.source is None or source.divisor == reduction(source.full_shape, short_side):
                return reduced(source, short_side)
            return self._image(source.source, short_side)
        return read_image(source, limits=self.limits, bgr=self.bgr, short_side=short_side)

    def _predict_batch(
        self, batch: Sequence[_Read | Failure], each: Callable[..., Iterable[Any]] = map
    ) -> Iterator[Result]:
        """One result for each image; ``each`` applies a function to all, as ``map`` does."""
        usable = [item for item in batch if isinstance(item, _Read)]
        views, scores = self._segment([item.small for item in usable])
        found = list(each(self._join, usable, views.swapaxes(0, 1), scores.tolist()))
        crops = [item.crop for item in found if isinstance(item, Joined)]
        judged = iter(zip(*classify_with_shares(self.classifier, crops, tta=self.tta), strict=True))
        pairs = [(item, next(judged) if isinstance(item, Joined) else None) for item in found]
        results = iter(each(self._prediction, usable, pairs))
        for item in batch:
            yield item if isinstance(item, Failure) else next(results)

    def _prediction(
        self, read: _Read, pair: tuple[Joined | CascadeError, tuple[np.ndarray, np.ndarray] | None]
    ) -> Result:
        joined, judged = pair
        name = read.image.name
        if isinstance(joined, CascadeError):
            return Failure(name, joined)
        if judged is not None and all(((part >= 0) & (part <= 1)).all() for part in judged):
            return assemble(self.rule, joined, judged, self.pixels_per_millimetre, read.known)
        return Failure(name, ModelFileError(f"{name}: the classifier gave {judged}, no chances"))

    def _segment(self, images: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Maps ``(V, N, S, S)`` of all views; out-of-distribution scores, NaN if unknown."""
        detector = self.safeguards.out_of_distribution
        if detector is None or not images:
            views = segment_views(self.segmenter, images, tta=self.tta)
            return views, np.full(len(images), np.nan)
        views, features = segment_views_with_features(self.segmenter, images, tta=self.tta)
        return views, detector.distance(features) / detector.threshold

    def _join(self, read: _Read, views: np.ndarray, score: float) -> Joined | CascadeError:
        """Find the lesion in the mean of the views ``(V, S, S)`` and cut the crop."""
        probability = average(list(views))
        policy = self.rule.policy
        try:
            lesion = find_lesion(probability, policy, shape=read.image.shape)
            several = views if len(views) > 1 else None
            quality = mask_quality(probability, lesion, policy=policy, views=several)
            limits = self.safeguards.mask_quality_limits
            judged = limits is not None and lesion.found and policy.uses_mask
            issues = limits.reasons(quality) if limits and judged else ()
            whole = bool(limits and judged and limits.replaces(quality))
            cut = policy.without_mask() if whole else policy
            crop, lesion, image = self._cut(read, lesion, probability, cut)
        except CascadeError as error:
            return error
        box = full_box(crop.box, image, inside=False)
        return Joined(image, probability, lesion, crop, box, quality, issues, whole, score)

    def _cut(
        self, read: _Read, lesion: Lesion, probability: np.ndarray, policy: MaskPolicy
    ) -> tuple[MaskedCrop, Lesion, LoadedImage]:
        """The crop, from a finer image where the one at hand holds too few pixels of it."""
        image = read.image
        while True:
            crop = apply_mask(image.pixels, lesion, policy, size=self.classifier.size)
            side = min(crop.box[2] - crop.box[0], crop.box[3] - crop.box[1])
            wanted = math.ceil(min(image.shape) * self.classifier.size / side)
            if image.divisor == 1 or wanted <= min(image.shape):
                return crop, lesion, image
            before, image = image.shape, self._image(read.source, wanted)
            if image.shape == before:  # pixels from memory may have been reduced by the caller
                return crop, lesion, image
            lesion = lesion_at(lesion, probability, self.rule.policy, image.shape)


@dataclass(frozen=True)
class _Asked:
    """Where an image comes from, or why it does not, and what is known beside it."""

    source: Any
    known: Metadata


@dataclass(frozen=True)
class _Read:
    """An image as it was read, and where it can be read again."""

    source: Any
    image: LoadedImage
    small: np.ndarray
    """``(S, S, 3)`` uint8, what the segmenter takes."""
    known: Metadata


def _batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    iterator = iter(items)
    while batch := list(itertools.islice(iterator, size)):
        yield batch


def in_order(
    work: Callable[[Item], Outcome], items: Iterable[Item], *, workers: int
) -> Iterator[Outcome]:
    """Apply a function to items in threads; outcomes come in order, few are under way at a time.

    Args:
        work: what a thread does with one item.
        items: consumed as room comes free.
        workers: threads.
    """
    waiting: deque[Future[Outcome]] = deque()
    pool = ThreadPoolExecutor(workers)
    iterator = iter(items)
    try:
        while True:
            try:
                item = next(iterator)
            except StopIteration:
                break
            except Exception:
                while waiting:  # what was taken before the source failed is still delivered
                    yield waiting.popleft().result()
                raise
            waiting.append(pool.submit(work, item))
            while waiting and (waiting[0].done() or len(waiting) > 2 * workers):
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:  # an interrupted caller does not wait for what is under way
        pool.shutdown(wait=False, cancel_futures=True)


def source_name(source: Any) -> str:
    """The file name of a source, or ``image`` for one in memory."""
    if isinstance(source, NamedBytes):
        source = source.name
    return Path(source).name if isinstance(source, (str, os.PathLike)) else "image"
