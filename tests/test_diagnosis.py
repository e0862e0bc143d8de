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
from cascade.training import classification
from cascade.training.classification import classification_loss, train_classifier
from cascade.training.diagnosis import UNKNOWN, diagnosis_indices, diagnosis_layer, with_diagnosis

CONFIG = ClassifierConfig(architecture="timm/test_resnet", size=32)
NAMES = ("nevus", "Nevus", "Melanoma, NOS", "melanoma", "")


@pytest.fixture(scope="module")
def table(dataset_folder):
    read = read_table(dataset_folder / "train_data.csv")
    records = [
        replace(record, attributes={"diagnosis": NAMES[place % len(NAMES)]})
        for place, record in enumerate(read)
    ]
    return replace(read, records=tuple(records))


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
    indices, names = diagnosis_indices(table.records[:5])
    assert names == ("melanoma", "nevus")
    assert indices.tolist() == [1, 1, 0, 0, UNKNOWN]


def test_a_table_without_diagnoses_is_refused(dataset_folder):
    table = read_table(dataset_folder / "train_data.csv")
    bare = [replace(record, attributes={}) for record in table]
    with pytest.raises(DataError, match="names 0 diagnoses"):
        diagnosis_indices(bare)


def test_the_joint_loss_is_the_sum_of_both_cross_entropies():
    classifier = Classifier.build(CONFIG).eval()
    layer = diagnosis_layer(classifier, 3)
    crops, labels, diagnoses = batch([0, 2, UNKNOWN, 1])
    criterion = nn.CrossEntropyLoss()

    def binary(network, parts):
        return classification_loss(network, parts, criterion)

    joint = with_diagnosis(binary, layer, 0.5)(classifier, [crops, labels, diagnoses])
    features = classifier.network.forward_head(
        classifier.network.forward_features(classifier.normalization(crops)), pre_logits=True
    )
    known = torch.tensor([0, 1, 3])
    second = -layer(features).log_softmax(dim=1)[known, diagnoses[known]].mean()
    first = binary(classifier, [crops, labels])
    torch.testing.assert_close(joint.sum(), first + 0.5 * second)


def test_a_batch_without_any_diagnosis_has_the_binary_loss_alone():
    classifier = Classifier.build(CONFIG).eval()
    crops, labels, diagnoses = batch([UNKNOWN, UNKNOWN])

    def binary(network, parts):
        return classification_loss(network, parts, nn.CrossEntropyLoss())

    joint = with_diagnosis(binary, diagnosis_layer(classifier, 3), 1.0)
    found = joint(classifier, [crops, labels, diagnoses])
    torch.testing.assert_close(found.sum(), binary(classifier, [crops, labels]))
    assert torch.isfinite(found).all()


def test_a_network_without_a_linear_end_is_refused():
    classifier = Classifier.build(ClassifierConfig(architecture="squeezenet1_1", size=64))
    with pytest.raises(ConfigError, match="--diagnosis_weight 0"):
        diagnosis_layer(classifier, 3)


def test_the_file_holds_the_binary_network_only(table, tmp_path):
    train(table, tmp_path / "with", epochs=1)
    train(table, tmp_path / "without", epochs=1, diagnosis_weight=0.0)
    with_layer = read_artifact(tmp_path / "with" / "best.safetensors")
    without = read_artifact(tmp_path / "without" / "best.safetensors")
    assert with_layer.tensors.keys() == without.tensors.keys()
    name = next(key for key in with_layer.tensors if key.endswith("fc.weight"))
    assert not np.array_equal(with_layer.tensors[name], without.tensors[name])


def test_a_resumed_training_ends_with_the_same_weights(table, tmp_path):
    whole = train(table, tmp_path / "whole").state_dict()
    with interrupted(classification, "validate_classifier", call=2):
        train(table, tmp_path / "stopped")
    resumed = train(table, tmp_path / "stopped", resume=True).state_dict()
    for name, tensor in whole.items():
        torch.testing.assert_close(resumed[name], tensor, rtol=0, atol=0)
