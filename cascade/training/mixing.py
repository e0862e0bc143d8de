"""Training on mixtures of two crops, whose loss is mixed alike, and on copies of them.

Mixup blends the pixels (Zhang et al. 2018, arXiv:1710.09412); CutMix pastes a rectangle of one crop
into the other (Yun et al. 2019, arXiv:1905.04899). Both draw one share a batch from a symmetric
beta distribution and pair the crops with a shuffled order of the same batch.

A lesion has no up or down, yet a network judges its mirrored and turned copies differently. With
consistency, it learns from a copy of each crop, too, and the divergence of both answers is a
further loss, as R-Drop has it for two dropout masks (Liang et al. 2021, arXiv:2106.14448).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn

from cascade.pipeline.augmented_views import VIEWS


@dataclass(frozen=True)
class Mixed:
    """A batch of N crops after mixing.

    Attributes:
        crops: ``(N, S, S, 3)`` uint8 RGB; with consistency ``(2 N, S, S, 3)``, the copies last.
        order: ``(N,)`` int64, which crop was mixed into each; ``None`` if none was.
        share: how much of each crop is left, in [0, 1].
        consistency: weight of the divergence between crops and copies; 0 where there are none.
    """

    crops: torch.Tensor
    order: torch.Tensor | None = None
    share: float = 1.0
    consistency: float = 0.0

    def loss(
        self,
        score: Callable[[Sequence[torch.Tensor]], torch.Tensor],
        targets: Sequence[torch.Tensor],
    ) -> torch.Tensor:
        """The loss against both crops' targets, each by its share.

        Args:
            score: the loss of what the network said about ``crops``, given targets.
            targets: of the crops before mixing, each ``(N,)``.
        """
        own = score(self._repeated(targets))
        if self.order is None:
            return own
        other = score(self._repeated([target[self.order] for target in targets]))
        return self.share * own + (1 - self.share) * other

    def _repeated(self, targets: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        return [target.repeat(2) for target in targets] if self.consistency else targets

    def divergence(self, logits: torch.Tensor) -> torch.Tensor:
        """How differently crops and copies are judged, times its weight; 0 without copies.

        Args:
            logits: ``(2 N, K)`` about ``crops``.

        Returns:
            The mean over the crops of both Kullback-Leibler divergences' mean, float32.
        """
        if not self.consistency:
            return logits.new_zeros((), dtype=torch.float32)
        first, second = logits.float().log_softmax(dim=1).chunk(2)
        ways = ((first, second), (second, first))
        both = [
            nn.functional.kl_div(one, other, reduction="batchmean", log_target=True)
            for one, other in ways
        ]
        return self.consistency * torch.stack(both).mean()


@dataclass(frozen=True)
class Mixing:
    """How crops are mixed; with both strengths above 0, each batch is mixed in one of the two ways.

    Attributes:
        mixup: parameter of the beta distribution of mixup; 0 switches it off.
        cutmix: that of CutMix.
        consistency: weight of the divergence between crops and their copies; 0 makes no copies.
    """

    mixup: float = 0.0
    cutmix: float = 0.0
    consistency: float = 0.0

    def mix(self, crops: torch.Tensor) -> Mixed:
        """Mix a batch ``(N, S, S, 3)`` of uint8 with random numbers of torch's own generator."""
        mixed = self._blend(crops)
        if not self.consistency:
            return mixed
        both = torch.cat([mixed.crops, _changed(mixed.crops)])
        return replace(mixed, crops=both, consistency=self.consistency)

    def _blend(self, crops: torch.Tensor) -> Mixed:
        if not (self.mixup or self.cutmix) or len(crops) < 2:
            return Mixed(crops)
        cut = not self.mixup or (bool(self.cutmix) and bool(torch.rand(()) < 0.5))
        alpha = self.cutmix if cut else self.mixup
        share = float(torch.distributions.Beta(alpha, alpha).sample())
        order = torch.randperm(len(crops)).to(crops.device)
        if cut:
            return _pasted(crops, order, share)
        blended = share * crops.float() + (1 - share) * crops[order].float()
        return Mixed(blended.round().to(torch.uint8), order, share)


def _changed(crops: torch.Tensor) -> torch.Tensor:
    """All crops mirrored or turned alike, in one of the seven ways, on the device they are on."""
    changes = VIEWS["dihedral"][1:]
    turns, mirrored = changes[int(torch.randint(len(changes), ()))]
    turned = torch.rot90(crops, turns, (1, 2))
    return turned.flip(2) if mirrored else turned


def _pasted(crops: torch.Tensor, order: torch.Tensor, share: float) -> Mixed:
    """Paste a rectangle of ``1 - share`` of the area, less what lies beyond the border."""
    height, width = crops.shape[1:3]
    middle = torch.rand(2)
    half = (1 - share) ** 0.5 / 2
    top, bottom = _ends(float(middle[0]), half, height)
    left, right = _ends(float(middle[1]), half, width)
    mixed = crops.clone()
    mixed[:, top:bottom, left:right] = crops[order, top:bottom, left:right]
    pasted = (bottom - top) * (right - left) / (height * width)
    return Mixed(mixed, order, 1 - pasted)


def _ends(middle: float, half: float, length: int) -> tuple[int, int]:
    first, last = round((middle - half) * length), round((middle + half) * length)
    return max(0, first), min(length, last)
