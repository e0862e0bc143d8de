"""What several test files share: invented lesions and networks made of a few lines of numpy."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from PIL import Image

from cascade.data.cache import FOLDER_VARIABLE
from cascade.data.synthetic import (
    SyntheticConfig,
    SyntheticLesion,
    draw_lesion,
    write_synthetic_dataset,
)
from cascade.data.tables import read_table
from cascade.lesion.masking import MaskPolicy
from cascade.pipeline import Cascade
from cascade.reliability import OutOfDistributionDetector

# the same examples on every run, and no failure because a machine is busy
settings.register_profile(
    "steady",
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("steady")


class FakeSegmenter:
    """A pixel is lesion where it is dark; equivariant under turns and mirrors.

    Attributes:
        batches: number of images in each call, in order.
    """

    def __init__(self, *, size: int = 64, middle: float = 155.0) -> None:
        self.size = size
        self.middle = middle
        self.batches: list[int] = []

    def predict(self, images: np.ndarray) -> np.ndarray:
        """``(N, S, S, 3)`` uint8 to ``(N, S, S)`` float32."""
        assert images.dtype == np.uint8
        assert images.shape[1:] == (self.size, self.size, 3)
        self.batches.append(len(images))
        brightness = images.astype(np.float64).mean(axis=3)
        return (1 / (1 + np.exp((brightness - self.middle) / 4))).astype(np.float32)

    def describe(self) -> dict:
        """The stage's settings."""
        return {"encoder": "fake", "size": self.size}


class FakeClassifier:
    """The probability of malignant is the mean red of the crop.

    Attributes:
        batches: number of crops in each call, in order.
    """

    def __init__(
        self, *, size: int = 48, policy: MaskPolicy | None = None, cutoff: float = 0.5
    ) -> None:
        self.size = size
        self.policy = policy or MaskPolicy()
        self.cutoff = cutoff
        self.batches: list[int] = []

    def predict_proba(self, images: np.ndarray) -> np.ndarray:
        """``(N, S, S, 3)`` uint8 to ``(N, 2)`` float32."""
        assert images.dtype == np.uint8
        assert images.shape[1:] == (self.size, self.size, 3)
        self.batches.append(len(images))
        malignant = images[..., 0].astype(np.float64).mean(axis=(1, 2)) / 255
        return np.stack([1 - malignant, malignant], axis=1).astype(np.float32)

    def describe(self) -> dict:
        """The stage's settings."""
        return {"architecture": "fake", "size": self.size}


class MappedClassifier(FakeClassifier):
    """A stage that was exported with its own maps: malignant is where the crop is red.

    Attributes:
        cells: side of its maps.
        offset: added to the maps of both classes, which moves no probability.
        fixed: maps of malignant instead, whatever the crop shows.
    """

    def __init__(self, *, cells: int = 6, offset: float = 0.0, fixed=None, **settings) -> None:
        super().__init__(**settings)
        self.cells, self.offset, self.fixed = cells, offset, fixed

    def activation_map(self, images: np.ndarray, *, target: str) -> np.ndarray:
        """``(N, S, S, 3)`` uint8 to ``(N, cells, cells)`` float32."""
        sign = {"malignant": 0.5, "benign": -0.5}[target]
        red = images[..., 0].astype(np.float32) - images[..., 2].astype(np.float32)
        side = (self.cells, self.cells)
        maps = [cv2.resize(one, side, interpolation=cv2.INTER_AREA) - 40 for one in red]
        if self.fixed is not None:
            maps = [np.asarray(self.fixed, np.float32)] * len(images)
        return (np.stack(maps) * sign + self.offset).astype(np.float32)


def plain_detector(threshold: float = 1.0, mean=(0.0, 0.0)) -> OutOfDistributionDetector:
    """Its distance is that from ``mean`` over the root of the number of features."""
    return OutOfDistributionDetector(
        mean=np.array(mean, np.float32),
        scale=np.ones(len(mean), np.float32),
        components=np.eye(1, len(mean), dtype=np.float16),
        variances=np.ones(1, np.float32),
        noise_variance=1.0,
        threshold=threshold,
        false_alarm=0.01,
        fitted_on=10,
        held_out=5,
    )


@pytest.fixture(scope="session", autouse=True)
def sample_cache(tmp_path_factory):
    """No test reads or fills the user's own cache of samples."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(FOLDER_VARIABLE, str(tmp_path_factory.mktemp("samples")))
        yield


@pytest.fixture
def lesion() -> SyntheticLesion:
    """One synthetic malignant lesion, 96 x 128: ``image``, ``mask``, ``malignant``, ``traits``."""
    return draw_lesion(np.random.default_rng(7), malignant=True, shape=(96, 128), tone=0.1)


@pytest.fixture(scope="session")
def dataset_folder(tmp_path_factory):
    """12 training and 4 test images with masks and tables, 64 to 96 pixels; do not change it."""
    folder = tmp_path_factory.mktemp("data") / "dataset"
    sizes = ((64, 80), (80, 96), (64, 64))
    write_synthetic_dataset(folder, SyntheticConfig(count_train=12, count_test=4, sizes=sizes))
    return folder


@pytest.fixture(scope="session")
def table(dataset_folder):
    """The 12 training images."""
    return read_table(dataset_folder / "train_data.csv")


@pytest.fixture(scope="session")
def splits(table):
    """Their division for training and validation."""
    from cascade.data.splits import make_splits

    return make_splits(table, fraction=0.4, seed=0)


@pytest.fixture
def fake_segmenter() -> FakeSegmenter:
    """A first stage without torch."""
    return FakeSegmenter()


@pytest.fixture
def fake_classifier() -> FakeClassifier:
    """A second stage without torch."""
    return FakeClassifier()


@pytest.fixture
def fake_cascade(fake_segmenter, fake_classifier) -> Cascade:
    """Both fake stages in a row."""
    return Cascade(fake_segmenter, fake_classifier)


@pytest.fixture
def commanded_cascade(monkeypatch):
    """Give a command these stages instead of a file's; the list holds what it asked for."""

    def use_stages(segmenter, classifier):
        asked = []

        def load(path, *, device, runtime, threads, precision, **use):
            computes = {
                "device": device, "runtime": runtime, "threads": threads, "precision": precision,
            }  # fmt: skip
            asked.append({"path": path, **computes, **use})
            return Cascade(segmenter, classifier, **use)

        monkeypatch.setattr(Cascade, "load", load)
        return asked

    return use_stages


@pytest.fixture
def photos(tmp_path, lesion):
    """A folder with three images, of which ``b.png`` is broken."""
    folder = tmp_path / "photos"
    folder.mkdir()
    Image.fromarray(lesion.image).save(folder / "a.png")
    (folder / "b.png").write_bytes(b"no picture")
    Image.fromarray(lesion.image[::-1]).save(folder / "c.jpg")
    return folder
