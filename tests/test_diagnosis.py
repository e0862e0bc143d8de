from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_training import interrupted
from torch import nn

from cascade.config import ClassificationTrainConfig, ClassifierConfig
from cascade.data.splits import make_splits
from cascade.data.tables import read_table
from cascade.errors import ConfigError, DataError
from cascade.lesion.masking import MaskPolicy
from cascade.models.artifact import read_artifact
from cascade.models.classifier import Classifier
from cascade.reliability import Diagnoses
from cascade.training import classification
from cascade.training.classification import (
    classification_loss,
    sampling_weights,
    train_classifier,
)
from cascade.training.diagnosis import (
    UNKNOWN,
    diagnoses_of,
    diagnosis_indices,
    drawn_excess,
    with_diagnosis,
)

CONFIG = ClassifierConfig(architecture="timm/test_resnet", size=32)
NAMES = {
    "benign": ("nevus", "Nevus", "", "Dermatofibroma"),
    "malignant": ("Melanoma, NOS", "melanoma", ""),
}
THREE = Diagnoses(("nevus",), ("carcinoma", "melanoma"), (0.5, 0.25, 0.25))


@pytest.fixture(scope="module")
def table(dataset_folder):
    read = read_table(dataset_folder / "train_data.csv")
    return replace(read, records=tuple(named(read)))


def named(records):
    for place, record in enumerate(records):
        names = NAMES[record.label]
        yield replace(record, attributes={"diagnosis": names[place % len(names)]})


def train(table, output, *, resume=False, **changes):
    fixed = {"epochs": 2, "batch_size": 4, "precision": "fp32", "diagnosis_weight": 1.0}
    return train_classifier(
        table,
        make_splits(table, fraction=0.4, seed=0),
        config=CONFIG,
        training=ClassificationTrainConfig(**{**fixed, **changes}),
        policy=MaskPolicy.from_mode("crop"),
        device="cpu",
        output=output,
        resume=resume,
    )


def batch(diagnoses):
    count = len(diagnoses)
    crops = np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), np.uint8)
    return [torch.from_numpy(crops), torch.arange(count) % 2, torch.tensor(diagnoses)]


def test_spellings_of_one_diagnosis_are_one_class_and_blanks_are_unknown(table):
    record = table.records[0]
    spelt = [
        ("nevus", "benign"),
        ("Nevus", "benign"),
        ("Melanoma, NOS", "malignant"),
        ("", "benign"),
    ]
    records = [
        replace(record, attributes={"diagnosis": name}, label=label) for name, label in spelt
    ]
    diagnoses = diagnoses_of(records)
    assert diagnoses.names == ("melanocytic nevus", "melanoma")
    assert diagnoses.training_shares == pytest.approx((2 / 3, 1 / 3))
    assert diagnosis_indices(records, diagnoses).tolist() == [0, 0, 1, UNKNOWN]


def test_a_table_without_diagnoses_is_refused(dataset_folder):
    table = read_table(dataset_folder / "train_data.csv")
    bare = [replace(record, attributes={}) for record in table]
    with pytest.raises(DataError, match="names 0 diagnoses"):
        diagnoses_of(bare)


def test_a_diagnosis_of_both_classes_is_refused_by_name(table):
    records = [replace(record, attributes={"diagnosis": "lump"}) for record in table]
    with pytest.raises(DataError, match=r"1 diagnoses are benign in some.*lump"):
        diagnoses_of(records)


def test_a_class_without_any_diagnosis_is_refused(table):
    records = [
        record if record.label == "benign" else replace(record, attributes={}) for record in table
    ]
    with pytest.raises(DataError, match="0 of them malignant"):
        diagnoses_of(records)


def test_the_joint_loss_is_the_sum_of_both_cross_entropies():
    classifier = Classifier.build(CONFIG).eval()
    classifier.set_diagnoses(THREE)
    layer = classifier.diagnosis_head
    crops, labels, diagnoses = batch([0, 2, UNKNOWN, 1])
    criterion = nn.CrossEntropyLoss()
    joint = with_diagnosis(criterion, 0.5)(classifier, [crops, labels, diagnoses])
    features = classifier.network.forward_head(
        classifier.network.forward_features(classifier.normalization(crops)), pre_logits=True
    )
    known = torch.tensor([0, 1, 3])
    second = -layer(features).log_softmax(dim=1)[known, diagnoses[known]].mean()
    first = classification_loss(classifier, [crops, labels], criterion)
    torch.testing.assert_close(joint.sum(), first + 0.5 * second)


def test_a_diagnosis_drawn_more_often_than_it_occurs_is_learnt_as_it_occurs():
    classifier = Classifier.build(CONFIG)
    classifier.set_diagnoses(THREE)
    layer = classifier.diagnosis_head
    layer.weight.data.zero_()
    layer.bias.data.zero_()
    drawn, occurring = np.array([0.2, 0.3, 0.5]), np.array([0.7, 0.2, 0.1])
    joint = with_diagnosis(nn.CrossEntropyLoss(), 1.0, excess=np.log(drawn / occurring))
    crops, labels, diagnoses = batch([0] * 2 + [1] * 3 + [2] * 5)  # as drawn
    optimizer = torch.optim.Adam([layer.bias], lr=0.1)
    for _ in range(300):
        optimizer.zero_grad()
        joint(classifier, [crops, labels, diagnoses]).sum().backward()
        optimizer.step()
    np.testing.assert_allclose(layer.bias.detach().softmax(dim=0), occurring, atol=0.01)


