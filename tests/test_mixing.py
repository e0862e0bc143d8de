"""Mixtures of crops, and the loss that goes with them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import entropy
from torch.nn import functional

from cascade.command_line.main import module_of
from cascade.command_line.parser import settings
from cascade.config import ClassificationTrainConfig
from cascade.pipeline.augmented_views import VIEWS, view
from cascade.training.mixing import Mixed, Mixing


@pytest.fixture
def crops():
    generator = np.random.default_rng(0)
    return torch.from_numpy(generator.integers(0, 256, (8, 24, 24, 3)).astype(np.uint8))


def test_nothing_is_mixed_unless_asked_for(crops):
    for batch, mixing in ((crops, Mixing()), (crops[:1], Mixing(1.0, 1.0))):
        mixed = mixing.mix(batch)
        assert mixed.crops is batch
        assert mixed.order is None


def test_mixup_blends_each_crop_with_its_partner(crops):
    torch.manual_seed(3)
    mixed = Mixing(mixup=0.4).mix(crops)
    assert 0 <= mixed.share <= 1
    expected = mixed.share * crops.double() + (1 - mixed.share) * crops[mixed.order].double()
    assert mixed.crops.dtype == torch.uint8
    assert (mixed.crops.double() - expected).abs().max() <= 0.51


@pytest.mark.parametrize("seed", range(12))
def test_cutmix_pastes_one_rectangle_and_tells_its_area(crops, seed):
    torch.manual_seed(seed)
    mixed = Mixing(cutmix=1.0).mix(crops)
    partner = crops[mixed.order]
    moved = np.flatnonzero(mixed.order.numpy() != np.arange(8))
    changed = (mixed.crops != crops).any(dim=3)[moved].any(dim=0)
    rows, columns = changed.any(dim=1).nonzero(), changed.any(dim=0).nonzero()
    pasted = 0.0
    if len(rows):
        window = slice(rows.min(), rows.max() + 1), slice(columns.min(), columns.max() + 1)
        assert (mixed.crops[:, *window] == partner[:, *window]).all()
        pasted = changed[window].numel() / changed.numel()
    assert mixed.share == pytest.approx(1 - pasted)


def test_both_ways_are_used_when_both_are_asked_for(crops):
    torch.manual_seed(0)
    plain = crops.clone()
    pasted = []
    for _ in range(20):
        mixed = Mixing(1.0, 1.0).mix(plain)
        same = (mixed.crops == plain) | (mixed.crops == plain[mixed.order])
        pasted.append(bool(same.all()))
    assert 3 < sum(pasted) < 17


def test_the_loss_is_that_of_soft_labels():
    torch.manual_seed(0)
    logits, labels = torch.randn(6, 2), torch.tensor([0, 1, 1, 0, 0, 1])
    order = torch.tensor([3, 2, 0, 1, 5, 4])
    mixed = Mixed(torch.zeros(6), order, 0.3)
    found = mixed.loss(lambda targets: functional.cross_entropy(logits, targets[0]), [labels])
    soft = 0.3 * functional.one_hot(labels, 2) + 0.7 * functional.one_hot(labels[order], 2)
    torch.testing.assert_close(found, functional.cross_entropy(logits, soft.float()))


def test_flags_set_both_strengths():
    parser = module_of("cls-train").build_parser()
    given = settings(ClassificationTrainConfig, parser.parse_args(["--mixup", "0.2"]))
    assert (given.mixup, given.cutmix) == (0.2, 0.0)
    with pytest.raises(SystemExit):
        parser.parse_args(["--mixup", "much"])


@pytest.mark.parametrize("seed", range(8))
def test_consistency_adds_a_mirrored_or_turned_copy_of_each_mixed_crop(crops, seed):
    torch.manual_seed(seed)
    mixed = Mixing(mixup=0.4, consistency=1.0).mix(crops)
    first, copies = (part.numpy() for part in mixed.crops.chunk(2))
    changed = [view(first, how) for how in VIEWS["dihedral"][1:]]
    assert sum(np.array_equal(copies, one) for one in changed) == 1
    blended = mixed.share * crops.double() + (1 - mixed.share) * crops[mixed.order].double()
    assert np.abs(first - blended.numpy()).max() <= 0.51


def test_crops_and_copies_have_the_same_targets(crops):
    seen = []

    def score(targets):
        seen.append(targets[0].tolist())
        return torch.tensor(1.0)

    mixed = Mixed(torch.cat([crops, crops]), torch.arange(8).flip(0), 0.75, consistency=1.0)
    mixed.loss(score, [torch.arange(8)])
    assert seen == [[*range(8)] * 2, [*range(7, -1, -1)] * 2]


def test_the_divergence_is_that_of_both_distributions(crops):
    mixed = Mixing(consistency=0.5).mix(crops)
    logits = torch.from_numpy(np.random.default_rng(1).normal(size=(16, 3)))
    first, second = (part.softmax(dim=1).numpy() for part in logits.chunk(2))
    expected = (entropy(first, second, axis=1) + entropy(second, first, axis=1)).mean() / 2
    assert float(mixed.divergence(logits)) == pytest.approx(0.5 * expected, rel=1e-5)
    nothing = Mixing().mix(crops).divergence(logits.bfloat16())
    assert (float(nothing), nothing.dtype) == (0, torch.float32)
    assert float(mixed.divergence(torch.cat([logits[:8]] * 2))) == pytest.approx(0, abs=1e-7)
