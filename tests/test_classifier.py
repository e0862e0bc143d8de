import pytest
import timm
import torch
from contracts import (
    BATCH,
    Built,
    StageContract,
    check_that_differences_are_listed,
    noise,
    tiny_file,
)
from torch.nn import functional

from cascade.config import ClassifierConfig
from cascade.errors import ConfigError, ModelFileError
from cascade.lesion.masking import MaskPolicy
from cascade.models.architectures import find_architecture
from cascade.models.classifier import Classifier
from cascade.training.classification import classification_loss

HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
NAMES = ["resnet18 32", "googlenet 32", "inception_v3 75", "mobilenet_v2 32", "timm/test_resnet 32"]


def config(architecture="mobilenet_v2", size=32, **settings):
    return ClassifierConfig(architecture=architecture, size=size, **settings)


@pytest.fixture(scope="module")
def small():
    torch.manual_seed(0)
    return Classifier.build(config())


@pytest.mark.parametrize("built", NAMES, indirect=True)
class TestEveryClassifier(StageContract):
    @classmethod
    def build(cls, name):
        architecture, size = name.split()
        classifier = Classifier.build(config(architecture, int(size)))
        return Built(classifier, noise(BATCH, int(size)))

    def predict(self, network, images):
        return network.predict_proba(images)

    def result_shape(self, network):
        return (2,)

    def statistics(self, network):
        name = network.config.architecture.rpartition("/")[2]
        if network.config.architecture.startswith("timm/"):
            settings = timm.get_pretrained_cfg(name)
            return settings.mean, settings.std
        return HALF if name in ("googlenet", "inception_v3") else IMAGENET

    def training_output(self, network, images):
        logits, auxiliary = network.forward_with_auxiliary(images)
        return torch.cat([logits, *auxiliary])


@pytest.mark.parametrize(
    ("architecture", "size", "count", "weight"),
    [("googlenet", 32, 2, 0.3), ("inception_v3", 299, 1, 0.4), ("inception_v3", 75, 0, 0.4),
     ("mobilenet_v2", 32, 0, 0.0)],
)  # fmt: skip
def test_auxiliary_heads_answer_in_training_and_only_there(architecture, size, count, weight):
    classifier = Classifier.build(config(architecture, size)).train()
    images = torch.from_numpy(noise(2, size))
    logits, auxiliary = classifier.forward_with_auxiliary(images)
    assert [item.shape for item in (logits, *auxiliary)] == [(2, 2)] * (1 + count)
    assert classifier.auxiliary_weight == weight
    with torch.no_grad():
        _, quiet = classifier.eval().forward_with_auxiliary(images)
    assert quiet == ()


@pytest.mark.parametrize(("architecture", "share"), [("googlenet", 0.3), ("mobilenet_v2", 0.0)])
def test_the_loss_adds_the_auxiliary_heads_by_the_weight_of_their_paper(architecture, share):
    classifier = Classifier.build(config(architecture, 32)).train()
    images, labels = torch.from_numpy(noise(4, 32)), torch.tensor([0, 1, 1, 0])
    weights = torch.tensor([1.0, 3.0])
    torch.manual_seed(5)  # the heads drop units
    criterion = torch.nn.CrossEntropyLoss(weight=weights, label_smoothing=0.1)
    loss = classification_loss(classifier, [images, labels], criterion)
    torch.manual_seed(5)
    logits, auxiliary = classifier.forward_with_auxiliary(images)

    def by_hand(values):
        """Weighted cross entropy with smoothed labels, as in the documentation of torch."""
        table = functional.log_softmax(values.double(), dim=1)
        smooth = torch.full((4, 2), 0.05, dtype=torch.float64)
        smooth[torch.arange(4), labels] += 0.9
        of_class = weights.double()[None]
        return -(of_class * smooth * table).sum() / weights.double()[labels].sum()

    expected = by_hand(logits) + share * sum(by_hand(item) for item in auxiliary)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize(
    ("short", "full", "size"),
    [("inception", "torchvision/inception_v3", 299), ("resnet18", "torchvision/resnet18", 224),
     ("resnet10t", "timm/resnet10t", 176), ("timm/resnet18", "timm/resnet18", 224)],
)  # fmt: skip
def test_names_resolve_to_a_library_and_a_default_size(short, full, size):
    architecture = find_architecture(short)
    assert str(architecture) == full
    assert architecture.default_size == size


