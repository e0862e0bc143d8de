"""Graphs give the answers of the networks that they were made of, or are not written."""

from __future__ import annotations

import copy
import dataclasses
import json
import re
import shutil

import numpy as np
import onnx
import pytest
import torch
from contracts import noise
from onnx import numpy_helper
from tiny_export import tiny_cascade, tiny_classifier, tiny_export

from cascade.commands.prediction.export import find_images, main
from cascade.data.synthetic import draw_lesion
from cascade.errors import ConfigError, DataError, ExportError, MissingExtraError
from cascade.export import export_onnx, graphs, onnx_export, parity
from cascade.export.activation import find_heads
from cascade.files import file_digest
from cascade.imaging import write_image
from cascade.models.artifact import tensors_digest
from cascade.models.classifier import Classifier
from cascade.models.ensemble import ClassifierEnsemble, load_classifier
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


def test_an_image_gives_the_same_prediction(exported):
    tta = "flips"
    images = photographs(3)
    for got, expected in zip(
        exported(images, tta=tta), tiny_cascade()(images, tta=tta), strict=True
    ):
        np.testing.assert_allclose(got.mask_probability, expected.mask_probability, atol=1e-5)
        np.testing.assert_array_equal(got.mask, expected.mask)
        np.testing.assert_array_equal(got.crop, expected.crop)
        assert got.probabilities == pytest.approx(expected.probabilities, abs=1e-5)
        assert got.out_of_distribution_score == pytest.approx(
            expected.out_of_distribution_score, rel=1e-4
        )
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
    [("torchvision/mobilenet_v2", True), ("timm/test_convnext", False), ("squeezenet1_1", False)],
)
def test_a_map_is_offered_only_where_a_mean_and_a_linear_layer_are_the_end(name, has_map):
    torch.manual_seed(0)
    assert bool(find_heads(tiny_classifier(name))) == has_map


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
    classifier = classifier_with(between)
    assert [head.rectified for head in find_heads(classifier)] == rectified
    assert not any(module._forward_hooks for module in classifier.modules())


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


@pytest.fixture
def ready_segmenter(monkeypatch):
    """The first stage's graph from the folder that is there, to save the time of tracing it."""
    graph = onnx.load(tiny_export() / "segmenter.onnx")
    monkeypatch.setattr(graphs, "segmenter_graph", lambda segmenter: graph)


@pytest.fixture
def ready(ready_segmenter, monkeypatch):
    """Both graphs."""
    graph = onnx.load(tiny_export() / "classifier.onnx")
    monkeypatch.setattr(graphs, "classifier_graph", lambda classifier: graph)


@pytest.mark.usefixtures("ready_segmenter")
def test_an_ensemble_is_one_graph_with_the_mean_of_its_members(tmp_path):
    members = [tiny_classifier(seed=1), tiny_classifier(seed=2, temperature=2.5)]
    ensemble = ClassifierEnsemble(members, [0.3, 0.7]).eval()
    ensemble.bias = 0.4
    ensemble.save(tmp_path / "half.safetensors", half=True)
    ensemble = load_classifier(tmp_path / "half.safetensors", device="cpu").train()
    export_onnx(Cascade(tiny_cascade().segmenter, ensemble), tmp_path / "onnx")
    assert ensemble.training, "the caller's network is left as it was"
    path, single = tmp_path / "onnx" / "classifier.onnx", tiny_export() / "classifier.onnx"
    assert path.stat().st_size < 2 * 0.7 * single.stat().st_size, "half precision takes half"
    members = ensemble.eval().classifiers
    exported, crops = Cascade.load(tmp_path / "onnx"), noise(3, 64)
    np.testing.assert_allclose(
        exported.classifier.predict_proba(crops), ensemble.predict_proba(crops), atol=1e-5
    )
    assert exported.describe()["classifier"] == ensemble.describe()
    maps = exported.classifier.activation_map(crops, target="malignant").mean(axis=(1, 2))
    with torch.no_grad():
        logits = [member(torch.from_numpy(crops))[:, 1].numpy() for member in members]
    rest = 0.3 * logits[0] + 0.7 * logits[1] / 2.5 - maps
    np.testing.assert_allclose(rest, rest[0], atol=1e-5)


@pytest.mark.usefixtures("ready")
def test_graphs_that_answer_otherwise_are_not_written(tmp_path):
    other = copy.deepcopy(tiny_cascade())
    other.classifier.bias += 0.01
    shutil.copytree(tiny_export(), tmp_path / "onnx")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(ExportError, match="noise: classifier difference"):
        export_onnx(other, tmp_path / "onnx", overwrite=True)
    assert sorted(tmp_path.iterdir()) == before
    assert Cascade.load(tmp_path / "onnx").describe() == tiny_cascade().describe()


