"""The mean of several classifiers' weights is one classifier."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from cascade.command_line.main import main as console
from cascade.commands.evaluation.card import training_commands
from cascade.config import ClassifierConfig
from cascade.errors import ConfigError, DataError, ModelFileError
from cascade.evaluation.model_card import trainings_of
from cascade.lesion.masking import MaskPolicy
from cascade.models.classifier import Classifier
from cascade.training.averaging import average_classifiers

CONFIG = ClassifierConfig(architecture="timm/test_resnet", size=32)


def write(path, seed, *, config=CONFIG, division="d", seen=("a",), **changes):
    torch.manual_seed(seed)
    classifier = Classifier.build(config, policy=changes.pop("policy", MaskPolicy()))
    for name, value in changes.items():
        setattr(classifier, name, value)
    classifier.provenance |= {
        "splits": {"digest": division}, "trained_on": list(seen), "settings": {"seed": seed},
        "initial_model": {"settings": {"seed": 9}},
    }  # fmt: skip
    classifier.save(path)
    return path


def test_each_tensor_is_the_mean_and_counters_the_highest(tmp_path):
    paths = [write(tmp_path / f"{seed}.safetensors", seed) for seed in range(3)]
    average = average_classifiers(paths).state_dict()
    members = [Classifier.load(path, device="cpu").state_dict() for path in paths]
    weights = [name for name, tensor in average.items() if tensor.is_floating_point()]
    assert len(weights) > 10
    for name in weights:
        mean = np.mean([member[name].numpy().astype(np.float64) for member in members], axis=0)
        np.testing.assert_allclose(average[name].numpy(), mean, rtol=1e-6, atol=1e-7)
    assert not torch.equal(average["network.conv1.0.weight"], members[0]["network.conv1.0.weight"])


def test_it_has_seen_what_all_have_seen_and_no_cutoffs(tmp_path):
    first = write(tmp_path / "a.safetensors", 1, seen=("x", "y"), operating_points={"0.90": 0.2})
    second = write(tmp_path / "b.safetensors", 2, seen=("y", "z"), cutoff=0.3)
    average = average_classifiers([first, second])
    assert average.provenance["trained_on"] == ["x", "y", "z"]
    assert [other["settings"]["seed"] for other in average.provenance["averaged_with"]] == [2]
    assert (average.operating_points, average.cutoff, average.metrics) == ({}, 0.5, {})


def test_the_size_is_the_first_ones_or_any_that_the_architecture_takes(tmp_path):
    small = write(tmp_path / "a.safetensors", 1)
    large = write(tmp_path / "b.safetensors", 2, config=dataclasses.replace(CONFIG, size=64))
    assert average_classifiers([small, large]).size == 32
    assert average_classifiers([large, small]).size == 64
    larger = average_classifiers([small, large], size=96)
    larger.save(tmp_path / "c.safetensors")
    again = Classifier.load(tmp_path / "c.safetensors", device="cpu")
    crops = np.random.default_rng(0).integers(0, 256, (2, 96, 96, 3), np.uint8)
    np.testing.assert_array_equal(again.predict_proba(crops), larger.predict_proba(crops))
    assert "--image_size 96" in training_commands({"classifier": again.provenance})[-1]


def test_a_size_that_the_architecture_cannot_take_is_refused(tmp_path):
    config = ClassifierConfig(architecture="timm/test_vit", size=160)
    paths = [write(tmp_path / f"{seed}.safetensors", seed, config=config) for seed in (1, 2)]
    assert average_classifiers(paths).size == 160
    with pytest.raises(ConfigError, match="cannot take images of 150 pixels"):
        average_classifiers(paths, size=150)
    with pytest.raises(ModelFileError, match=r"test_vit at 192 pixels.*pos_embed"):
        average_classifiers(paths, size=192)


@pytest.mark.parametrize(
    ("other", "error", "words"),
    [
        ({"division": "e"}, DataError, "another division"),
        ({"temperature": 1.5}, ConfigError, "is calibrated"),
        ({"policy": MaskPolicy(margin=0.4)}, ConfigError, "other crops"),
        (
            {"config": ClassifierConfig(architecture="timm/test_vit", size=160)},
            ModelFileError,
            "is a timm/test_vit",
        ),
    ],
)
def test_networks_that_do_not_belong_together_are_refused(tmp_path, other, error, words):
    first = write(tmp_path / "a.safetensors", 1)
    second = write(tmp_path / "b.safetensors", 2, **other)
    with pytest.raises(error, match=rf"b\.safetensors.*{words}"):
        average_classifiers([first, second])


def test_the_command_writes_a_classifier_and_overwrites_only_when_asked(tmp_path, capsys):
    paths = [str(write(tmp_path / f"{seed}.safetensors", seed)) for seed in (1, 2)]
    output = str(tmp_path / "average.safetensors")
    assert console(["average", *paths, "--output", output]) == 0
    assert Classifier.load(output, device="cpu").provenance["averaged_with"]
    assert console(["average", *paths, "--output", output]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert console(["average", *paths, "--output", output, "--overwrite"]) == 0
    assert console(["average", paths[0], "--output", output, "--overwrite"]) == 2
    assert "at least two" in capsys.readouterr().err


def test_the_card_trains_once_what_two_averages_share(tmp_path):
    paths = [write(tmp_path / f"{seed}.safetensors", seed) for seed in (1, 2)]
    average = average_classifiers(paths).provenance
    onward = {"settings": {"seed": 3}, "initial_model": average}
    last = {"settings": {"seed": 4}, "initial_model": onward}
    lines = training_commands({"classifier": {**last, "averaged_with": [onward]}})
    words = ["cls-train"] * 3 + ["average"] + ["cls-train"] * 2 + ["average"]
    assert [line.split()[1] for line in lines] == words
    assert "--initial_model models/classifier.safetensors" in lines[4]
    assert "--initial_model models/classifier_4/best.safetensors" in lines[5]
    assert "models/classifier_5/best.safetensors models/classifier_4/best.safetensors" in lines[6]
    assert all(line.count("--initial_model") <= 1 for line in lines)


def test_an_average_of_averages_names_all_trainings(tmp_path):
    averages = []
    for pair in ((1, 2), (3, 4)):
        paths = [write(tmp_path / f"{seed}.safetensors", seed) for seed in pair]
        averages.append(tmp_path / f"average_{pair[0]}.safetensors")
        average_classifiers(paths).save(averages[-1])
    made = average_classifiers(averages).provenance
    assert made["splits"] == {"digest": "d"}
    lines = training_commands({"classifier": made})
    assert [line.split()[1] for line in lines].count("average") == 3
    assert all(any(f"--seed {seed}" in line for line in lines) for seed in (1, 2, 3, 4))
    assert "models/classifier.safetensors models/classifier_2.safetensors" in lines[-1]
    assert [one["settings"]["seed"] for one in trainings_of(made)] == [9, 1], "for the card"
