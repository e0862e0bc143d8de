"""Graphs give the answers of the networks that they were made of, or are not written."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
import torch
from contracts import noise
from tiny_export import tiny_cascade, tiny_classifier, tiny_export

from cascade.data.synthetic import draw_lesion
from cascade.export.activation import find_heads
from cascade.files import file_digest
from cascade.models.artifact import tensors_digest
from cascade.models.classifier import Classifier
from cascade.models.exported import FILES, read_exported
from cascade.models.runtimes import model_identity
from cascade.pipeline import Cascade


@pytest.fixture(scope="module")
def exported() -> Cascade:
    return Cascade.load(tiny_export(), runtime="onnx")


def photographs(count: int) -> list[np.ndarray]:
    generator = np.random.default_rng(3)
    shapes = ((60, 80), (96, 64), (50, 50))
    return [
        draw_lesion(generator, malignant=bool(i % 2), shape=shapes[i % 3]).image
        for i in range(count)
    ]


# --- the same answers -----------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 3])
def test_both_stages_answer_as_in_torch_whatever_the_batch(exported, count):
    images, original = noise(count, 32), tiny_cascade()
    for got, expected in zip(
        exported.segmenter.predict_with_features(images),
        original.segmenter.predict_with_features(images),
        strict=True,
    ):
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, expected, atol=1e-5)
    np.testing.assert_array_equal(
        exported.segmenter.predict(images), exported.segmenter.predict_with_features(images)[0]
    )
    crops = noise(count, 64)
    chances = exported.classifier.predict_proba(crops)
    assert chances.shape == (count, 2)
    np.testing.assert_allclose(chances, original.classifier.predict_proba(crops), atol=1e-5)


@pytest.mark.parametrize("tta", ["none", "flips"])
def test_a_photograph_gives_the_same_prediction(exported, tta):
    images = photographs(3)
    for got, expected in zip(
        exported(images, tta=tta), tiny_cascade()(images, tta=tta), strict=True
    ):
        np.testing.assert_allclose(got.mask_probability, expected.mask_probability, atol=1e-5)
        np.testing.assert_array_equal(got.mask, expected.mask)
        np.testing.assert_array_equal(got.crop, expected.crop)
        assert got.probabilities == pytest.approx(expected.probabilities, abs=1e-5)
        assert got.unfamiliarity == pytest.approx(expected.unfamiliarity, rel=1e-4)
        assert (got.label, got.box, got.prediction_set) == (
            expected.label, expected.box, expected.prediction_set,
        )  # fmt: skip
        assert got.warnings == expected.warnings


def test_settings_cutoffs_and_provenance_travel_along(exported):
    original = tiny_cascade()
    assert exported.describe() == original.describe()
    assert exported.provenance == original.provenance
    assert exported.policy == original.policy
    assert Cascade.load(tiny_export(), operating_point=0.9).cutoff == 0.2
    assert model_identity(tiny_export()) == tensors_digest(original.to_artifact().tensors)


def test_temperature_and_bias_are_inside_the_graph():
    original = tiny_cascade()
    with torch.no_grad():
        logits = original.classifier(torch.from_numpy(noise(4, 64)))
    difference = (logits[:, 1] - logits[:, 0]).double().numpy()
    chances = Cascade.load(tiny_export()).classifier.predict_proba(noise(4, 64))[:, 1]
    np.testing.assert_allclose(chances, 1 / (1 + np.exp(-difference / 1.7 + 0.4)), atol=1e-5)


# --- class activation maps ------------------------------------------------------------------------


def test_the_mean_of_an_activation_map_is_the_logit_but_for_a_constant(exported):
    images = noise(5, 64)
    with torch.no_grad():
        logits = tiny_cascade().classifier(torch.from_numpy(images)).numpy()
    for number, target in enumerate(("benign", "malignant")):
        maps = exported.classifier.activation_map(images, target=target)
        assert maps.shape == (5, 2, 2)
        assert maps.dtype == np.float32
        rest = logits[:, number] - maps.mean(axis=(1, 2))
        np.testing.assert_allclose(rest, rest[0], atol=1e-5)
        assert np.ptp(maps.mean(axis=(1, 2))) > 1e-4


@pytest.mark.parametrize(
    ("name", "has_map"),
    [("timm/test_resnet", True), ("torchvision/mobilenet_v2", True), ("densenet121", True),
     ("timm/test_convnext", False), ("timm/test_vit", False), ("squeezenet1_1", False)],
)  # fmt: skip
def test_a_map_is_offered_only_where_a_mean_and_a_linear_layer_are_the_end(name, has_map):
    torch.manual_seed(0)
    size = 160 if name == "timm/test_vit" else 64
    assert bool(find_heads(tiny_classifier(name, size=size))) == has_map


class Ending(torch.nn.Module):
    """Feature maps, and what happens between them and the logits."""

    def __init__(self, between):
        super().__init__()
        self.features = torch.nn.Conv2d(3, 5, 3, stride=8)
        self.between = between
        self.last = torch.nn.Linear(5, 2)

    def forward(self, images):
        return self.last(self.between(self.features(images)))


def classifier_with(between):
    torch.manual_seed(0)
    ready = tiny_classifier()
    network = Ending(between).eval()
    return Classifier(ready.config, ready.policy, network, ready.normalization)


@pytest.mark.parametrize(
    ("between", "rectified"),
    [(lambda maps: maps.mean(dim=(2, 3)), [False]),
     (lambda maps: maps.relu().mean(dim=(2, 3)), [True]),
     (lambda maps: maps.amax(dim=(2, 3)), []),
     (lambda maps: maps.mean(dim=(2, 3)).tanh(), [])],
    ids=["mean", "rectified", "maximum", "curved"],
)  # fmt: skip
def test_the_head_is_recognized_by_what_it_computes(between, rectified):
    assert [head.rectified for head in find_heads(classifier_with(between))] == rectified


def test_searching_for_the_head_leaves_no_hook_behind():
    classifier = tiny_cascade().classifier
    find_heads(classifier)
    assert not any(module._forward_hooks for module in classifier.modules())


# --- what is written ------------------------------------------------------------------------------


def test_the_folder_describes_itself():
    folder = tiny_export()
    assert {path.name for path in folder.iterdir()} == FILES
    document = read_exported(folder).document
    assert set(document["stages"]) == {"segmenter", "classifier", "safeguards"}
    assert document["stages"]["classifier"]["operating_points"] == {"0.90": 0.2}
    assert "Not a medical device" in document["intended_use"]
    assert document["sha256"] == {
        path.name: file_digest(path) for path in folder.iterdir() if path.name != "cascade.json"
    }
    facts = document["graphs"]["classifier"]
    assert facts["input"] == {"images": {"type": "uint8", "shape": ["batch", 64, 64, 3]}}
    assert set(facts["outputs"]) == {"probabilities", "activation_maps"}
    assert json.loads((folder / "parity.json").read_text()) == document["parity"]
    assert document["parity"]["float32"]["noise"]["images"] > 3


@pytest.mark.parametrize("stage", ["segmenter", "classifier"])
def test_a_graph_is_valid_and_whole_and_says_what_it_is(stage):
    path = tiny_export() / f"{stage}.onnx"
    onnx.checker.check_model(path, full_check=True)
    model = onnx.load(path, load_external_data=False)
    assert not any(weight.external_data for weight in model.graph.initializer)
    about = json.loads(next(p.value for p in model.metadata_props if p.key == "cascade"))
    assert about["stage"] == stage
    assert about["settings"] == getattr(tiny_cascade(), stage).describe()
    assert b"site-packages" not in path.read_bytes(), "the exporter's notes name our files"
    assert oct(path.stat().st_mode & 0o777) == "0o644"
