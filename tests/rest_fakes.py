"""A service on the fake cascade of conftest.py: no torch, no file, a few milliseconds an image."""

from __future__ import annotations

import contextlib
import io
import time

import numpy as np
from conftest import FakeClassifier, FakeSegmenter
from PIL import Image
from starlette.testclient import TestClient

from cascade.data.synthetic import draw_lesion
from cascade.imaging import ImageLimits, encode_image
from cascade.lesion.masking import MaskPolicy
from cascade.pipeline import Cascade
from cascade.serving.rest.api import create_app
from cascade.serving.rest.model import ServedModel
from cascade.serving.rest.settings import ServiceSettings

DIGEST = "ab" * 32


class PointedClassifier(FakeClassifier):
    """The fake with two operating points, and activation maps as an exported classifier has."""

    operating_points = {"0.90": 0.2, "0.95": 0.1}  # noqa: RUF012 - never changed

    def activation_map(self, images: np.ndarray, *, target: str) -> np.ndarray:
        """``(N, S, S, 3)`` uint8 to ``(N, 6, 6)`` float32: the darker, the more malignant."""
        red = 1 - images[..., 0].reshape(len(images), 6, 8, 6, 8).mean(axis=(2, 4)) / 255
        return (red if target == "malignant" else -red).astype(np.float32)


def fake_model(*, limits: ImageLimits | None = None, policy: MaskPolicy | None = None, **options):
    """A model as the service holds it."""
    cascade = Cascade(FakeSegmenter(), PointedClassifier(policy=policy), limits=limits, **options)
    document = {
        "provenance": {"segmenter": {"date": "2026-11-21", "trained_on": ["0a"] * 500}},
        "metrics": {"segmenter": {"validation": {"iou": 0.8}}},
    }
    return ServedModel(cascade, name="fake.safetensors", digest=DIGEST, document=document)


@contextlib.contextmanager
def service(settings: ServiceSettings | None = None, *, model=None, load=None, **options):
    """A test client of a service that is ready."""
    app = create_app(settings, load=load or (lambda: model or fake_model()), **options)
    with TestClient(app, base_url="http://testserver") as client:
        wait_until_ready(client)
        yield client


def wait_until_ready(client, *, seconds: float = 30.0):
    """Ask until the model is loaded."""
    deadline = time.monotonic() + seconds
    while client.get("/readyz").status_code != 200:
        assert time.monotonic() < deadline, "the service did not become ready"
        time.sleep(0.01)


def lesion_pixels(seed: int = 7, *, shape=(96, 128)) -> np.ndarray:
    """A drawn malignant lesion, ``(H, W, 3)`` uint8."""
    return draw_lesion(np.random.default_rng(seed), malignant=True, shape=shape, tone=0.1).image


def lesion_png(seed: int = 7, *, shape=(96, 128)) -> bytes:
    """The same as the bytes of a file."""
    return encode_image(lesion_pixels(seed, shape=shape))


def turned_jpeg(orientation: int = 6) -> bytes:
    """A JPEG that a viewer turns."""
    exif = Image.Exif()
    exif[274] = orientation
    file = io.BytesIO()
    Image.fromarray(lesion_pixels()).save(file, "JPEG", quality=95, exif=exif)
    return file.getvalue()


def bomb_png(width: int, height: int) -> bytes:
    """A small PNG of very many white pixels, of which each is one bit."""
    file = io.BytesIO()
    Image.new("1", (width, height), 1).save(file, "PNG", compress_level=9)
    return file.getvalue()


def upload(*files: bytes | tuple[str, bytes], field: str = "images"):
    """The ``files`` of a request: bytes alone, or a name with its bytes."""
    named = [item if isinstance(item, tuple) else ("photo.png", item) for item in files]
    return [(field, pair) for pair in named]


def predict(client, *files, path="/v1/predict", **options):
    """Send images as a form."""
    return client.post(path, files=upload(*files), **options)


def only(response):
    """The only result of a successful request."""
    assert response.status_code == 200, response.text
    (result,) = response.json()["results"]
    return result
