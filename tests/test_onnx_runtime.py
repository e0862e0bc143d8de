"""An exported cascade as it is read and run: verified, refused, chosen."""

from __future__ import annotations

import importlib.util
import json
import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx
import pytest
from contracts import noise
from tiny_export import tiny_cascade, tiny_export

from cascade.data.synthetic import draw_lesion
from cascade.errors import ConfigError, DeviceError, MissingExtraError, ModelFileError, ShapeError
from cascade.files import file_digest
from cascade.models import artifact, onnx_session, runtimes
from cascade.models import gpu as gpu_module
from cascade.models.artifact import default_model
from cascade.models.exported import default_export, is_exported, require_whole
from cascade.models.onnx_runtime import OnnxClassifier, OnnxSegmenter
from cascade.models.onnx_session import OnnxSession
from cascade.models.protocol import single_threaded
from cascade.models.runtimes import choose_runtime, model_identity
from cascade.pipeline import Cascade


@pytest.fixture(scope="module")
def exported() -> Cascade:
    return Cascade.load(tiny_export(), runtime="onnx")


@pytest.fixture
def folder(tmp_path):
    """A copy of an exported cascade that a test may damage."""
    return shutil.copytree(tiny_export(), tmp_path / "onnx")


def rewrite(folder, change, *, resign=None):
    """Change the document of an exported cascade, or one of its files with its digest."""
    path = folder / "cascade.json"
    document = json.loads(path.read_text())
    if resign is not None:
        document["sha256"][resign] = file_digest(folder / resign)
    change(document)
    path.write_text(json.dumps(document))


def test_wrong_batches_and_targets_are_refused(exported):
    for images in (noise(1, 16), noise(1, 32).astype(np.float32), noise(1, 32)[0]):
        with pytest.raises(ShapeError, match=r"uint8 RGB \(N, 32, 32, 3\)") as caught:
            exported.segmenter.predict(images)
        assert caught.value.actual == images.shape
    with pytest.raises(ConfigError, match="target is 'malign'; choose from benign, malignant"):
        exported.classifier.activation_map(noise(1, 64), target="malign")


class Session:
    """A graph that gives what the test says."""

    def __init__(self, shape=("batch", 64, 64, 3), outputs=("probabilities",)):
        self.input_shape = shape
        self.outputs = set(outputs)

    def run(self, images, names):
        return [np.full((len(images), 2), 0.5, np.float32) for _ in names]


def test_a_sigmoid_that_rounds_beyond_1_is_still_a_probability_and_nan_is_told():
    above = np.nextafter(np.float32(1), np.float32(2))
    session = Session()
    session.run = lambda *_: [np.full((1, 64, 64), above), np.zeros((1, 3), np.float32)]
    segmenter = OnnxSegmenter(session, tiny_cascade().segmenter.describe())
    images = np.zeros((1, segmenter.size, segmenter.size, 3), np.uint8)
    assert segmenter.predict(images).max() == 1
    assert segmenter.predict_with_features(images)[0].max() == 1
    session.run = lambda *_: [np.full((1, 64, 64), np.nan, np.float32)]
    assert np.isnan(segmenter.predict(images)).all()


def test_a_classifier_without_maps_says_so():
    classifier = OnnxClassifier(Session(), tiny_cascade().classifier.describe())
    assert not classifier.has_activation_map
    with pytest.raises(ConfigError, match="no class activation map; explain it with the torch"):
        classifier.activation_map(noise(1, 64), target="malignant")


@pytest.mark.parametrize(
    ("shape", "outputs"),
    [(("N", "S", "S", 3), ("probabilities",)), ((), ("probabilities",)),
     (("batch", 64, 64, 3), ("logits",))],
)  # fmt: skip
def test_a_foreign_graph_is_refused(shape, outputs):
    with pytest.raises(ModelFileError, match="a graph of cascade takes"):
        OnnxSegmenter(Session(shape, outputs), {}, source="x.onnx")


