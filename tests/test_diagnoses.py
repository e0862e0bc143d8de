"""Probabilities of diagnoses agree with the probability of malignant, whatever computes them."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_metadata import FUSION
from tiny_export import tiny_cascade, tiny_classifier

from cascade.command_line.main import main
from cascade.data.tables import read_csv
from cascade.errors import ConfigError, ModelFileError
from cascade.export import export_onnx
from cascade.lesion.masking import MaskedCrop, MaskPolicy
from cascade.models.classifier import Classifier
from cascade.models.ensemble import ClassifierEnsemble
from cascade.models.onnx_runtime import DIAGNOSIS_SHARES, OnnxClassifier
from cascade.pipeline import Cascade
from cascade.pipeline.augmented_views import VIEWS, view
from cascade.pipeline.stages import classify_with_shares
from cascade.reliability import Diagnoses, Metadata, diagnosis_name

TOLD = Diagnoses(
    ("dermatofibroma", "melanocytic nevus"), ("melanoma", "other"), (0.1, 0.6, 0.2, 0.1)
)
CROPS = np.random.default_rng(3).integers(0, 256, (4, 64, 64, 3), dtype=np.uint8)


def telling_classifier(**options):
    classifier = tiny_classifier(**options)
    torch.manual_seed(options.get("seed", 0))
    classifier.set_diagnoses(TOLD)
    return classifier


@pytest.fixture(scope="module")
def telling():
    silent = tiny_cascade()
    classifier = telling_classifier(temperature=1.7, bias=-0.4)
    safeguards = replace(silent.safeguards, metadata=FUSION)
    return Cascade(silent.segmenter, classifier, safeguards=safeguards)


@pytest.fixture(scope="module")
def saved(telling, tmp_path_factory):
    folder = tmp_path_factory.mktemp("telling")
    telling.save(folder / "model.safetensors")
    parity = export_onnx(telling, folder / "model_onnx")
    return folder, parity


@st.composite
def judged(draw):
    sides = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    count = draw(st.integers(1, 5))
    generator = np.random.default_rng(draw(st.integers(0, 999)))
    diagnoses = Diagnoses(
        tuple(f"b{place}" for place in range(sides[0])),
        tuple(f"m{place}" for place in range(sides[1])),
        tuple(generator.dirichlet(np.ones(sum(sides)))),
    )
    malignant = np.array(draw(st.lists(st.floats(0, 1), min_size=count, max_size=count)))
    shares = [generator.dirichlet(np.ones(side), count) for side in sides]
    classes = np.stack([1 - malignant, malignant], axis=1)
    return diagnoses, classes.astype(np.float32), np.concatenate(shares, 1).astype(np.float32)


@settings(max_examples=60, deadline=None)
@given(judged())
def test_the_diagnoses_of_a_class_sum_to_its_probability(data):
    diagnoses, classes, shares = data
    found = diagnoses.probabilities(classes, shares)
    assert (found >= 0).all()
    benign = len(diagnoses.benign)
    np.testing.assert_allclose(found[:, :benign].sum(axis=1), classes[:, 0], atol=1e-12)
    np.testing.assert_allclose(found[:, benign:].sum(axis=1), classes[:, 1], atol=1e-12)
    np.testing.assert_allclose(found[:, 0], classes[:, 0] * shares[:, 0], atol=1e-6)
    again = diagnoses.probabilities(classes, diagnoses.shares(found))
    np.testing.assert_allclose(again, found, atol=1e-12)


def test_a_class_without_probability_shares_nothing_equally():
    shares = TOLD.shares(np.array([[0.0, 0.0, 0.25, 0.75]]))
    np.testing.assert_allclose(shares, [[0.5, 0.5, 0.25, 0.75]])


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Melanoma, NOS", "melanoma"),
        ("nv", "melanocytic nevus"),
        ("Nevus", "melanocytic nevus"),
        ("seborrheic keratosis", "benign keratosis"),
        ("Pigmented benign keratosis", "benign keratosis"),
        ("Benign soft tissue proliferations - Vascular", "vascular lesion"),
        ("Squamous cell  carcinoma, NOS", "squamous cell carcinoma"),
        ("akiec", "actinic keratosis"),
        (" My own_class ", "my own class"),
        ("", ""),
    ],
)
def test_spellings_of_the_public_data_sets_are_one_diagnosis(text, name):
    assert diagnosis_name(text) == diagnosis_name(name) == name


@pytest.mark.parametrize(
    ("benign", "malignant", "shares", "message"),
    [
        ((), ("a",), (1.0,), "at least one"),
        (("a",), (), (1.0,), "at least one"),
        (("a",), ("a",), (0.5, 0.5), "name each once"),
        (("a",), ("b",), (0.5,), "a positive one for each of 2"),
        (("a",), ("b",), (0.5, 0.0), "a positive one"),
    ],
)
def test_unusable_diagnoses_are_refused(benign, malignant, shares, message):
    with pytest.raises(ConfigError, match=message):
        Diagnoses(benign, malignant, shares)


@pytest.mark.parametrize(
    "broken", [[{"name": "a"}], ["a"], {"a": 1}, [{"name": "a", "class": "x"}]]
)
def test_a_description_of_another_kind_is_refused(broken):
    with pytest.raises(ConfigError, match="cannot be read"):
        Diagnoses.from_description(broken)


def test_a_description_is_read_back():
    described = json.loads(json.dumps(TOLD.describe()))
    assert Diagnoses.from_description(described) == TOLD
    assert Diagnoses.from_description(None) is Diagnoses.from_description([]) is None


def test_the_rule_for_mean_recall_divides_by_how_frequent_a_diagnosis_is():
    probabilities = np.array([[0.2, 0.5, 0.2, 0.1], [0.1, 0.9, 0.0, 0.0], [0.0, 0.6, 0.4, 0.0]])
    assert TOLD.likeliest_of_equals(probabilities).tolist() == [0, 1, 2]


def test_a_prediction_holds_each_diagnosis_and_they_agree_with_malignant(telling, lesion):
    for tta in ("none", "flips"):
        (found,) = telling(lesion.image, tta=tta)
        assert tuple(found.diagnoses) == TOLD.names
        malignant = found.diagnoses["melanoma"] + found.diagnoses["other"]
        assert malignant == pytest.approx(found.probabilities["malignant"], abs=1e-12)
        assert sum(found.diagnoses.values()) == pytest.approx(1, abs=1e-6)


def test_the_network_that_tells_diagnoses_answers_malignant_as_before(telling):
    plain = telling.classifier.predict_proba(CROPS)
    with_shares, shares = telling.classifier.predict_with_shares(CROPS)
    np.testing.assert_array_equal(plain, with_shares)
    np.testing.assert_allclose(shares[:, :2].sum(axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(shares[:, 2:].sum(axis=1), 1, atol=1e-6)


def test_shares_are_a_softmax_within_each_class_of_the_layers_logits():
    classifier = telling_classifier()
    images = torch.from_numpy(CROPS)
    _, _, features = classifier.forward_with_features(images)
    logits = classifier.diagnosis_head(features).detach().double().numpy()
    for part in (slice(0, 2), slice(2, 4)):
        expected = np.exp(logits[:, part])
        expected /= expected.sum(axis=1, keepdims=True)
        found = classifier.predict_with_shares(CROPS)[1][:, part]
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_views_are_averaged_as_the_probability_of_malignant_is():
    classifier = telling_classifier()
    crops = [MaskedCrop(pixels, (0, 0, 64, 64)) for pixels in CROPS]
    classes, shares = classify_with_shares(classifier, crops, tta="dihedral")
    views = [classifier.predict_with_shares(view(CROPS, how)) for how in VIEWS["dihedral"]]
    expected = np.mean([TOLD.probabilities(*one) for one in views], axis=0)
    np.testing.assert_allclose(TOLD.probabilities(classes, shares), expected, atol=1e-6)


def test_an_ensembles_diagnoses_are_the_weighted_mean_of_its_members():
    members = [telling_classifier(seed=seed, temperature=1 + seed) for seed in range(2)]
    ensemble = ClassifierEnsemble(members, [0.3, 0.7])
    found = TOLD.probabilities(*ensemble.predict_with_shares(CROPS))
    each = [TOLD.probabilities(*member.predict_with_shares(CROPS)) for member in members]
    np.testing.assert_allclose(found, 0.3 * each[0] + 0.7 * each[1], atol=1e-6)
    again = ClassifierEnsemble.from_artifact(ensemble.to_artifact(), device="cpu")
    assert again.diagnoses == TOLD
    ensemble.temperature = 2.0  # of the whole; shares within a class stay
    hotter = TOLD.shares(TOLD.probabilities(*ensemble.predict_with_shares(CROPS)))
    np.testing.assert_allclose(hotter, TOLD.shares(found), atol=1e-6)


def test_an_ensemble_whose_members_tell_different_diagnoses_tells_none():
    members = [telling_classifier(), tiny_classifier(seed=1)]
    assert ClassifierEnsemble(members).diagnoses is None
    members[1].set_diagnoses(Diagnoses(("x",), ("y",), (0.5, 0.5)))
    assert ClassifierEnsemble(members).diagnoses is None


def test_a_model_without_diagnoses_has_none(lesion):
    cascade = tiny_cascade()
    assert cascade.diagnoses is None
    assert cascade(lesion.image)[0].diagnoses == {}
    assert "diagnoses" not in cascade.classifier.describe()
    with pytest.raises(ConfigError, match="tells no diagnoses"):
        cascade.classifier.predict_with_shares(CROPS)


def test_where_the_cascade_abstains_there_are_no_diagnoses(telling):
    policy = MaskPolicy(on_empty="abstain", threshold=0.9999)
    cascade = Cascade(telling.segmenter, telling_classifier(policy=policy))
    (found,) = cascade(np.full((80, 80, 3), 128, np.uint8))
    assert found.probabilities == found.diagnoses == {}


def test_diagnoses_agree_with_a_probability_that_metadata_moved(telling, lesion):
    (plain,) = telling(lesion.image)
    (fused,) = telling(lesion.image, metadata=Metadata(age=80, sex="male"))
    moved = fused.probabilities["malignant"]
    assert moved != pytest.approx(plain.probabilities["malignant"], abs=0.01)
    assert sum(fused.diagnoses[name] for name in TOLD.malignant) == pytest.approx(moved)
    assert sum(fused.diagnoses.values()) == pytest.approx(1)


def test_a_file_and_its_export_tell_the_same(telling, saved, lesion):
    folder, parity = saved
    expected = telling(lesion.image)[0].diagnoses
    for model, runtime in (("model.safetensors", "torch"), ("model_onnx", "onnx")):
        cascade = Cascade.load(folder / model, runtime=runtime, device="cpu")
        assert cascade.diagnoses == TOLD
        assert cascade.safeguards.metadata == FUSION
        found = cascade(lesion.image)[0].diagnoses
        assert found == pytest.approx(expected, abs=1e-5)
    assert parity["float32"]["noise"]["diagnosis_difference"] < 1e-4
    assert parity["float32"]["limits"]["diagnosis_difference"] == 1e-4
    outputs = read_outputs(folder / "model_onnx")
    assert list(outputs)[:2] == ["probabilities", DIAGNOSIS_SHARES]


def read_outputs(folder):
    document = json.loads((folder / "cascade.json").read_text())
    return document["graphs"]["classifier"]["outputs"]


def test_half_precision_weights_tell_nearly_the_same(telling, tmp_path):
    telling.classifier.save(tmp_path / "half.safetensors", half=True)
    found = Classifier.load(tmp_path / "half.safetensors", device="cpu")
    expected = telling.classifier.predict_with_shares(CROPS)[1]
    np.testing.assert_allclose(found.predict_with_shares(CROPS)[1], expected, atol=0.02)


def test_a_graph_without_the_diagnoses_that_its_document_tells_is_refused(telling):
    class Session:
        input_shape = (1, 64, 64, 3)
        outputs = frozenset({"probabilities"})

    with pytest.raises(ModelFileError, match="does not give diagnosis_shares"):
        OnnxClassifier(Session(), telling.classifier.describe(), source="model")


def test_a_file_whose_layer_is_missing_is_refused(telling, tmp_path):
    artifact = telling.classifier.to_artifact()
    tensors = {name: value for name, value in artifact.tensors.items() if "diagnosis" not in name}
    broken = type(artifact)(artifact.stages, tensors, artifact.provenance, artifact.metrics)
    with pytest.raises(ModelFileError, match=r"missing diagnosis_head.bias"):
        Classifier.from_artifact(broken, device="cpu")


def test_another_input_size_keeps_the_layer():
    classifier = telling_classifier()
    larger = classifier.at_size(96)
    assert larger.diagnoses == TOLD
    torch.testing.assert_close(larger.diagnosis_head.weight, classifier.diagnosis_head.weight)


def test_the_same_diagnoses_keep_their_layer_and_others_get_a_new_one():
    classifier = telling_classifier()
    layer = classifier.diagnosis_head
    classifier.set_diagnoses(Diagnoses(TOLD.benign, TOLD.malignant, (0.25,) * 4))
    assert classifier.diagnosis_head is layer
    classifier.set_diagnoses(Diagnoses(("x",), ("y",), (0.5, 0.5)))
    assert classifier.diagnosis_head is not layer
    classifier.set_diagnoses(None)
    assert not any("diagnosis" in name for name in classifier.state_dict())


def test_the_table_of_predictions_has_a_column_for_each_diagnosis(saved, dataset_folder, tmp_path):
    folder, _ = saved
    image = next((dataset_folder / "images_all").iterdir())
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    arguments = ["predict", str(image), str(broken), "--model", str(folder / "model.safetensors")]
    assert main([*arguments, "--output", str(tmp_path / "out")]) == 3
    columns, (row, failed) = read_csv(tmp_path / "out" / "predictions.csv")
    names = [f"diagnosis_{name.replace(' ', '_')}" for name in TOLD.names]
    assert columns[-4:] == names
    assert sum(float(row[name]) for name in names) == pytest.approx(1, abs=1e-6)
    assert failed["error"]
    assert not any(failed[name] for name in names)
    assert main([*arguments, "--output", str(tmp_path / "out"), "--resume"]) == 3
