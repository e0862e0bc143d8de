import functools

import numpy as np
import pytest
import torch
from contracts import noise
from tiny_export import tiny_classifier
from tiny_training import SEGMENTER

from cascade.errors import ConfigError, ModelFileError
from cascade.lesion.masking import MaskPolicy
from cascade.models.artifact import Artifact, read_document, write_artifact
from cascade.models.classifier import Classifier
from cascade.models.ensemble import ClassifierEnsemble, join_classifiers, load_classifier
from cascade.pipeline import Cascade

POLICY = MaskPolicy.from_mode("crop", margin=0.3)
IMAGES = noise(3, 32)
WEIGHTS = (0.2, 0.3, 0.5)
member = functools.partial(tiny_classifier, size=32, policy=POLICY)


@pytest.fixture(scope="module")
def members():
    return [member(seed=0), member(seed=1, temperature=2.5), member(seed=2)]


@pytest.fixture
def ensemble(members):
    return ClassifierEnsemble(members, WEIGHTS)


def test_a_probability_is_the_weighted_mean_of_what_the_members_say_alone(ensemble, members):
    expected = np.zeros((3, 2))
    for weight, item in zip(WEIGHTS, members, strict=True):
        logits = item(torch.from_numpy(IMAGES)).detach().numpy().astype(np.float64)
        powers = np.exp(logits / item.temperature)
        expected += weight * powers / powers.sum(axis=1, keepdims=True)
    found = ensemble.predict_proba(IMAGES)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-6)
    judged = [item.predict_proba(IMAGES)[:, 1] for item in members]
    assert np.ptp(judged, axis=0).max() > 0.1, "or the weights would not matter"
    equal = ClassifierEnsemble(members).predict_proba(IMAGES)
    np.testing.assert_allclose(equal[:, 1], np.mean(judged, axis=0), atol=1e-6)


def test_a_certain_member_does_not_break_the_mean(members):
    certain = member(seed=3, temperature=1e-6)  # probabilities of exactly 0 and 1
    judged = certain.predict_proba(IMAGES)
    assert set(np.unique(judged)) <= {0.0, 1.0}
    found = ClassifierEnsemble([certain, members[0]]).predict_proba(IMAGES)
    np.testing.assert_allclose(found, (judged + members[0].predict_proba(IMAGES)) / 2, atol=1e-6)


def test_saved_and_loaded_it_says_the_same_bits(ensemble, tmp_path):
    ensemble.temperature, ensemble.cutoff = 1.5, 0.3
    ensemble.operating_points = {"0.90": 0.25}
    ensemble.provenance, ensemble.metrics = {"trained_on": ["a"]}, {"out_of_fold": {"n": 1}}
    ensemble.save(path := tmp_path / "e.safetensors")
    loaded = load_classifier(path, device="cpu")
    assert isinstance(loaded, ClassifierEnsemble)
    assert not loaded.training
    assert loaded.describe() == ensemble.describe() == read_document(path)["stages"]["classifier"]
    assert (loaded.provenance, loaded.metrics) == (ensemble.provenance, ensemble.metrics)
    np.testing.assert_array_equal(loaded.predict_proba(IMAGES), ensemble.predict_proba(IMAGES))
    with pytest.raises(ModelFileError, match="ensemble of 3 classifiers"):
        Classifier.load(path, device="cpu")  # a training cannot go on from it


def test_a_cascade_with_an_ensemble_is_one_file(ensemble, tmp_path, lesion):
    from cascade.models.segmenter import Segmenter

    torch.manual_seed(0)
    cascade = Cascade(Segmenter.build(SEGMENTER).eval(), ensemble)
    cascade.save(tmp_path / "cascade.safetensors")
    loaded = Cascade.load(tmp_path / "cascade.safetensors", device="cpu")
    assert isinstance(loaded.classifier, ClassifierEnsemble)
    assert loaded.policy == POLICY
    assert loaded.describe() == cascade.describe()
    first, second = cascade([lesion.image])[0], loaded([lesion.image])[0]
    assert first.probabilities == second.probabilities
    read = load_classifier(tmp_path / "cascade.safetensors", device="cpu")
    np.testing.assert_array_equal(read.predict_proba(IMAGES), ensemble.predict_proba(IMAGES))


def test_a_file_whose_members_lack_tensors_is_refused(ensemble, tmp_path):
    artifact = ensemble.to_artifact()
    kept = {
        name: tensor
        for name, tensor in artifact.tensors.items()
        if not name.startswith("classifier.members.2.")
    }
    write_artifact(tmp_path / "e.safetensors", Artifact(artifact.stages, kept, {}, {}))
    with pytest.raises(ModelFileError, match=r"missing members\.2\."):
        load_classifier(tmp_path / "e.safetensors", device="cpu")


@pytest.mark.parametrize(
    ("changes", "named"),
    [({"policy": MaskPolicy()}, "mask policy"), ({"size": 64}, "takes 64 pixels.*takes 32")],
)
def test_members_that_see_different_crops_are_refused(members, changes, named):
    with pytest.raises(ConfigError, match=f"member 1.*{named}"):
        ClassifierEnsemble([members[0], member(seed=4, **changes)])


@pytest.mark.parametrize(
    "weights", [(0.5, 0.5), (0.5, 0.5, 0.5), (1.5, -0.25, -0.25), (np.nan,) * 3]
)
def test_weights_that_are_no_shares_are_refused(members, weights):
    with pytest.raises(ConfigError, match="weights"):
        ClassifierEnsemble(members, weights)
    with pytest.raises(ConfigError, match="no classifiers"):
        ClassifierEnsemble([])


def test_joining_keeps_the_shares_within_each_part(members):
    pair = ClassifierEnsemble(members[:2], (0.25, 0.75))
    joined = join_classifiers([pair, members[2]], (0.4, 0.6))
    assert joined.weights == pytest.approx((0.1, 0.3, 0.6))
    expected = 0.4 * pair.predict_proba(IMAGES) + 0.6 * members[2].predict_proba(IMAGES)
    np.testing.assert_allclose(joined.predict_proba(IMAGES), expected, atol=1e-6)
    assert join_classifiers(members, (0.5, 0.0, 0.5)).classifiers == [members[0], members[2]]


def test_an_ensemble_with_its_own_calibration_is_not_taken_apart(members):
    pair = ClassifierEnsemble(members[:2])
    pair.temperature = 2.0
    with pytest.raises(ConfigError, match="calibrate the result"):
        join_classifiers([pair, members[2]], (0.5, 0.5))