@pytest.mark.parametrize(
    ("wrong", "near"), [("incepton", "inception"), ("timm/convnext_tyni", "convnext_tiny")]
)
def test_a_mistyped_architecture_is_answered_with_the_nearest_name(wrong, near):
    with pytest.raises(ConfigError, match=f"{wrong}.*did you mean.*{near}"):
        Classifier.build(config(wrong))


def test_a_name_of_the_other_library_is_not_taken_from_this_one():
    with pytest.raises(ConfigError, match="neither torchvision nor timm"):
        find_architecture("torchvision/resnet10t")


def test_a_size_that_a_network_cannot_take_names_the_network_and_the_size():
    with pytest.raises(ConfigError, match=r"inception_v3.* 75 .*74"):
        Classifier.build(config("inception_v3", 74))
    with pytest.raises(ConfigError, match=r"timm/test_vit.* 40 "):
        Classifier.build(config("timm/test_vit", 40))
    assert Classifier.build(config("timm/test_vit", 96)).predict_proba(noise(1, 96)).shape == (1, 2)


def test_dropout_reaches_the_last_layers():
    network = Classifier.build(config(dropout=0.6)).network
    assert [item.p for item in network.modules() if isinstance(item, torch.nn.Dropout)] == [0.6]


def test_policy_temperature_cutoff_and_operating_points_travel_with_the_file(tmp_path):
    policy = MaskPolicy.from_mode("hard_full", threshold=0.4, fill=(1, 2, 3), on_empty="abstain")
    classifier = Classifier.build(config(), policy=policy)
    classifier.temperature, classifier.cutoff = 1.7, 0.31
    classifier.operating_points = {"0.90": 0.123456789}
    classifier.save(tmp_path / "c.safetensors")
    loaded = Classifier.load(tmp_path / "c.safetensors", device="cpu")
    assert loaded.policy == policy
    assert (loaded.temperature, loaded.cutoff) == (1.7, 0.31)
    assert loaded.operating_points == {"0.90": 0.123456789}


@pytest.mark.parametrize("classes", [["malignant", "benign"], []])
def test_any_other_order_of_classes_is_refused(small, tmp_path, classes):
    path = tmp_path / "c.safetensors"
    tiny_file(path, small, classes=classes)
    with pytest.raises(ModelFileError, match=r"classes are .*not \['benign', 'malignant'\]"):
        Classifier.load(path, device="cpu")


@pytest.mark.parametrize(
    "damage", [{"config": None}, {"policy": 3}, {"temperature": None}, {"classes": 2}]
)
def test_a_description_of_another_kind_is_refused(small, tmp_path, damage):
    path = tmp_path / "c.safetensors"
    tiny_file(path, small, **damage)
    with pytest.raises(ModelFileError, match=r"c\.safetensors.*classifier"):
        Classifier.load(path, device="cpu")


def test_a_file_of_another_network_lists_what_differs(small, tmp_path):
    check_that_differences_are_listed(small, tmp_path / "other.safetensors")


def test_a_policy_of_another_version_is_refused(small, tmp_path):
    path = tmp_path / "c.safetensors"
    tiny_file(path, small, policy={**small.policy.to_dict(), "halo": 1})
    with pytest.raises(ConfigError, match="halo"):
        Classifier.load(path, device="cpu")


def test_a_segmenters_file_is_no_classifier(small, tmp_path):
    from cascade.config import SegmenterConfig
    from cascade.models.segmenter import Segmenter

    path = tmp_path / "s.safetensors"
    Segmenter.build(SegmenterConfig(encoder="mobilenet_v2", size=32)).save(path)
    with pytest.raises(ModelFileError, match="holds segmenter, but no classifier"):
        Classifier.load(path, device="cpu")


def test_another_size_keeps_the_weights_and_drops_what_was_fitted_at_the_first(small):
    small.provenance["trained_on"] = ["a"]
    small.temperature, small.cutoff, small.operating_points = 2.0, 0.3, {"0.90": 0.3}
    try:
        larger = small.at_size(64)
    finally:
        small.temperature, small.cutoff, small.operating_points = 1.0, 0.5, {}
    assert (larger.size, larger.config.size, small.size) == (64, 64, 32)
    assert not larger.is_calibrated
    assert (larger.cutoff, larger.operating_points) == (0.5, {})
    assert larger.provenance["trained_on"] == ["a"]
    state = small.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in larger.state_dict().items())
    assert larger.policy == small.policy
