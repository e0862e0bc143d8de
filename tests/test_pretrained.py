import hashlib
import os
import pickle
import time
import urllib.error
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import save_file

from cascade.config import ClassifierConfig, SegmenterConfig
from cascade.errors import PretrainedWeightsError
from cascade.models.architectures import build_architecture, find_architecture, last_layer
from cascade.models.classifier import Classifier
from cascade.models.pretrained import download, hub_file, load_backbone, read_weights
from cascade.models.segmenter import Segmenter, _hub_settings

CLASSIFIER = ClassifierConfig(architecture="mobilenet_v2", size=32)
SEGMENTER = SegmenterConfig(encoder="mobilenet_v2", size=32, decoder_channels=(16, 16, 8, 8, 8))


class Hostile:
    """What an attacker's pickle does when it is loaded."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch '{self.marker}'",)


@pytest.fixture(scope="module")
def donor():
    """A torchvision network with random weights, in the layout that torchvision publishes."""
    torch.manual_seed(11)
    return torchvision.models.mobilenet_v2(weights=None)


@pytest.fixture(scope="module")
def weights(donor, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "mobilenet_v2.pth"
    torch.save(donor.state_dict(), path)
    return str(path)


@pytest.fixture
def offline(monkeypatch):
    """No server answers; the addresses that were tried."""
    asked = []

    def refuse(request, *_, timeout=None, **__):
        asked.append((getattr(request, "full_url", request), timeout))
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    return asked


@pytest.fixture
def empty_hub(monkeypatch, tmp_path):
    """Nothing was downloaded to this machine yet."""
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_, **__: None)
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))
    return tmp_path / "hub" / "checkpoints"


def same(network, state, *, without=()):
    """Whether each tensor of a published state is in the network, under the same name."""
    own = network.state_dict()
    names = [name for name in state if not name.startswith(without)] if without else list(state)
    assert names
    return all(torch.equal(own[name], state[name]) for name in names)


def test_a_local_file_fills_the_encoder_completely(donor, weights):
    segmenter = Segmenter.build(SEGMENTER, weights=weights)
    assert same(segmenter.network.encoder, donor.state_dict(), without=("classifier",))
    assert segmenter.provenance["encoder_weights"] == "mobilenet_v2.pth"  # not the owner's folders


def test_a_local_file_fills_the_classifier_except_its_last_layer(donor, weights):
    classifier = Classifier.build(CLASSIFIER, weights=weights)
    assert same(classifier.network, donor.state_dict(), without=("classifier",))
    assert classifier.network.classifier[1].weight.shape == (2, 1280)
    assert classifier.provenance["weights"] == "mobilenet_v2.pth"


def test_the_new_last_layer_starts_near_even_chances(tmp_path):
    name = "timm/tf_efficientnet_lite0"
    architecture = find_architecture(name)
    donor = build_architecture(architecture, size=64, dropout=0.0).state_dict()
    state = {key: value for key, value in donor.items() if not key.startswith("classifier")}
    torch.save(state, tmp_path / "weights.pth")
    config = ClassifierConfig(architecture=name, size=64)
    classifier = Classifier.build(config, weights=str(tmp_path / "weights.pth"))
    last = last_layer(classifier.network, name)
    assert 0.005 < last.weight.std() < 0.02
    assert not last.bias.any()


@pytest.mark.parametrize("layout", ["safetensors", "state_dict inside", "without head"])
def test_other_layouts_of_the_same_weights_load_too(donor, tmp_path, layout):
    state = {name: tensor.clone() for name, tensor in donor.state_dict().items()}
    path = tmp_path / "weights.pth"
    if layout == "safetensors":
        path = tmp_path / "weights.safetensors"
        save_file(state, path)
    elif layout == "state_dict inside":
        torch.save({"state_dict": state, "epoch": 3}, path)
    else:
        torch.save({key: value for key, value in state.items() if "classifier" not in key}, path)
    classifier = Classifier.build(CLASSIFIER, weights=str(path))
    assert same(classifier.network, state, without=("classifier",))


def test_googlenet_takes_its_file_with_and_without_auxiliary_heads(tmp_path):
    donor = torchvision.models.googlenet(weights=None, init_weights=False)
    config = ClassifierConfig(architecture="googlenet", size=32)
    for name, kept in (("with", ()), ("without", ("aux1", "aux2"))):
        state = {
            key: value
            for key, value in donor.state_dict().items()
            if not (kept and key.startswith(kept))
        }
        torch.save(state, tmp_path / f"{name}.pth")
        classifier = Classifier.build(config, weights=str(tmp_path / f"{name}.pth"))
        assert same(classifier.network, state, without=("fc", "aux1.fc2", "aux2.fc2"))


def test_one_missing_or_misshapen_tensor_of_the_backbone_is_enough_to_refuse(donor):
    state = dict(donor.state_dict())
    network = torchvision.models.mobilenet_v2(weights=None)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    for change in ({"features.0.0.weight": None}, {"features.0.0.weight": torch.zeros(1)}):
        changed = {**state, **change}
        changed = {name: value for name, value in changed.items() if value is not None}
        with pytest.raises(PretrainedWeightsError, match=r"1 tensors.*features\.0\.0\.weight"):
            load_backbone(network, changed, "w.pth")
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("kind", ["torch", "plain"])
def test_a_hostile_pickle_is_refused_and_runs_nothing(tmp_path, kind):
    path, marker = tmp_path / "hostile.pth", tmp_path / "marker"
    if kind == "torch":
        torch.save({"weight": Hostile(marker)}, path)
    else:
        path.write_bytes(pickle.dumps({"weight": Hostile(marker)}))
    with pytest.raises(PretrainedWeightsError, match=r"hostile\.pth: refused.*safetensors"):
        Classifier.build(CLASSIFIER, weights=str(path))
    assert not marker.exists()
    pickle.loads(pickle.dumps(Hostile(marker)))
    assert marker.exists(), "or the refusal would prove nothing"


@pytest.mark.parametrize(
    "content", [{"weight": torch.zeros(2), "name": "resnet"}, torch.zeros(3), {"state_dict": 3}]
)
def test_a_file_without_a_state_dict_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(PretrainedWeightsError, match=r"w\.pth.*dictionary of tensors"):
        read_weights(str(tmp_path / "w.pth"))
    with pytest.raises(PretrainedWeightsError, match=r"absent\.pth.*none.*imagenet"):
        read_weights(str(tmp_path / "absent.pth"))


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_damaged_file_is_refused_by_name(tmp_path, weights, suffix):
    path = tmp_path / f"damaged{suffix}"
    path.write_bytes(Path(weights).read_bytes()[:5000])
    with pytest.raises(PretrainedWeightsError, match=rf"damaged\{suffix}.*damaged"):
        read_weights(str(path))


@pytest.mark.parametrize(
    "build",
    [
        lambda: Segmenter.build(SEGMENTER, weights="imagenet"),
        lambda: Classifier.build(CLASSIFIER, weights="imagenet"),
        lambda: Classifier.build(
            ClassifierConfig(architecture="timm/test_resnet", size=32), weights="imagenet"
        ),
    ],
    ids=["smp", "torchvision", "timm"],
)
def test_without_a_network_imagenet_fails_at_once_with_advice(build, offline, empty_hub):
    started = time.perf_counter()
    with pytest.raises(PretrainedWeightsError) as caught:
        build()
    assert time.perf_counter() - started < 5
    message = str(caught.value)
    assert "--encoder_weights none" in message
    assert len(offline) == 1  # one try, no retries with longer and longer pauses
    assert offline[0][0].startswith("https://")
    assert offline[0][1] <= 4


def test_a_server_that_refuses_the_check_is_still_asked_for_the_file(monkeypatch, hub):
    def forbidden(request, **_):
        raise urllib.error.HTTPError(request.full_url, 405, "no HEAD here", {}, None)

    monkeypatch.setattr("urllib.request.urlopen", forbidden)
    assert download("https://example.org/file", lambda: "fetched", cached=False) == "fetched"
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_, **__: None)
    assert hub_file("owner/repository", "config.json").endswith("config.json")
    assert hub == [("owner/repository", "config.json", None, False)]


@pytest.mark.parametrize("error", [OSError("reset"), KeyError("x")])
def test_a_download_that_fails_half_way_is_our_error_with_advice(error):
    def fetch():
        raise error

    with pytest.raises(PretrainedWeightsError, match="--encoder_weights none") as caught:
        download("https://example.org/file", fetch, cached=True)
    assert caught.value.__cause__ is error


@pytest.fixture
def published(donor, tmp_path, monkeypatch):
    """The weights on a "server": a folder, under a name with the start of its SHA-256."""
    folder = tmp_path / "server"
    folder.mkdir()
    torch.save(donor.state_dict(), folder / "new.pth")
    digest = hashlib.sha256((folder / "new.pth").read_bytes()).hexdigest()
    file = (folder / "new.pth").rename(folder / f"mobilenet_v2-{digest[:8]}.pth")

    class Offer:
        class DEFAULT:
            url = file.as_uri()

    monkeypatch.setattr(torchvision.models, "get_model_weights", lambda name: Offer)
    return file


def test_imagenet_weights_of_torchvision_come_through_the_hub_once(
    donor, published, empty_hub, monkeypatch
):
    classifier = Classifier.build(CLASSIFIER, weights="imagenet")
    assert same(classifier.network, donor.state_dict(), without=("classifier",))
    assert classifier.provenance["weights"] == "imagenet"
    assert (empty_hub / published.name).read_bytes() == published.read_bytes()
    monkeypatch.setattr("urllib.request.urlopen", None)  # the cached file needs no network
    again = Classifier.build(CLASSIFIER, weights="imagenet")
    assert same(again.network, donor.state_dict(), without=("classifier",))


def test_a_download_with_another_digest_is_refused_and_not_kept(published, empty_hub):
    published.write_bytes(published.read_bytes() + b"tampered")
    with pytest.raises(PretrainedWeightsError, match="hash"):
        Classifier.build(CLASSIFIER, weights="imagenet")
    assert list(empty_hub.iterdir()) == []


@pytest.fixture
def hub(monkeypatch, donor, tmp_path):
    """A hub in a folder: encoder weights, and a configuration with statistics of its own."""
    state = {key: value for key, value in donor.state_dict().items() if "classifier" not in key}
    save_file({key: value.clone() for key, value in state.items()}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(
        '{"mean": [10, 20, 30], "std": [40, 50, 60], "input_range": [0, 255]}'
    )
    asked = []

    def hf_hub_download(repository, filename, *, revision=None, **options):
        asked.append((repository, filename, revision, options["local_files_only"]))
        return str(tmp_path / filename)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", hf_hub_download)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_, **__: "cached")
    return asked


def test_imagenet_weights_of_an_encoder_come_with_their_statistics(donor, hub, offline):
    segmenter = Segmenter.build(SEGMENTER, weights="imagenet")
    assert same(segmenter.network.encoder, donor.state_dict(), without=("classifier",))
    np.testing.assert_allclose(
        segmenter.normalization.mean.flatten(), np.array([10, 20, 30]) / 255, rtol=1e-6
    )
    np.testing.assert_allclose(
        segmenter.normalization.std.flatten(), np.array([40, 50, 60]) / 255, rtol=1e-6
    )
    assert [name for _, name, _, _ in hub] == ["config.json", "model.safetensors"]
    assert all(revision for _, _, revision, _ in hub)  # pinned, not whatever is newest
    assert all(local for _, _, _, local in hub)  # the cache was enough
    assert offline == []


def test_an_encoder_without_imagenet_weights_says_which_there_are(offline):
    with pytest.raises(PretrainedWeightsError, match=r"no imagenet weights.*instagram"):
        _hub_settings("resnext101_32x32d")
    assert offline == []