@pytest.mark.parametrize(
    "change",
    [{"classes": ["malignant", "benign"]}, {"policy": {"frame": "oval"}}, {"cutoff": None}],
    ids=["classes", "policy", "cutoff"],
)
def test_a_classifier_with_other_settings_is_refused(change):
    description = {**tiny_cascade().classifier.describe(), **change}
    with pytest.raises(ModelFileError, match=r"x\.onnx: "):
        OnnxClassifier(Session(), description, source="x.onnx")


@pytest.mark.parametrize("name", ["segmenter.onnx", "classifier.onnx", "safeguards.safetensors"])
def test_one_wrong_bit_or_a_missing_file_is_found(folder, name):
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(ModelFileError, match=f"{name}.*SHA-256"):
        Cascade.load(folder)
    (folder / name).unlink()
    with pytest.raises(ModelFileError, match=name):
        Cascade.load(folder)


def test_a_file_that_is_no_graph_is_refused_even_if_its_digest_is_right(folder):
    name = "segmenter.onnx"
    for content in (b"", (folder / name).read_bytes()[:-9]):
        (folder / name).write_bytes(content)
        rewrite(folder, lambda document: None, resign=name)
        with pytest.raises(ModelFileError, match=name):
            Cascade.load(folder)


@pytest.mark.parametrize("key", ["stages", "sha256"])
def test_an_incomplete_document_is_refused(folder, key):
    rewrite(folder, lambda document: document.pop(key))
    with pytest.raises(ModelFileError, match=f"missing, unknown or unusable: {key}"):
        Cascade.load(folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "is not valid JSON"), ("[]", "is not a JSON object"), ("{}", "has export format None"),
     ('{"export_format": 99}', "has export format 99, this version reads export format 1")],
)  # fmt: skip
def test_another_document_is_refused(folder, text, message):
    (folder / "cascade.json").write_text(text)
    with pytest.raises(ModelFileError, match=message):
        Cascade.load(folder)


def with_weights_elsewhere(path, location):
    """The graph with one tensor in another file that exists."""
    model = onnx.load(path)
    weight = max(model.graph.initializer, key=lambda item: len(item.raw_data))
    (path.parent / "weights.bin").write_bytes(weight.raw_data)
    weight.ClearField("raw_data")
    weight.data_location = onnx.TensorProto.EXTERNAL
    weight.external_data.add(key="location", value=location)
    path.write_bytes(model.SerializeToString())


@pytest.mark.parametrize("location", ["weights.bin", "/etc/passwd"])
def test_weights_in_other_files_are_refused(folder, location, monkeypatch):
    monkeypatch.chdir(folder)  # where a runtime would look
    with_weights_elsewhere(folder / "classifier.onnx", location)
    rewrite(folder, lambda document: None, resign="classifier.onnx")
    with pytest.raises(ModelFileError, match="weights in other files"):
        Cascade.load(folder)


def corners(constant):
    """Models that hold a tensor in every place where ONNX allows one."""
    node = onnx.helper.make_node("Constant", [], ["c"], value=constant)
    inner = onnx.helper.make_graph([node], "inner", [], [])
    branch = onnx.helper.make_node("If", ["x"], ["y"], then_branch=inner, else_branch=inner)
    nested = onnx.GraphProto(node=[branch])
    function = onnx.helper.make_function("d", "f", [], ["c"], [node], [])
    sparse = onnx.SparseTensorProto(values=constant)
    return {
        "weight": onnx.ModelProto(graph=onnx.GraphProto(initializer=[constant])),
        "node": onnx.ModelProto(graph=onnx.GraphProto(node=[node])),
        "branch": onnx.ModelProto(graph=nested),
        "sparse": onnx.ModelProto(graph=onnx.GraphProto(sparse_initializer=[sparse])),
        "function": onnx.ModelProto(functions=[function]),
        "training": onnx.ModelProto(training_info=[onnx.TrainingInfoProto(algorithm=nested)]),
    }


