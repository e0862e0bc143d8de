"""Every recipe of configs/ builds, learns a step on tiny images and is read back."""

import json
import logging
import re
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from cascade.command_line import main as console
from cascade.command_line.main import module_of
from cascade.command_line.options import mask_policy
from cascade.command_line.parser import settings
from cascade.config import (
    ClassificationTrainConfig,
    ClassifierConfig,
    SegmentationTrainConfig,
    SegmenterConfig,
)
from cascade.data.synthetic import SyntheticConfig, write_synthetic_dataset
from cascade.models.artifact import read_document
from cascade.models.classifier import Classifier
from cascade.models.ensemble import load_classifier
from cascade.models.segmenter import Segmenter
from cascade.training.classification import classification_loss, rarer_class_weights
from cascade.training.optimization import make_average, make_optimizer, make_plateau, make_schedule
from cascade.training.segmentation import segmentation_loss

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
RECIPES = sorted(path.relative_to(CONFIGS).as_posix() for path in CONFIGS.rglob("*.yaml"))
FOR_SEGMENTERS = [name for name in RECIPES if re.search("segment|out_of_fold", name)]
FOR_CLASSIFIERS = [name for name in RECIPES if name not in (*FOR_SEGMENTERS, "five_folds.yaml")]
NEIGHBOURS = [name for name in RECIPES if name.startswith("neighbours/")]
TINY = 96
"""Pixels; a multiple of 32 for segmenters, and enough for Inception."""


def written(name):
    return yaml.safe_load((CONFIGS / name).read_text(encoding="utf-8"))


def one_of_each(names, *keys):
    """The recipes that differ in what they say about these settings."""
    return list({tuple(written(name).get(key) for key in keys): name for name in names}.values())


def parsed(name, *flags):
    command = "seg-train" if name in FOR_SEGMENTERS else "cls-train"
    command = "oof-masks" if "out_of_fold" in name else command
    return module_of(command).build_parser().parse_args(["--config", str(CONFIGS / name), *flags])


def tiny(name):
    return parsed(name, "--image_size", str(TINY), "--encoder_weights", "none")


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_read_by_its_command_as_it_is_written(name):
    arguments = parsed(name)
    for key, value in written(name).items():
        assert arguments[key] == value, key
    assert parsed(name, "--epochs", "3").epochs == 3, "flags win"


@pytest.mark.parametrize(
    ("name", "classes"),
    [
        ("segmentation_documented.yaml", (SegmentationTrainConfig, SegmenterConfig)),
        ("classification_documented.yaml", (ClassificationTrainConfig, ClassifierConfig)),
    ],
)
def test_the_documented_recipes_say_what_the_defaults_are(name, classes):
    arguments = parsed(name)
    for cls in classes:
        sized = cls in (SegmenterConfig, ClassifierConfig)
        fixed = {"size": arguments.image_size} if sized else {}
        assert settings(cls, arguments, **fixed) == cls()
    known = {item.name for cls in classes for item in fields(cls)} | {
        "mask_mode",
        "encoder_weights",
    }
    assert set(written(name)) <= known


@pytest.mark.parametrize("name", FOR_CLASSIFIERS)
def test_a_classifier_of_a_recipe_has_its_own_size_and_mask_mode(name):
    arguments = parsed(name)
    config = settings(ClassifierConfig, arguments, size=arguments.image_size)
    assert config.size == written(name).get("image_size")
    assert mask_policy(arguments).mode == written(name)["mask_mode"]


@pytest.mark.parametrize("name", FOR_SEGMENTERS)
def test_a_segmenter_of_a_recipe_has_its_own_size(name):
    arguments = parsed(name)
    config = settings(SegmenterConfig, arguments, size=arguments.image_size)
    assert config.size == written(name).get("image_size", 256)


def learn(network, training, loss_of):
    """Two optimiser steps with everything that the recipe asks for; the losses."""
    torch.manual_seed(0)
    optimizer = make_optimizer(network, training)
    schedule = make_schedule(optimizer, training, steps=2)
    plateau = make_plateau(optimizer, training)
    average = make_average(network, training)
    network.train()
    losses = []
    for _ in range(2):
        optimizer.zero_grad()
        loss = loss_of(network)
        loss.backward()
        optimizer.step()
        if schedule is not None:
            schedule.step()
        if average is not None:
            average.update_parameters(network)
        losses.append(loss.item())
    if plateau is not None:
        plateau.step(0.5)
    return losses


def moved(network, before):
    """Share of the weights that a training has changed."""
    pairs = zip(network.parameters(), before, strict=True)
    return float(np.mean([not torch.equal(now, then) for now, then in pairs]))


