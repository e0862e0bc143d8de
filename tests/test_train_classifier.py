import csv
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml
from sklearn.metrics import roc_auc_score
from tiny_training import interrupted

from cascade.config import ClassificationTrainConfig, ClassifierConfig
from cascade.data.datasets import ClassificationDataset
from cascade.errors import ConfigError, DataError
from cascade.lesion.masking import MaskPolicy
from cascade.models.classifier import Classifier
from cascade.training import classification
from cascade.training.classification import rarer_class_weights, sampling_weights, train_classifier
from cascade.training.images_seen import image_marks

CONFIG = ClassifierConfig(architecture="timm/test_resnet", size=32)
POLICY = MaskPolicy.from_mode("hard_crop", margin=0.3)


def settings(**changes):
    fixed = {"epochs": 1, "batch_size": 4, "learning_rate": 0.002, "precision": "fp32"}
    return ClassificationTrainConfig(**{**fixed, **changes})


def small(table, splits, output, **changes):
    parts = {"config": CONFIG, "training": settings(), "policy": POLICY, "device": "cpu", **changes}
    return train_classifier(table, splits, output=output, **parts)


@pytest.fixture(scope="module")
def trained(table, splits, tmp_path_factory):
    folder = tmp_path_factory.mktemp("classifier") / "run"
    return small(table, splits, folder, training=settings(epochs=2)), folder


@pytest.fixture(scope="module")
def validation(trained, table, splits):
    """Labels and probabilities of the validation part, from a loop over single crops."""
    network, _ = trained
    held_out = ClassificationDataset(
        table.subset(splits.validation).records, size=32, policy=POLICY
    )
    crops = [held_out.crop(index).pixels for index in range(len(held_out))]
    probabilities = [float(network.predict_proba(crop[None])[0, 1]) for crop in crops]
    return held_out.labels, np.array(probabilities)


def relabelled(table, malignant):
    """The table with other classes: malignant for the records whose place is given."""
    records = [
        replace(record, label="malignant" if place in malignant else "benign")
        for place, record in enumerate(table)
    ]
    return replace(table, records=tuple(records))


def spy_on_crops(monkeypatch):
    """The crops that enter the loss from now on."""
    seen, loss = [], classification.classification_loss

    def spied(classifier, batch, *rest):
        seen.extend(batch[0].numpy())
        return loss(classifier, batch, *rest)

    monkeypatch.setattr(classification, "classification_loss", spied)
    return seen