@pytest.mark.parametrize("place", corners(onnx.TensorProto()))
def test_weights_elsewhere_are_found_in_every_corner_of_a_graph(place):
    inside = onnx.numpy_helper.from_array(np.ones(3, np.float32), "w")
    require_whole(corners(inside)[place].SerializeToString(), place)
    outside = onnx.TensorProto(name="w", data_type=1, dims=[3])
    outside.external_data.add(key="location", value="w.bin")
    with pytest.raises(ModelFileError, match="in other files"):
        require_whole(corners(outside)[place].SerializeToString(), place)
    unnamed = onnx.TensorProto(data_location=onnx.TensorProto.EXTERNAL)
    with pytest.raises(ModelFileError, match="in other files"):
        require_whole(corners(unnamed)[place].SerializeToString(), place)


@pytest.mark.parametrize("content", [b"\x0b", b"\x3a\xff", b"\x3a\x7f\x01", b"\xff" * 20])
def test_bytes_that_are_no_model_are_refused(content):
    with pytest.raises(ModelFileError, match="is no ONNX model, or is damaged"):
        require_whole(content, "x.onnx")


def test_each_model_is_run_by_its_own_runtime(folder, tmp_path):
    assert is_exported(folder)
    assert choose_runtime(folder) == (folder, "onnx")
    assert isinstance(Cascade.load(folder / "cascade.json").segmenter, OnnxSegmenter)
    with pytest.raises(ConfigError, match="exported cascade"):
        Cascade.load(folder, runtime="torch")
    tiny_cascade().save(tmp_path / "x.safetensors")
    with pytest.raises(ConfigError, match="OMP_NUM_THREADS"):
        Cascade.load(tmp_path / "x.safetensors", threads=2)
    assert choose_runtime(tmp_path / "x.safetensors") == (tmp_path / "x.safetensors", "torch")
    with pytest.raises(ModelFileError, match=r"is no exported cascade.*cascade export --model"):
        Cascade.load(tmp_path / "x.safetensors", runtime="onnx")


@pytest.mark.parametrize(
    ("options", "message"),
    [({"runtime": "tensorrt"}, "runtime 'tensorrt' is unknown; choose auto, torch, onnx, openvino"),
     ({"precision": "half"}, "precision 'half' is unknown"),
     ({"precision": "bfloat16"}, "the runtime onnx computes in float32"),
     ({"threads": 0}, "threads is 0; it must be at least 1")],
)  # fmt: skip
def test_unusable_options_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        Cascade.load(tiny_export(), **options)


@pytest.mark.parametrize(
    ("device", "message"),
    [("cuda:1", "has no CUDA"), ("cuda:x", "is unknown"), ("tpu", "is unknown")],
)
def test_another_device_is_an_error_and_not_replaced(device, message):
    with pytest.raises(DeviceError, match=message):
        Cascade.load(tiny_export(), device=device)
    both = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    assert onnx_session._providers("auto", both) == ["CPUExecutionProvider"]
    assert onnx_session._providers("cuda:1", both)[0] == (both[0], {"device_id": 1})