@pytest.mark.usefixtures("ready")
def test_an_exported_cascade_is_replaced_only_if_that_was_said(tmp_path):
    folder = shutil.copytree(tiny_export(), tmp_path / "onnx")
    before = (folder / "cascade.json").stat().st_ino
    with pytest.raises(ConfigError, match="holds an exported cascade; replace it"):
        export_onnx(tiny_cascade(), folder)
    assert (folder / "cascade.json").stat().st_ino == before
    export_onnx(tiny_cascade(), folder, overwrite=True)
    assert (folder / "cascade.json").stat().st_ino != before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["onnx"]


def test_what_cannot_be_exported_is_refused_by_name(monkeypatch, fake_cascade, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(ConfigError, match=r"other files.*notes\.txt"):
            export_onnx(tiny_cascade(), tmp_path, overwrite=overwrite)
    with pytest.raises(ConfigError, match="is a file"):
        export_onnx(tiny_cascade(), tmp_path / "notes.txt")
    assert (tmp_path / "notes.txt").read_text() == "mine"
    with pytest.raises(ConfigError, match="only a cascade of torch networks"):
        export_onnx(fake_cascade, tmp_path / "onnx")
    with pytest.raises(DataError, match=r"at least 20 .*got 3 \(--images\)"):
        export_onnx(tiny_cascade(), tmp_path / "onnx", images=photographs(3), int8="both")
    with pytest.raises(ConfigError, match=r"'all'.*none, segmenter, classifier, both"):
        export_onnx(tiny_cascade(), tmp_path / "onnx", int8="all")
    spectrum = classifier_with(lambda maps: torch.linalg.svdvals(maps)[..., 0])
    with pytest.raises(ConfigError, match="classifier cannot be exported"):
        graphs.classifier_graph(spectrum)
    monkeypatch.setattr(onnx_export.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match="onnxscript"):
        export_onnx(tiny_cascade(), tmp_path / "onnx")


@pytest.mark.usefixtures("ready")
def test_an_int8_segmenter_keeps_features_and_says_what_it_changed(tmp_path):
    images = photographs(20)
    report = export_onnx(
        tiny_cascade(), tmp_path / "onnx", images=images, int8="segmenter", int8_difference=1.0
    )["int8"]
    assert report["images"]["images"] == 10, "the other half set the ranges"
    assert report["images"]["mean_mask_iou"] >= 0.99
    assert report["images"]["map_difference"] > 0
    assert report["limits"] == {"mean_mask_iou": 0.99, "cascade_difference": 1.0}
    document = read_exported(tmp_path / "onnx").document
    assert document["graphs"]["segmenter"]["precision"] == "int8"
    assert document["graphs"]["classifier"]["precision"] == "float32"
    graph = onnx.load(tmp_path / "onnx" / "segmenter.onnx", load_external_data=False)
    assert "cascade" in {item.key for item in graph.metadata_props}
    small, usual = (Cascade.load(folder).segmenter for folder in (tmp_path / "onnx", tiny_export()))
    np.testing.assert_allclose(
        small.predict_with_features(noise(2, 32))[1],
        usual.predict_with_features(noise(2, 32))[1],
        atol=1e-5,
    )


@pytest.mark.usefixtures("ready")
def test_a_classifiers_weights_in_8_bits_are_off_by_half_a_step_at_most(tmp_path):
    report = export_onnx(
        tiny_cascade(), tmp_path / "onnx", images=photographs(20), int8="classifier_weights",
        int8_difference=0.1,
    )["int8"]  # fmt: skip
    assert report["images"]["mean_mask_iou"] == 1, "the segmenter is as it was"
    document = read_exported(tmp_path / "onnx").document
    assert document["graphs"]["segmenter"]["precision"] == "float32"
    assert document["graphs"]["classifier"]["precision"] == "float32 with int8 weights"
    before, after = (
        {
            item.name: numpy_helper.to_array(item)
            for item in onnx.load(folder / "classifier.onnx").graph.initializer
        }
        for folder in (tiny_export(), tmp_path / "onnx")
    )
    stored = [name for name in after if name.endswith(".int8")]
    assert stored
    for name in stored:
        scale = after[f"{name[:-5]}.scale"]
        weight = next(before[form] for form in (name[:-5], f"{name[:-5]}.half") if form in before)
        assert np.abs(after[name]).max() == 127
        assert (np.abs(after[name] * scale - weight) <= scale * 0.501).all()


@pytest.mark.usefixtures("ready")
def test_int8_that_changes_a_probability_too_much_is_refused(tmp_path):
    with pytest.raises(ExportError, match="in 8-bit integers: cascade difference is"):
        export_onnx(
            tiny_cascade(), tmp_path / "onnx", images=photographs(20), int8="classifier",
            int8_difference=1e-7,
        )  # fmt: skip
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("difference", [-1, 1.5, float("nan")])
def test_a_difference_that_no_probability_has_is_refused_before_work(tmp_path, difference):
    with pytest.raises(ConfigError, match="int8_difference is"):
        export_onnx("missing", tmp_path / "onnx", int8_difference=difference)


def test_differences_are_the_worst_of_all_images(fake_segmenter, fake_classifier):
    class Brighter(type(fake_segmenter)):
        def predict(self, images):
            return super().predict(images // 2)

    images = photographs(3)
    reference = Cascade(fake_segmenter, fake_classifier)
    candidate = Cascade(Brighter(), fake_classifier)
    found = parity.compare(reference, candidate, images)
    pairs = list(zip(reference(images), candidate(images), strict=True))
    ious = [np.sum(a.mask & b.mask) / np.sum(a.mask | b.mask) for a, b in pairs]
    assert found.lowest_mask_iou == pytest.approx(min(ious))
    assert found.mean_mask_iou == pytest.approx(np.mean(ious))
    changes = [abs(a.probabilities["malignant"] - b.probabilities["malignant"]) for a, b in pairs]
    assert found.cascade_difference == pytest.approx(max(changes))
    assert found.classifier_difference == 0, "both judged the same crops"
    assert found.out_of_distribution_difference is None
    assert len(parity.EXACT.breaches(found)) == 2


def test_a_number_that_is_none_is_beyond_every_limit():
    found = parity.compare(tiny_cascade(), tiny_cascade(), photographs(2))
    assert found.images == 2
    assert (found.map_difference, found.mask_pixels, found.changed_labels) == (0, 0, 0)
    assert found.mean_mask_iou == found.lowest_mask_iou == 1
    assert parity.EXACT.breaches(found) == []
    broken = dataclasses.replace(found, map_difference=float("nan"))
    assert parity.EXACT.breaches(broken) == ["map difference is nan, allowed is 0.0001"]


def test_images_that_cannot_be_read_are_left_out(tmp_path, caplog):
    (tmp_path / "bad.jpg").write_bytes(b"no picture")
    images = [tmp_path / "bad.jpg", *photographs(2)]
    assert parity.compare(tiny_cascade(), tiny_cascade(), images).images == 2
    assert "bad.jpg: is not an image" in caplog.text
    with pytest.raises(DataError, match="none of the images"):
        parity.compare(tiny_cascade(), tiny_cascade(), images[:1])


@pytest.fixture
def pictures(tmp_path):
    for number, image in enumerate(photographs(5)):
        write_image(tmp_path / "photos" / f"{number}.png", image)
    return tmp_path / "photos"


@pytest.mark.usefixtures("ready")
def test_the_command_writes_a_folder_and_shows_the_differences(tmp_path, pictures, capsys):
    tiny_cascade().save(tmp_path / "model.safetensors")
    flags = ["--model", str(tmp_path / "model.safetensors"), "--output", str(tmp_path / "onnx")]
    assert main([*flags, "--images", str(pictures), "--max_images", "3"]) == 0
    shown = capsys.readouterr().out
    assert "float32, noise" in shown
    assert re.search(r"images +6 +3", shown)
    assert re.search(r"changed labels +0 +0", shown)
    assert f"written: {tmp_path / 'onnx'}" in shown
    assert Cascade.load(tmp_path / "onnx").describe() == tiny_cascade().describe()
    assert main(flags) == 2, "it is there already"


def test_a_sample_of_many_images_is_evenly_spaced(pictures):
    names = [path.stem for path in find_images([str(pictures)], 3)]
    assert names == ["0", "1", "3"]
    assert len(find_images([str(pictures)], 99)) == 5
    assert find_images([], 99) == []
    with pytest.raises(ConfigError, match=r"--images none\.jpg: there is no image"):
        find_images(["none.jpg"], 3)
    with pytest.raises(ConfigError, match="max_images is 0"):
        find_images([], 0)
