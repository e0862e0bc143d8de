"""Cascades of the page: read once, named by what is in them, run by one user at a time."""

import threading
import time
from dataclasses import replace

import pytest
import torch
from page_fakes import encoded, page_model
from tiny_training import SEGMENTER

from cascade.config import ClassifierConfig
from cascade.errors import ModelFileError
from cascade.models.artifact import read_document
from cascade.models.classifier import Classifier
from cascade.models.segmenter import Segmenter
from cascade.pipeline import Cascade
from cascade.serving.page import models as web_models
from cascade.serving.page.findings import Finding, Settings
from cascade.serving.page.models import load_model
from cascade.serving.page.settings import PageSettings


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
    torch.manual_seed(0)
    classifier = Classifier.build(ClassifierConfig(architecture="timm/test_resnet", size=32))
    classifier.cutoff = 0.3
    classifier.operating_points = {"0.90": 0.3, "0.95": 0.2}
    path = tmp_path_factory.mktemp("models") / "tiny.safetensors"
    Cascade(Segmenter.build(SEGMENTER), classifier).save(path)
    return path


@pytest.fixture
def settings(model_file):
    web_models._load.cache_clear()
    return PageSettings(model=model_file, device="cpu", max_megapixels=1.0)


def test_a_saved_cascade_is_read_once_and_named_by_its_digest(settings, model_file, lesion):
    model = load_model(settings, "tiny.safetensors")
    assert load_model(settings, "tiny.safetensors") is model
    assert [(point.cutoff, point.sensitivity) for point in model.points] == [
        (0.3, 0.9),
        (0.2, 0.95),
    ]
    assert model.cascade.limits.max_pixels == 1_000_000
    assert isinstance(model.examine("mole.png", encoded(lesion.image), Settings("flips")), Finding)
    digest = read_document(model_file)["tensors_sha256"]
    assert len(model.identity) == 12
    assert digest.startswith(model.identity)
    assert model.title == f"tiny.safetensors ({model.identity})"


def test_a_model_that_is_gone_is_an_error_each_time(settings, tmp_path):
    gone = replace(settings, model=tmp_path / "gone.safetensors")
    for _ in range(2):
        with pytest.raises(ModelFileError, match=r"gone\.safetensors"):
            load_model(gone, "gone.safetensors")


def test_images_are_examined_one_at_a_time(monkeypatch):
    inside, most = [], []

    def slow(*_):
        inside.append(1)
        most.append(len(inside))
        time.sleep(0.02)
        inside.pop()

    monkeypatch.setattr(web_models, "examine", slow)
    users = [
        threading.Thread(target=page_model().examine, args=("a", b"", Settings())) for _ in range(4)
    ]
    for user in users:
        user.start()
    for user in users:
        user.join(10)
    assert most == [1] * 4


def test_the_log_says_how_long_a_image_took_and_not_its_name(caplog, lesion):
    caplog.set_level("INFO", logger="cascade")
    page_model().examine("secret name.png", encoded(lesion.image), Settings())
    assert "an image took" in caplog.text
    assert "secret" not in caplog.text
