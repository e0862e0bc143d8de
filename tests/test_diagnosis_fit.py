"""Diagnoses for a finished cascade: what is fitted, and what must stay as it was."""

import json
from dataclasses import replace

import numpy as np
import pytest
from conftest import FakeClassifier
from tiny_export import tiny_cascade

from cascade.command_line.main import main
from cascade.data.splits import make_splits, write_splits
from cascade.data.synthetic import SyntheticConfig, write_synthetic_dataset
from cascade.data.tables import read_table
from cascade.errors import ConfigError, DataError
from cascade.models.artifact import read_artifact, read_document
from cascade.pipeline import Cascade
from cascade.reliability import Diagnoses
from cascade.training.diagnosis_fit import Examples, fit_diagnoses, fit_layer

THREE = Diagnoses(("dermatofibroma", "melanocytic nevus"), ("melanoma",), (0.1, 0.6, 0.3))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("fit") / "data"
    write_synthetic_dataset(path, SyntheticConfig(count_train=24, count_test=2, sizes=((48, 64),)))
    write_splits(
        path / "splits.json", make_splits(read_table(path / "train_data.csv"), fraction=0.4)
    )
    return path


@pytest.fixture(scope="module")
def model(folder, tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "cascade.safetensors"
    cascade = tiny_cascade()
    splits = json.loads((folder / "splits.json").read_text())
    table = read_table(folder / "train_data.csv")
    digest = make_splits(table, fraction=0.4).digest
    before = dict(cascade.classifier.provenance)
    cascade.classifier.provenance["splits"] = {"digest": digest}
    cascade.save(path, half=True)
    cascade.classifier.provenance = before
    assert splits
    return path


def drawn(counts, *, seed, spread=1.0):
    """Features of which the first tells the benign diagnoses apart, in units of their spread."""
    generator = np.random.default_rng(seed)
    truth = np.repeat(np.arange(3), counts)
    features = generator.normal(size=(truth.size, 6)) * spread
    features[:, 0] += 3 * spread * (truth == 0)
    features[:, 5] = 7.0  # never changes
    malignant = (truth == 2).astype(np.float32)
    return Examples(features.astype(np.float32), truth, np.stack([1 - malignant, malignant], 1))


def test_the_layer_separates_what_the_features_separate():
    learnt, held_out = drawn((30, 300, 50), seed=0), drawn((30, 300, 50), seed=1)
    layer = fit_layer(learnt, held_out, THREE)
    benign = held_out.truth < 2
    logits = (held_out.features @ layer.weight.T + layer.bias)[benign, :2]
    equal = logits - np.log(THREE.training_shares[:2])
    right = equal.argmax(axis=1) == held_out.truth[benign]
    assert right[held_out.truth[benign] == 0].mean() > 0.85
    assert right[held_out.truth[benign] == 1].mean() > 0.85


def test_the_scale_of_a_feature_does_not_matter():
    learnt, held_out = drawn((20, 60, 20), seed=0), drawn((20, 60, 20), seed=1)
    small = [replace(part, features=part.features / 64) for part in (learnt, held_out)]
    first, second = fit_layer(learnt, held_out, THREE), fit_layer(*small, THREE)
    changing = slice(0, 5)
    np.testing.assert_allclose(
        first.weight[:, changing], second.weight[:, changing] / 64, rtol=0.02, atol=1e-3
    )


def test_a_class_of_one_diagnosis_has_nothing_to_tell_apart():
    layer = fit_layer(drawn((20, 60, 20), seed=0), drawn((20, 60, 20), seed=1), THREE)
    assert not layer.weight[2].any()


def test_features_without_information_give_the_shares_of_the_training_images():
    generator = np.random.default_rng(0)
    truth = np.repeat(np.arange(3), (40, 240, 20))
    noise = Examples(
        generator.normal(size=(300, 3)).astype(np.float32),
        truth,
        np.full((300, 2), 0.5, np.float32),
    )
    layer = fit_layer(noise, noise, THREE)
    logits = noise.features @ layer.weight.T + layer.bias
    share = 1 / (1 + np.exp(logits[:, 1] - logits[:, 0]))
    assert share.mean() == pytest.approx(0.1 / 0.7, abs=0.04)


def test_the_command_leaves_everything_else_as_it_was(folder, model, tmp_path, capsys):
    output = tmp_path / "telling.safetensors"
    arguments = ["fit-diagnoses", "--model", str(model), "--data_path", str(folder)]
    assert main([*arguments, "--output", str(output)]) == 0
    assert "balanced accuracy" in capsys.readouterr().out
    before, after = read_artifact(model), read_artifact(output)
    for name, tensor in before.tensors.items():
        np.testing.assert_array_equal(after.tensors[name], tensor)
    assert set(after.tensors) - set(before.tensors) == {
        "classifier.diagnosis_head.weight", "classifier.diagnosis_head.bias",
    }  # fmt: skip
    assert after.tensors["classifier.diagnosis_head.weight"].dtype == np.float16
    told = after.stages["classifier"].pop("diagnoses")
    assert after.stages == before.stages
    assert sum(one["training_share"] for one in told) == pytest.approx(1)
    document = read_document(output)
    assert document["provenance"]["classifier"]["diagnoses"]["images"] > 0
    assert 0 <= document["metrics"]["classifier"]["diagnoses"]["balanced_accuracy"] <= 1
    images = sorted((folder / "images_all").iterdir())[:3]
    first, second = (Cascade.load(path, device="cpu")(images) for path in (model, output))
    for plain, telling in zip(first, second, strict=True):
        assert plain.probabilities == telling.probabilities
        assert len(telling.diagnoses) == len(told)
    assert main([*arguments, "--output", str(output)]) == 2  # it is there already


def test_another_division_is_refused(folder, tmp_path):
    table = read_table(folder / "train_data.csv")
    cascade = tiny_cascade()
    with pytest.raises(DataError, match="another division"):
        fit_diagnoses(cascade, table, make_splits(table, fraction=0.4))


def test_stages_that_hold_no_weights_are_refused(folder):
    table = read_table(folder / "train_data.csv")
    cascade = Cascade(tiny_cascade().segmenter, FakeClassifier())
    with pytest.raises(ConfigError, match="a single torch classifier"):
        fit_diagnoses(cascade, table, make_splits(table, fraction=0.4))
