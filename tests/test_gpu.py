"""The same promises on CUDA; skipped where there is none."""

import numpy as np
import pytest
import torch
from contracts import noise
from tiny_training import interrupted

from cascade.config import (
    ClassificationTrainConfig,
    ClassifierConfig,
    SegmentationTrainConfig,
    SegmenterConfig,
)
from cascade.explain.gradcam import GradCAM
from cascade.lesion.masking import MaskPolicy
from cascade.models.classifier import Classifier
from cascade.models.segmenter import Segmenter
from cascade.pipeline import Cascade
from cascade.training import segmentation
from cascade.training.classification import train_classifier
from cascade.training.segmentation import train_segmenter

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]

SEGMENTER = SegmenterConfig(encoder="mobilenet_v2", size=64, decoder_channels=(16, 16, 8, 8, 8))
CLASSIFIER = ClassifierConfig(architecture="mobilenet_v2", size=64)
TRAINING = {"epochs": 2, "batch_size": 4, "optimizer": "adamw", "learning_rate": 0.002,
            "momentum": 0.9, "weight_decay": 0.01}  # fmt: skip


@pytest.fixture(autouse=True)
def exact_arithmetic():
    """Compare in full float32: TF32 rounds to ten bits."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


@pytest.fixture(scope="module")
def files(table, splits, tmp_path_factory):
    """Both stages, trained on the CUDA device."""
    folder = tmp_path_factory.mktemp("gpu")
    train_segmenter(
        table, splits, config=SEGMENTER, training=SegmentationTrainConfig(**TRAINING),
        output=folder / "segmenter", device="cuda",
    )  # fmt: skip
    train_classifier(
        table, splits, config=CLASSIFIER, training=ClassificationTrainConfig(**TRAINING),
        policy=MaskPolicy(), output=folder / "classifier", device="cuda",
    )  # fmt: skip
    return {stage: folder / stage / "best.safetensors" for stage in ("segmenter", "classifier")}


@pytest.mark.parametrize(("stage", "name"), [(Segmenter, "segmenter"), (Classifier, "classifier")])
def test_trained_on_cuda_it_predicts_the_same_on_both_devices(files, stage, name):
    on_cpu = stage.load(files[name], device="cpu")
    on_cuda = stage.load(files[name], device="cuda")
    assert on_cuda.device.type == "cuda"
    assert all(item.is_cuda for item in on_cuda.state_dict().values())
    images = noise(5, 64)
    predict = "predict" if stage is Segmenter else "predict_proba"
    one, other = getattr(on_cpu, predict)(images), getattr(on_cuda, predict)(images)
    assert isinstance(other, np.ndarray)
    assert other.dtype == np.float32
    np.testing.assert_allclose(one, other, atol=1e-4)


def test_the_cascade_says_the_same_on_both_devices(files, table):
    predictions = {}
    for device in ("cpu", "cuda"):
        cascade = Cascade(
            Segmenter.load(files["segmenter"], device=device),
            Classifier.load(files["classifier"], device=device),
        )
        paths = [record.image_path for record in table]
        predictions[device] = list(cascade.predict_iter(paths, batch_size=5, tta="flips"))
    for one, other in zip(*predictions.values(), strict=True):
        np.testing.assert_allclose(one.mask_probability, other.mask_probability, atol=1e-4)
        # a pixel at the threshold may fall on either side; hardly any other may
        assert np.mean(one.mask != other.mask) < 0.005
        if np.array_equal(one.mask, other.mask):
            assert one.probabilities["malignant"] == pytest.approx(
                other.probabilities["malignant"], abs=1e-3
            )


def test_a_training_that_was_resumed_on_cuda_goes_on(table, splits, tmp_path):
    options = {
        "config": SEGMENTER, "output": tmp_path / "run", "device": "cuda",
        "training": SegmentationTrainConfig(**TRAINING, average=0.9, patience=5),
    }  # fmt: skip
    with interrupted(segmentation, "validate_segmenter", call=2):
        train_segmenter(table, splits, **options)
    network = train_segmenter(table, splits, **options, resume=True)
    assert network.device.type == "cuda"
    assert len((tmp_path / "run" / "history.csv").read_text().splitlines()) == 3


def test_heat_maps_are_those_of_the_cpu():
    torch.manual_seed(0)
    classifier = Classifier.build(ClassifierConfig(architecture="timm/test_resnet", size=64)).eval()
    torch.nn.init.normal_(classifier.network.fc.weight)
    maps = []
    for device in ("cpu", "cuda"):
        with GradCAM(classifier.to(device)) as opened:
            maps.append(opened.activation_map(noise(3, 64)))
    assert maps[0].std() > 0
    np.testing.assert_allclose(maps[1], maps[0], rtol=1e-3, atol=1e-4)