def test_threads_are_those_asked_for_else_the_usable_cores(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert onnx_session.thread_count(None) == 3
    assert onnx_session.thread_count(2) == 2
    assert OnnxSession((tiny_export() / "segmenter.onnx").read_bytes(), source="x").cores == 3


@pytest.mark.parametrize("runtime", ["onnx", "openvino"])
def test_a_stage_for_many_threads_gives_the_same_answers_to_all_of_them(runtime):
    pytest.importorskip({"onnx": "onnxruntime"}.get(runtime, runtime))
    whole = Cascade.load(tiny_export(), runtime=runtime, threads=2)
    batches = [noise(1, 32, seed=number) for number in range(12)]
    expected = [whole.segmenter.predict_with_features(images) for images in batches]
    single = single_threaded(whole.segmenter)
    assert single is not whole.segmenter
    assert single._session is whole.segmenter.single_threaded()._session, "opened once"
    assert single.cores == whole.segmenter.cores == 2
    with ThreadPoolExecutor(3) as threads:
        got = list(threads.map(single.predict_with_features, batches))
    tolerance = 0 if runtime == "onnx" else 1e-6
    for ours, theirs in zip(got, expected, strict=True):
        for one, other in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(one, other, rtol=0, atol=tolerance)
    crops = noise(2, 64)
    np.testing.assert_allclose(
        single_threaded(whole.classifier).predict_proba(crops),
        whole.classifier.predict_proba(crops),
        rtol=0,
        atol=tolerance,
    )


def test_a_session_of_one_thread_is_its_own_and_torch_offers_none(exported):
    one = Cascade.load(tiny_export(), threads=1).segmenter
    assert one.single_threaded()._session is one._session
    assert single_threaded(tiny_cascade().segmenter) is None
    assert single_threaded(object()) is None


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    """An installed library whose folder holds what the test puts there."""
    for module in (runtimes, artifact):
        monkeypatch.setattr(module, "default_model", lambda: tmp_path / "default.safetensors")
    monkeypatch.setattr(runtimes, "default_export", lambda: tmp_path / "default_onnx")
    return tmp_path


@pytest.fixture
def gpu(monkeypatch):
    """A switch for whether torch finds a GPU; there is none at first."""
    switch = {"there": False}
    monkeypatch.setattr(gpu_module, "has_gpu", lambda: switch["there"])
    monkeypatch.setattr("torch.cuda.is_available", lambda: switch["there"])
    return switch


def without(monkeypatch, *libraries):
    """Make the choice as if these were not installed."""
    find = importlib.util.find_spec
    missing = lambda name, *rest: None if name in libraries else find(name, *rest)  # noqa: E731
    monkeypatch.setattr(importlib.util, "find_spec", missing)


def test_the_default_cascade_is_run_by_what_is_installed(shipped, monkeypatch, gpu):
    export, file = shipped / "default_onnx", shipped / "default.safetensors"
    shutil.copytree(tiny_export(), export)
    assert choose_runtime(None) == (export, "onnx"), "there is nothing else"
    tiny_cascade().save(file)
    assert choose_runtime(None) == (export, "onnx"), "faster than torch on the CPU"
    assert choose_runtime(None, "onnx") == (export, "onnx")
    with monkeypatch.context() as patch:
        without(patch, "onnxruntime")
        assert choose_runtime(None)[1] == "torch"
    gpu["there"] = True
    assert choose_runtime(None)[1] == "torch"
    assert choose_runtime(None, device="cpu") == (export, "onnx")
    without(monkeypatch, "torch")
    assert choose_runtime(None) == (export, "onnx")
    with pytest.raises(MissingExtraError, match="needs torch"):
        choose_runtime(None, "torch")


def test_a_file_is_run_from_its_export_on_the_cpu_and_in_torch_on_a_gpu(tmp_path, gpu):
    file, export = tmp_path / "mine.safetensors", tmp_path / "mine_onnx"
    tiny_cascade().save(file)
    assert choose_runtime(file) == (file, "torch"), "there is no export"
    shutil.copytree(tiny_export(), export)
    assert choose_runtime(file) == (export, "onnx")
    assert choose_runtime(file, "torch") == (file, "torch")
    for device in ("cuda", "cuda:1", "mps"):
        assert choose_runtime(file, device=device) == (file, "torch")
    assert Cascade.load(file).runtime == "onnx"
    assert Cascade.load(file, runtime="torch", device="cpu").runtime == "torch"
    gpu["there"] = True
    assert choose_runtime(file) == (file, "torch")
    assert choose_runtime(export) == (export, "onnx")


def test_an_export_stands_in_whose_safeguards_have_the_names_of_another_version(tmp_path, gpu):
    file, export = tmp_path / "mine.safetensors", tmp_path / "mine_onnx"
    tiny_cascade().save(file)
    shutil.copytree(tiny_export(), export)

    def rename(document):
        safeguards = document["stages"]["safeguards"]
        safeguards["familiarity"] = safeguards.pop("out_of_distribution")

    rewrite(export, rename)
    assert choose_runtime(file) == (export, "onnx")
    rewrite(
        export,
        lambda document: document["stages"]["safeguards"]["familiarity"].update(threshold=99.0),
    )
    assert choose_runtime(file) == (file, "torch")


@pytest.mark.parametrize(
    "change",
    [lambda document: document.update(tensors_sha256="0"),
     lambda document: document["stages"]["classifier"].update(temperature=9.0),
     lambda document: document["graphs"]["segmenter"].update(precision="int8"),
     lambda document: document["graphs"]["classifier"]["outputs"].pop("activation_maps"),
     lambda document: document.pop("graphs"),
     lambda document: document.update(export_format=99)],
    ids=["weights", "calibration", "quantised", "no maps", "no graphs", "format"],
)  # fmt: skip
def test_an_export_that_does_less_or_else_does_not_stand_in(tmp_path, gpu, change):
    file = tmp_path / "mine.safetensors"
    tiny_cascade().save(file)
    shutil.copytree(tiny_export(), tmp_path / "mine_onnx")
    rewrite(tmp_path / "mine_onnx", change)
    assert choose_runtime(file) == (file, "torch")


def test_the_runtime_that_was_taken_is_logged(caplog):
    with caplog.at_level("INFO", logger="cascade"):
        Cascade.load(tiny_export())
    assert f"runtime: onnx, model: {tiny_export()}" in caplog.messages


def test_a_missing_library_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(MissingExtraError, match="pip install onnxruntime"):
        OnnxSession(b"", source="x")
    monkeypatch.setitem(__import__("sys").modules, "openvino", None)
    with pytest.raises(MissingExtraError, match="pip install openvino"):
        Cascade.load(tiny_export(), runtime="openvino")


def test_openvino_gives_the_same_answers(exported):
    openvino = pytest.importorskip("openvino")
    other = Cascade.load(tiny_export(), runtime="openvino", threads=1)
    images, crops = noise(3, 32), noise(3, 64)
    for got, expected in zip(
        other.segmenter.predict_with_features(images),
        exported.segmenter.predict_with_features(images),
        strict=True,
    ):
        np.testing.assert_allclose(got, expected, atol=1e-5)
    judged = (cascade.classifier.predict_proba(crops) for cascade in (other, exported))
    np.testing.assert_allclose(*judged, atol=1e-5)
    assert precision_of(other) == openvino.Type.f32
    with pytest.raises(DeviceError, match="openvino runs on the CPU"):
        Cascade.load(tiny_export(), runtime="openvino", device="cuda")


def precision_of(loaded):
    return loaded.segmenter._session._compiled.get_property("INFERENCE_PRECISION_HINT")


def test_openvino_computes_in_bfloat16_or_says_that_the_processor_does_not():
    openvino = pytest.importorskip("openvino")
    if "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        coarse = Cascade.load(tiny_export(), runtime="openvino", precision="bfloat16")
        assert precision_of(coarse) == openvino.Type.bf16
    else:
        with pytest.raises(ConfigError, match="does not compute in bfloat16; use float32"):
            Cascade.load(tiny_export(), runtime="openvino", precision="bfloat16")


def test_both_shipped_forms_of_the_default_cascade_are_the_same():
    if not (default_model().is_file() and is_exported(default_export())):
        pytest.skip("not both forms of the default cascade are here")
    assert model_identity(default_export()) == model_identity(default_model())
    image = draw_lesion(np.random.default_rng(0), malignant=True, shape=(300, 400)).image
    got, expected = (
        Cascade.load(runtime=runtime, device="cpu")(image)[0] for runtime in ("onnx", "torch")
    )
    assert np.mean(got.mask != expected.mask) <= 1e-4
    assert got.probabilities == pytest.approx(expected.probabilities, abs=1e-4)
    assert got.out_of_distribution_score == pytest.approx(
        expected.out_of_distribution_score, rel=1e-3
    )
    assert sum(path.stat().st_size for path in default_export().iterdir()) < 20e6