def test_the_stored_validation_scores_are_those_of_sklearn(trained, validation):
    network, folder = trained
    labels, probabilities = validation
    assert 0 < labels.sum() < labels.size
    stored = network.metrics["validation"]
    with (folder / "history.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert set(rows[0]) >= {"validation_loss", "validation_accuracy", "validation_roc_auc"}
    assert stored["validation_roc_auc"] == pytest.approx(roc_auc_score(labels, probabilities))
    assert stored["validation_accuracy"] == np.mean((probabilities >= 0.5) == labels)
    chosen = np.where(labels == 1, probabilities, 1 - probabilities)
    assert stored["validation_loss"] == pytest.approx(-np.log(chosen).mean(), rel=1e-4)


def test_operating_points_are_stored_and_reach_their_sensitivity(trained, validation):
    network, folder = trained
    labels, probabilities = validation
    stored = Classifier.load(folder / "best.safetensors", device="cpu").operating_points
    assert stored == network.operating_points
    assert set(stored) == {"0.80", "0.90", "0.95"}
    malignant = probabilities[labels == 1]
    for name, cutoff in stored.items():
        # a loop over images one by one differs from the batch in the last digits
        assert np.mean(malignant >= cutoff - 1e-6) >= float(name)
        higher = malignant[malignant > cutoff + 1e-6]
        assert len(higher) / len(malignant) < float(name)  # no larger cutoff would do


def test_policy_and_images_seen_are_stored_with_the_network(trained, table, splits):
    network, folder = trained
    assert network.policy == POLICY
    assert network.cutoff == 0.5, "an operating point is not used unasked"
    assert network.provenance["trained_on"] == image_marks([*splits.train, *splits.validation])
    assert Classifier.load(folder / "best.safetensors", device="cpu").policy == POLICY
    stored = yaml.safe_load((folder / "config.yaml").read_text())
    assert stored["mask_policy"] == POLICY.to_dict()
    with pytest.raises(ConfigError, match="mask_policy"):
        small(table, splits, folder, training=settings(epochs=2), policy=MaskPolicy(), resume=True)


@pytest.mark.parametrize("mode", ["whole", "hard_full"])
def test_the_policy_decides_what_the_network_sees(table, splits, tmp_path, monkeypatch, mode):
    """The crops that enter the loss are those that the policy cuts, and none is augmented."""
    policy = MaskPolicy.from_mode(mode)
    seen = spy_on_crops(monkeypatch)
    small(table, splits, tmp_path / "run", policy=policy, training=settings(augmentation="none"))
    expected = ClassificationDataset(
        table.subset(splits.train).records, size=32, policy=policy, augmentation="none"
    )
    crops = {expected.crop(index).pixels.tobytes() for index in range(len(expected))}
    assert {crop.tobytes() for crop in seen} <= crops
    assert len(seen) >= len(expected) - 1


def test_whole_images_need_no_masks_and_crops_do(table, splits, tmp_path):
    bare = replace(table, records=tuple(replace(item, mask_path=None) for item in table))
    small(bare, splits, tmp_path / "whole", policy=MaskPolicy.from_mode("whole"))
    with pytest.raises(DataError, match=r"no mask.*--mask_mode whole"):
        small(bare, splits, tmp_path / "crop")
    assert not (tmp_path / "crop").exists()


@pytest.mark.parametrize(
    ("benign", "malignant", "expected"), [(9, 3, [1, 5]), (1, 1000, [5, 1]), (6, 6, [1, 5])]
)
def test_the_weight_goes_to_the_rarer_class_whichever_it_is(benign, malignant, expected):
    labels = np.array([0] * benign + [1] * malignant)
    assert rarer_class_weights(labels, 5.0).tolist() == expected
    assert rarer_class_weights(labels, 1.0).tolist() == [1, 1]


def test_the_weight_reaches_the_loss(table, splits, tmp_path, monkeypatch):
    side = [place for place, item in enumerate(table) if item.name in splits.train]
    held = [place for place, item in enumerate(table) if item.name in splits.validation]
    malignant = {*side[2:], held[0]}
    weights = []

    class Spy(torch.nn.CrossEntropyLoss):
        def __init__(self, weight, label_smoothing):
            weights.append(weight.tolist())
            super().__init__(weight=weight, label_smoothing=label_smoothing)

    monkeypatch.setattr(torch.nn, "CrossEntropyLoss", Spy)
    training = settings(class_weight=4.0)
    small(relabelled(table, malignant), splits, tmp_path / "run", training=training)
    assert weights == [[4, 1]]


def test_parts_of_one_class_or_of_none_are_refused_before_training(table, splits, tmp_path):
    held = {place for place, item in enumerate(table) if item.name in splits.validation}
    one = next(place for place in range(len(table)) if place not in held)
    for malignant, words in (
        (set(), "training images are benign"),
        (set(range(len(table))), "training images are malignant"),
        ({*held, one}, "validation part.*one class only"),
    ):
        with pytest.raises(DataError, match=words):
            small(relabelled(table, malignant), splits, tmp_path / "run")
    bare = replace(table, records=tuple(replace(item, label=None) for item in table))
    with pytest.raises(DataError, match="no label"):
        small(bare, splits, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_googlenet_trains_with_its_auxiliary_heads(table, splits, tmp_path):
    config = ClassifierConfig(architecture="googlenet", size=32)
    torch.manual_seed(0)
    network = small(table, splits, tmp_path / "run", config=config)
    changed = network.network.aux1.fc2.weight
    assert torch.isfinite(changed).all()
    assert network.predict_proba(np.zeros((1, 32, 32, 3), np.uint8)).shape == (1, 2)


def test_a_resumed_training_is_the_uninterrupted_one_bit_by_bit(table, splits, tmp_path):
    training = settings(
        epochs=2, average=0.5, balanced_sampling=True, label_smoothing=0.1, augmentation="strong"
    )
    whole = small(table, splits, tmp_path / "whole", training=training)
    with interrupted(classification, "validate_classifier", call=2):
        small(table, splits, tmp_path / "stopped", training=training)
    torch.manual_seed(99)
    resumed = small(table, splits, tmp_path / "stopped", training=training, resume=True)
    one, other = whole.state_dict(), resumed.state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert resumed.operating_points == whole.operating_points


def with_sources(table, sources):
    records = [
        replace(record, attributes={**record.attributes, "source": source})
        for record, source in zip(table, sources, strict=True)
    ]
    return replace(table, records=tuple(records))


def expected_share(records, weights, chosen):
    total = sum(weights)
    return sum(w for r, w in zip(records, weights, strict=True) if chosen(r)) / total


@pytest.mark.parametrize(("balance", "share"), [(1.0, 0.5), (0.5, 1 / (1 + np.sqrt(5)))])
def test_small_sources_are_drawn_more_often(table, balance, share):
    mixed = with_sources(table, ["rare"] * 2 + ["common"] * 10)
    weights = sampling_weights(mixed.records, settings(source_balance=balance))
    rare = expected_share(mixed, weights, lambda r: r.attributes["source"] == "rare")
    assert rare == pytest.approx(share)


def test_both_classes_are_drawn_equally_often_beside_balanced_sources(table):
    mixed = with_sources(table, ["rare"] * 2 + ["common"] * 10)
    training = settings(source_balance=1.0, balanced_sampling=True)
    weights = sampling_weights(mixed.records, training)
    assert expected_share(mixed, weights, lambda r: r.label == "malignant") == pytest.approx(0.5)
    assert sampling_weights(table.records, settings()) is None, "without balancing"


def test_sources_cannot_be_balanced_without_the_column(table):
    with pytest.raises(DataError, match="have no source"):
        sampling_weights(with_sources(table, [""] * 12).records, settings(source_balance=1.0))


def test_a_share_of_the_samples_shows_the_whole_image(table):
    whole = ClassificationDataset(table, size=32, policy=MaskPolicy.from_mode("whole"))
    mixed = ClassificationDataset(table, size=32, policy=POLICY, whole_image_share=0.4)
    shown = []
    for epoch in range(20):
        mixed.epoch = epoch
        shown += [np.array_equal(mixed[index][0], whole[index][0]) for index in range(len(table))]
    assert np.mean(shown) == pytest.approx(0.4, abs=0.1)