def check_learning(network, training, loss_of, answer, path):
    """It learns, and its file gives the same network again."""
    before = [weight.detach().clone() for weight in network.parameters()]
    assert np.isfinite(learn(network, training, loss_of)).all()
    assert moved(network, before) > 0.9
    network.eval().save(path)
    again = type(network).load(path, device="cpu")
    assert again.describe() == network.describe()
    np.testing.assert_allclose(answer(again), answer(network), atol=1e-5)


@pytest.mark.parametrize("name", one_of_each(FOR_CLASSIFIERS, "architecture", "schedule"))
def test_a_classifier_of_a_recipe_learns_a_step_and_is_read_back(name, tmp_path):
    arguments = tiny(name)
    training = settings(ClassificationTrainConfig, arguments)
    config = settings(ClassifierConfig, arguments, size=TINY)
    network = Classifier.build(config, policy=mask_policy(arguments))
    crops = torch.randint(0, 256, (4, TINY, TINY, 3), dtype=torch.uint8)
    labels = torch.tensor([0, 1, 0, 0])
    criterion = torch.nn.CrossEntropyLoss(
        weight=rarer_class_weights(labels.numpy(), training.class_weight),
        label_smoothing=training.label_smoothing,
    )
    check_learning(
        network, training, lambda n: classification_loss(n, (crops, labels), criterion),
        lambda n: n.predict_proba(crops.numpy()), tmp_path / "classifier.safetensors",
    )  # fmt: skip


@pytest.mark.parametrize("name", one_of_each(FOR_SEGMENTERS, "encoder", "decoder"))
def test_a_segmenter_of_a_recipe_learns_a_step_and_is_read_back(name, tmp_path):
    arguments = tiny(name)
    network = Segmenter.build(settings(SegmenterConfig, arguments, size=TINY))
    images = torch.randint(0, 256, (2, TINY, TINY, 3), dtype=torch.uint8)
    masks = torch.zeros((2, TINY, TINY), dtype=torch.uint8)
    masks[:, 20:70, 30:60] = 1
    check_learning(
        network, settings(SegmentationTrainConfig, arguments),
        lambda n: segmentation_loss(n(images), masks), lambda n: n.predict(images.numpy()),
        tmp_path / "segmenter.safetensors",
    )  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("configs") / "dataset"
    write_synthetic_dataset(
        folder, SyntheticConfig(count_train=24, count_test=2, sizes=((48, 56),))
    )
    return folder


@pytest.fixture
def own_log():
    """Commands send cascade's log to the terminal; give it back to pytest."""
    own = logging.getLogger("cascade")
    before = own.handlers[:], own.level, own.propagate
    yield
    own.handlers[:], own.propagate = before[0], before[2]
    own.setLevel(before[1])


@pytest.mark.usefixtures("own_log")
@pytest.mark.parametrize("name", NEIGHBOURS[:1])
def test_a_neighbours_recipe_is_cross_validated_by_one_file(name, data, tmp_path):
    folder = tmp_path / "run"
    small = ["--architecture", "timm/test_resnet", "--image_size", "32", "--epochs", "1",
             "--batch_size", "8", "--folds", "2", "--encoder_weights", "none",
             "--validation_fraction", "0.4", "--device", "cpu"]  # fmt: skip
    command = ["cls-train", "--config", str(CONFIGS / name), "--data_path", str(data)]
    assert console.main([*command, *small, "--output", str(folder)]) == 0
    recipe = written(name)
    changed = {flag.lstrip("-") for flag in small[::2]}
    kept = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    for key in recipe.keys() - changed - {"mask_mode"}:
        assert kept[key] == recipe[key], key
    assert json.loads((folder / "cross_validation.json").read_text())["out_of_fold"]["n"] == 24
    assert len(load_classifier(folder / "ensemble.safetensors", device="cpu").classifiers) == 2
    settings_of_fold = read_document(folder / "fold_1" / "best.safetensors")["provenance"]
    assert settings_of_fold["classifier"]["settings"]["schedule"] == recipe["schedule"]


@pytest.mark.usefixtures("own_log")
def test_views_without_folds_are_refused(data, capsys):
    assert console.main(["cls-train", "--tta", "flips", "--data_path", str(data)]) == 2
    assert (
        "--tta flips averages views of the images that --folds hold out" in capsys.readouterr().err
    )


def test_a_recipe_with_folds_can_train_a_single_classifier():
    arguments = parsed("neighbours/resnest50_128.yaml", "--folds", "null", "--tta", "none")
    assert (arguments.folds, arguments.tta) == (None, "none")
    assert all(written(name)["folds"] == 5 for name in NEIGHBOURS)