@pytest.mark.parametrize("balance", [0.0, 0.5, 1.0])
def test_rare_diagnoses_are_drawn_more_often(table, balance):
    names = ["nevus"] * 3 + ["dermatofibroma", "melanoma", ""]
    records = [
        replace(record, attributes={"diagnosis": name}, label=label)
        for record, name, label in zip(
            list(table)[:6], names, ["benign"] * 4 + ["malignant"] * 2, strict=True
        )
    ]
    training = ClassificationTrainConfig(diagnosis_balance=balance)
    weights = sampling_weights(records, training)
    if not balance:
        assert weights is None
    else:
        np.testing.assert_allclose(weights / weights[0], [1, 1, 1, 3**balance, 3**balance, 1])
    diagnoses = diagnoses_of(records)
    excess = drawn_excess(diagnosis_indices(records, diagnoses), diagnoses, weights)
    shares = diagnoses.training_shares * np.exp(excess)
    expected = {"melanocytic nevus": 3.0 ** (1 - balance), "dermatofibroma": 1, "melanoma": 1}
    total = sum(expected.values())
    np.testing.assert_allclose(shares, [expected[name] / total for name in diagnoses.names])


def test_diagnoses_cannot_be_balanced_where_none_is_known(table):
    records = [replace(record, attributes={}) for record in table]
    with pytest.raises(DataError, match="--diagnosis_balance 0"):
        sampling_weights(records, ClassificationTrainConfig(diagnosis_balance=0.5))


def test_a_batch_without_any_diagnosis_has_the_binary_loss_alone():
    classifier = Classifier.build(CONFIG).eval()
    classifier.set_diagnoses(THREE)
    crops, labels, diagnoses = batch([UNKNOWN, UNKNOWN])
    joint = with_diagnosis(nn.CrossEntropyLoss(), 1.0)
    found = joint(classifier, [crops, labels, diagnoses])
    alone = classification_loss(classifier, [crops, labels], nn.CrossEntropyLoss())
    torch.testing.assert_close(found.sum(), alone)
    assert torch.isfinite(found).all()


def test_a_network_without_a_linear_end_is_refused():
    classifier = Classifier.build(ClassifierConfig(architecture="squeezenet1_1", size=64))
    with pytest.raises(ConfigError, match="--diagnosis_weight 0"):
        classifier.set_diagnoses(THREE)


def test_the_file_keeps_the_layer_that_was_trained_along(table, tmp_path):
    train(table, tmp_path / "with", epochs=1)
    train(table, tmp_path / "without", epochs=1, diagnosis_weight=0.0)
    with_layer = read_artifact(tmp_path / "with" / "best.safetensors")
    without = read_artifact(tmp_path / "without" / "best.safetensors")
    layer = {f"classifier.diagnosis_head.{part}" for part in ("weight", "bias")}
    assert with_layer.tensors.keys() - without.tensors.keys() == layer
    names = [one["name"] for one in with_layer.stages["classifier"]["diagnoses"]]
    assert names == ["dermatofibroma", "melanocytic nevus", "melanoma"]
    assert "diagnoses" not in without.stages["classifier"]
    name = next(key for key in with_layer.tensors if key.endswith("fc.weight"))
    assert not np.array_equal(with_layer.tensors[name], without.tensors[name])


def test_a_resumed_training_ends_with_the_same_weights(table, tmp_path):
    whole = train(table, tmp_path / "whole").state_dict()
    with interrupted(classification, "validate_classifier", call=2):
        train(table, tmp_path / "stopped")
    resumed = train(table, tmp_path / "stopped", resume=True).state_dict()
    for name, tensor in whole.items():
        torch.testing.assert_close(resumed[name], tensor, rtol=0, atol=0)


def test_a_training_that_goes_on_keeps_the_layer_or_drops_it(table, tmp_path):
    """One trained with other features would answer wrongly, so it does not stay untrained."""
    first = train(table, tmp_path / "first", epochs=1)
    splits = make_splits(table, fraction=0.4, seed=0)
    settings = {"epochs": 1, "batch_size": 4, "precision": "fp32", "learning_rate": 0.0}
    onward = {}
    for weight in (1.0, 0.0):
        onward[weight] = train_classifier(
            table,
            splits,
            config=CONFIG,
            training=ClassificationTrainConfig(**settings, diagnosis_weight=weight),
            policy=MaskPolicy.from_mode("crop"),
            device="cpu",
            initial_model=tmp_path / "first" / "best.safetensors",
            output=tmp_path / f"onward_{weight}",
        )
    kept = onward[1.0].diagnosis_head.weight
    torch.testing.assert_close(kept, first.diagnosis_head.weight, rtol=0, atol=1e-3)
    assert onward[0.0].diagnoses is None
