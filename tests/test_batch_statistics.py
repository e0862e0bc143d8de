"""Batch statistics estimated anew on training crops, against sums written out here."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from cascade.command_line.main import main as console
from cascade.commands.evaluation.card import training_commands
from cascade.config import ClassifierConfig
from cascade.data.datasets import ClassificationDataset
from cascade.data.splits import make_splits, write_splits
from cascade.data.synthetic import SyntheticConfig, write_synthetic_dataset
from cascade.data.tables import read_table
from cascade.errors import ConfigError, DataError
from cascade.lesion.masking import MaskPolicy
from cascade.models.classifier import Classifier
from cascade.training.averaging import average_classifiers, estimate_batch_statistics

CONFIG = ClassifierConfig(architecture="timm/test_resnet", size=32)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A table of 90 images and its division, without the files of the validation images."""
    folder = tmp_path_factory.mktemp("data")
    write_synthetic_dataset(
        folder, SyntheticConfig(count_train=90, count_test=4, seed=5, sizes=((48, 64),))
    )
    table = read_table(folder / "train_data.csv")
    splits = make_splits(table, fraction=0.2, seed=0)
    write_splits(folder / "splits.json", splits)
    return table, splits


def network(splits, seed=1, **changes):
    torch.manual_seed(seed)
    classifier = Classifier.build(changes.pop("config", CONFIG), policy=MaskPolicy())
    classifier.provenance |= {
        "splits": {"digest": splits.digest}, "trained_on": ["a"], "settings": {"seed": seed},
    }  # fmt: skip
    for name, value in changes.items():
        setattr(classifier, name, value)
    return classifier.eval()


def statistics(classifier):
    return {
        name: tensor.clone()
        for name, tensor in classifier.state_dict().items()
        if "running" in name
    }


def test_they_are_the_means_over_full_batches_of_the_training_crops(data):
    table, splits = data
    classifier = network(splits)
    used = estimate_batch_statistics(classifier, table, splits, images=70, seed=3)
    assert used == 64, "one full batch"

    train, _ = splits.parts(table)
    crops = ClassificationDataset(train.records, size=32, policy=MaskPolicy())
    drawn = np.random.default_rng(3).permutation(len(train))[:64]
    batch = torch.from_numpy(np.stack([crops[index][0] for index in drawn]))
    with torch.no_grad():
        maps = classifier.network.conv1[0](classifier.normalization(batch)).double().numpy()
    layer = classifier.network.conv1[1]
    np.testing.assert_allclose(layer.running_mean, maps.mean(axis=(0, 2, 3)), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(
        layer.running_var, maps.var(axis=(0, 2, 3), ddof=1), rtol=1e-4, atol=1e-6
    )


def test_nothing_else_in_the_network_changes(data):
    table, splits = data
    classifier = network(splits)
    before = {name: tensor.clone() for name, tensor in classifier.state_dict().items()}
    estimate_batch_statistics(classifier, table, splits, images=16)
    after = classifier.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {
        name for name in before if "running" in name or name.endswith("num_batches_tracked")
    }
    assert not classifier.training
    assert all(
        layer.momentum == 0.1
        for layer in classifier.modules()
        if isinstance(layer, torch.nn.BatchNorm2d)
    ), "a training that goes on from here gathers statistics as usual"


def test_validation_images_are_not_read(data, tmp_path):
    table, splits = data
    train, validation = splits.parts(table)
    gone = [dataclasses.replace(one, image_path=tmp_path / "gone.png") for one in validation]
    without = dataclasses.replace(table, records=(*train, *gone))
    with pytest.raises(DataError, match="gone"):
        ClassificationDataset(gone, size=32, policy=MaskPolicy())[0]
    assert estimate_batch_statistics(network(splits), without, splits, images=1000) == 64


@pytest.mark.parametrize(
    ("images", "changes", "error", "words"),
    [
        (1, {}, ConfigError, "1 images; at least 2"),
        (16, {"temperature": 1.5}, ConfigError, "is calibrated"),
        (
            16,
            {"config": ClassifierConfig(architecture="timm/test_vit", size=160)},
            ConfigError,
            "test_vit has no batch normalisation",
        ),
        (16, {"provenance": {"splits": {"digest": "e"}}}, DataError, "another division"),
    ],
)
def test_what_cannot_be_estimated_is_refused(data, images, changes, error, words):
    table, splits = data
    with pytest.raises(error, match=words):
        estimate_batch_statistics(network(splits, **changes), table, splits, images=images)


def test_the_command_estimates_them_and_the_card_tells_how(data, tmp_path, capsys):
    table, splits = data
    members = []
    for seed in (1, 2):
        members.append(str(tmp_path / f"{seed}.safetensors"))
        network(splits, seed).save(members[-1])
    plain = average_classifiers(members)
    output = tmp_path / "average.safetensors"
    flags = ["average", *members, "--output", str(output), "--data_path", str(table.path.parent)]
    assert console([*flags, "--augmentation", "strong"]) == 2
    assert "--batch_statistics" in capsys.readouterr().err
    more = ["--batch_statistics", "20", "--augmentation", "strong", "--whole_image_share", "0.2"]
    assert console([*flags, *more, "--device", "cpu"]) == 0
    average = Classifier.load(output, device="cpu")
    old, new = statistics(plain), statistics(average)
    assert not any(torch.equal(old[name], new[name]) for name in old)
    estimate_batch_statistics(
        plain, table, splits, images=20, augmentation="strong", whole_image_share=0.2
    )
    expected = statistics(plain)
    assert all(torch.equal(expected[name], new[name]) for name in new)
    line = training_commands({"classifier": average.provenance})[-1]
    assert line.startswith("cascade average models/classifier/best.safetensors ")
    assert f"--data_path DATA {' '.join(more)} --" in line


def test_a_further_average_does_not_claim_them(data, tmp_path):
    table, splits = data
    average, other = network(splits, 1), network(splits, 2)
    estimate_batch_statistics(average, table, splits, images=16)
    average.provenance["averaged_with"] = [{"settings": {"seed": 7}}]
    for name, classifier in (("a", average), ("b", other), ("c", average)):
        classifier.save(tmp_path / f"{name}.safetensors")
    for pair in ("ab", "ac"):
        mean = average_classifiers([tmp_path / f"{name}.safetensors" for name in pair])
        assert "batch_statistics" not in mean.provenance
        lines = training_commands({"classifier": mean.provenance})
        assert ["--batch_statistics" in line for line in lines].count(True) == 1
        assert "--batch_statistics" not in lines[-1]
