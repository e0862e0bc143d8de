"""A training that goes on from an earlier one."""

from dataclasses import replace

import pytest
import torch
from tiny_training import SEGMENTER as CONFIG
from tiny_training import segmentation_settings as settings

from cascade.data.splits import make_splits
from cascade.errors import DataError
from cascade.models.segmenter import Segmenter
from cascade.training.images_seen import image_marks
from cascade.training.segmentation import train_segmenter


def train(table, splits, output, *, size=32, **changes):
    parts = {"config": replace(CONFIG, size=size), "training": settings(), "device": "cpu"}
    return train_segmenter(table, splits, output=output, **{**parts, **changes})


@pytest.fixture(scope="module")
def first(table, splits, tmp_path_factory):
    folder = tmp_path_factory.mktemp("first") / "run"
    train(table, splits, folder)
    return folder / "best.safetensors"


def test_it_starts_with_the_weights_of_the_file_at_another_size(first, table, splits, tmp_path):
    second = train(table, splits, tmp_path / "run", size=64, initial_model=first,
                   training=settings(learning_rate=0.0))  # fmt: skip
    before = Segmenter.load(first, device="cpu")
    assert second.size == 64
    for name, tensor in before.network.named_parameters():
        assert torch.equal(tensor, second.network.get_parameter(name)), name
    assert second.provenance["initial_model"]["settings"] == before.provenance["settings"]
    assert second.provenance["settings"]["initial_model"] == "best.safetensors"


def test_validation_images_that_the_earlier_training_learnt_from_are_refused(
    first, table, tmp_path
):
    other = make_splits(table, fraction=0.3, seed=5)
    with pytest.raises(DataError, match="use the --splits of that training"):
        train(table, other, tmp_path / "run", initial_model=first)


def test_images_seen_by_the_earlier_training_alone_stay_known_as_seen(first, table, tmp_path):
    earlier = Segmenter.load(first, device="cpu")
    earlier.provenance["trained_on"] = image_marks(["elsewhere.jpg"])
    earlier.save(tmp_path / "other.safetensors")
    splits = make_splits(table, fraction=0.3, seed=5)
    second = train(table, splits, tmp_path / "run", initial_model=tmp_path / "other.safetensors")
    assert set(image_marks(["elsewhere.jpg", *table.names()])) == set(
        second.provenance["trained_on"]
    )
