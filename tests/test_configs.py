"""Every recipe of configs/ builds, learns a step on tiny images and is read back."""

from __future__ import annotations

import json
import logging
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
RECIPES = {
    "segmentation.yaml": "seg-train",
    "segmentation_documented.yaml": "seg-train",
    "demo_segmentation.yaml": "seg-train",
    "default/segmenter.yaml": "seg-train",
    "default/segmenter_large.yaml": "seg-train",
    "default/out_of_fold.yaml": "oof-masks",
    "classification.yaml": "cls-train",
    "classification_documented.yaml": "cls-train",
    "demo_classification.yaml": "cls-train",
    "default/classifier.yaml": "cls-train",
    "default/classifier_160.yaml": "cls-train",
    "default/classifier_192.yaml": "cls-train",
    "default/classifier_192_strong.yaml": "cls-train",
    "default/classifier_224.yaml": "cls-train",
    "default/classifier_224_second.yaml": "cls-train",
    "default/classifier_224_long.yaml": "cls-train",
    "neighbours/se_resnext50_128.yaml": "cls-train",
    "neighbours/efficientnet_b3_384.yaml": "cls-train",
    "neighbours/efficientnet_b5_512.yaml": "cls-train",
    "neighbours/resnest50_128.yaml": "cls-train",
    "five_folds.yaml": "cls-train",
}
FOR_SEGMENTERS = [name for name, command in RECIPES.items() if command != "cls-train"]
FOR_CLASSIFIERS = [
    name
    for name, command in RECIPES.items()
    if command == "cls-train" and name != "five_folds.yaml"
]
NEIGHBOURS = [name for name in RECIPES if name.startswith("neighbours/")]
TINY = 96
"""Pixels; a multiple of 32 for segmenters, and enough for Inception."""


def written(name):
    return yaml.safe_load((CONFIGS / name).read_text(encoding="utf-8"))


def parsed(name, *flags):
    module = module_of(RECIPES[name])
    return module.build_parser().parse_args(["--config", str(CONFIGS / name), *flags])


def tiny(name):
    return parsed(name, "--image_size", str(TINY), "--encoder_weights", "none")


def test_every_recipe_is_listed_here():
    assert {path.relative_to(CONFIGS).as_posix() for path in CONFIGS.rglob("*.yaml")} == set(
        RECIPES
    )


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_read_by_its_command_as_it_is_written(name):
    arguments = parsed(name)
    for key, value in written(name).items():
        assert arguments[key] == value, key


@pytest.mark.parametrize("name", RECIPES)
def test_flags_win_over_a_recipe(name):
    assert parsed(name, "--epochs", "3", "--seed", "8").epochs == 3


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
def test_a_classifier_of_a_recipe_is_built_at_its_own_size(name):
    arguments = parsed(name, "--encoder_weights", "none")
    wanted = written(name).get("image_size", 299)  # without one, Inception's own
    config = settings(ClassifierConfig, arguments, size=arguments.image_size)
    classifier = Classifier.build(config, policy=mask_policy(arguments))
    assert classifier.size == wanted
    assert classifier.policy.mode == written(name)["mask_mode"]


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


@pytest.mark.parametrize("name", FOR_CLASSIFIERS)
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
    before = [weight.detach().clone() for weight in network.parameters()]
    losses = learn(network, training, lambda n: classification_loss(n, (crops, labels), criterion))
    assert np.isfinite(losses).all()
    assert moved(network, before) > 0.9
    network.eval().save(tmp_path / "classifier.safetensors")
    again = Classifier.load(tmp_path / "classifier.safetensors", device="cpu")
    assert again.describe() == network.describe()
    np.testing.assert_allclose(
        again.predict_proba(crops.numpy()), network.predict_proba(crops.numpy()), atol=1e-5
    )


@pytest.mark.parametrize("name", FOR_SEGMENTERS)
def test_a_segmenter_of_a_recipe_learns_a_step_and_is_read_back(name, tmp_path):
    arguments = tiny(name)
    training = settings(SegmentationTrainConfig, arguments)
    network = Segmenter.build(settings(SegmenterConfig, arguments, size=TINY))
    images = torch.randint(0, 256, (2, TINY, TINY, 3), dtype=torch.uint8)
    masks = torch.zeros((2, TINY, TINY), dtype=torch.uint8)
    masks[:, 20:70, 30:60] = 1
    before = [weight.detach().clone() for weight in network.parameters()]
    losses = learn(network, training, lambda n: segmentation_loss(n(images), masks))
    assert np.isfinite(losses).all()
    assert moved(network, before) > 0.9
    network.eval().save(tmp_path / "segmenter.safetensors")
    again = Segmenter.load(tmp_path / "segmenter.safetensors", device="cpu")
    assert again.describe() == network.describe()
    np.testing.assert_allclose(
        again.predict(images.numpy()), network.predict(images.numpy()), atol=1e-5
    )


# --- the neighbours' recipes, from one file to an ensemble ----------------------------------------


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
@pytest.mark.parametrize("name", NEIGHBOURS)
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


def test_the_neighbours_recipes_are_what_their_names_say():
    recipes = {Path(name).stem: written(name) for name in NEIGHBOURS}
    for stem, recipe in recipes.items():
        assert stem.endswith(f"_{recipe['image_size']}")
        assert recipe["folds"] == 5
    weighted = recipes["se_resnext50_128"]
    assert weighted["class_weight"] > 1
    assert (weighted["schedule"], weighted["patience"] > 0) == ("plateau", True)
    for stem in ("efficientnet_b3_384", "efficientnet_b5_512"):
        assert recipes[stem]["label_smoothing"] > 0
        assert (recipes[stem]["schedule"], recipes[stem]["warmup"] > 0) == ("onecycle", True)
        assert recipes[stem]["tta"] == "flips"
    last = recipes["resnest50_128"]
    assert (last["batch_size"], last["epochs"], last["tta"]) == (256, 15, "flips")


@pytest.mark.usefixtures("own_log")
def test_views_without_folds_are_refused(data, capsys):
    assert console.main(["cls-train", "--tta", "flips", "--data_path", str(data)]) == 2
    assert (
        "--tta flips averages views of the images that --folds hold out" in capsys.readouterr().err
    )


def test_a_recipe_with_folds_can_train_a_single_classifier():
    arguments = parsed("neighbours/resnest50_128.yaml", "--folds", "null", "--tta", "none")
    assert (arguments.folds, arguments.tta) == (None, "none")
