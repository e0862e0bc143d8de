"""docs/design.md: its rooms are those of the layer test, and its walks happen in that order."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import re
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from test_layers import FORBIDDEN, ROOMS

from cascade.command_line import main as console
from cascade.data.synthetic import draw_lesion
from cascade.imaging import encode_image

DESIGN = Path(__file__).resolve().parents[1] / "docs" / "design.md"
PREDICT = "From `cascade predict` to a row"
GRADIENT = "From a training table to a gradient"
REQUEST = "From a request to its JSON"


def section(title):
    """The text below one heading."""
    text = DESIGN.read_text(encoding="utf-8")
    found = re.search(rf"^#+ {re.escape(title)}\n(.*?)(?=^#|\Z)", text, re.DOTALL | re.MULTILINE)
    assert found, f"docs/design.md has no heading {title!r}"
    return found[1]


def walk(title):
    """The dotted names of one walk, in order."""
    return re.findall(r"^\d+\. `([\w.]+)`", section(title), re.MULTILINE)


def code_of(name):
    """The code object of a function or method; ``name`` is dotted from a package on."""
    words = name.split(".")
    for count in range(len(words) - 1, 0, -1):
        with contextlib.suppress(ModuleNotFoundError):
            found = importlib.import_module(".".join(words[:count]))
            break
    for word in words[count:]:
        found = inspect.getattr_static(found, word, None)
        assert found is not None, f"docs/design.md names {name}, which does not exist"
    found = getattr(found, "fget", None) or getattr(found, "__func__", found)
    return inspect.unwrap(found).__code__


class Recorder:
    """The order in which some functions are first called, in whatever thread."""

    def __init__(self, names):
        self.names = {code_of(name): name for name in names}
        self.called = []

    def __call__(self, frame, event, _):
        name = self.names.get(frame.f_code) if event == "call" else None
        if name is not None and name not in self.called:
            self.called.append(name)

    @contextlib.contextmanager
    def watching(self):
        before = sys.getprofile()
        threading.setprofile(self)
        sys.setprofile(self)
        try:
            yield self
        finally:
            sys.setprofile(before)
            threading.setprofile(None)


def assert_in_order(recorder, title):
    listed = walk(title)
    assert recorder.called == listed, (
        f"the list below {title!r} in docs/design.md is not what happens. Never called: "
        f"{[name for name in listed if name not in recorder.called]}. "
        f"In order of their first calls: {recorder.called}"
    )


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
    """A tiny random cascade with safeguards."""
    from tiny_export import tiny_cascade

    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    tiny_cascade().save(path)
    return path


@pytest.fixture
def image_bytes():
    lesion = draw_lesion(np.random.default_rng(7), malignant=True, shape=(96, 128), tone=0.1)
    return encode_image(lesion.image)


def test_an_image_becomes_a_row_in_the_order_of_the_walk(model_file, image_bytes, tmp_path):
    (tmp_path / "image.png").write_bytes(image_bytes)
    words = ["predict", str(tmp_path / "image.png"), "--model", str(model_file), "--device", "cpu"]
    with Recorder(walk(PREDICT)).watching() as recorder:
        code = console.main([*words, "--output", str(tmp_path / "results")])
    assert code == 0
    assert "malignant" in (tmp_path / "results" / "predictions.csv").read_text(encoding="utf-8")
    assert_in_order(recorder, PREDICT)


def test_a_training_image_becomes_a_gradient_in_the_order_of_the_walk(dataset_folder, tmp_path):
    words = [
        "cls-train", "--data_path", dataset_folder, "--splits", tmp_path / "splits.json",
        "--output", tmp_path / "run", "--architecture", "timm/test_resnet", "--image_size", 64,
        "--epochs", 1, "--batch_size", 4, "--validation_fraction", 0.4, "--device", "cpu",
    ]  # fmt: skip
    for library in ("sklearn.model_selection", "matplotlib.pyplot"):
        importlib.import_module(library)  # now, because an import is slow while calls are watched
    with Recorder(walk(GRADIENT)).watching() as recorder:
        code = console.main([str(word) for word in words])
    assert code == 0
    assert_in_order(recorder, GRADIENT)


def test_a_request_becomes_json_in_the_order_of_the_walk(model_file, image_bytes):
    pytest.importorskip("fastapi")
    from rest_fakes import predict, service

    from cascade.serving.rest.model import load_model
    from cascade.serving.rest.settings import ServiceSettings

    settings = ServiceSettings(model=str(model_file), device="cpu")
    with (
        Recorder(walk(REQUEST)).watching() as recorder,
        service(settings, load=lambda: load_model(settings)) as client,
    ):
        recorder.called.clear()  # loading predicts as well
        answer = predict(client, image_bytes)
    assert answer.status_code == 200
    assert_in_order(recorder, REQUEST)


@pytest.mark.parametrize("title", [PREDICT, GRADIENT, REQUEST])
def test_a_walk_is_a_list_of_existing_functions(title):
    names = walk(title)
    numbers = re.findall(r"^(\d+)\. ", section(title), re.MULTILINE)
    assert len(names) == len(set(names)) >= 8
    assert numbers == [str(place) for place in range(1, len(names) + 1)]
    for name in names:
        code_of(name)


def test_another_order_is_noticed():
    name = "cascade.lesion.masking.find_lesion"
    recorder = Recorder([name])
    recorder.called = [name]
    with pytest.raises(AssertionError, match="is not what happens"):
        assert_in_order(recorder, PREDICT)
    with pytest.raises(AssertionError, match="does not exist"):
        code_of("cascade.lesion.masking.find_nothing")


def test_the_drawing_shows_each_room_in_the_order_of_the_layers():
    drawing = re.search(r"```\n(.*?)```", section("Rooms"), re.DOTALL)[1]
    assert tuple(word for word in re.findall(r"\w+", drawing) if word in ROOMS) == ROOMS


def test_each_room_has_a_paragraph_that_says_what_it_must_not_import():
    text = section("Rooms")
    paragraphs = dict(
        re.findall(r"^\*\*`(\w+)`\*\*: (.*?)(?=\n\n|\Z)", text, re.DOTALL | re.MULTILINE)
    )
    assert tuple(paragraphs) == ROOMS
    for room, paragraph in paragraphs.items():
        told = re.search(r"Does\s+not\s+import\s+([^.]*)\.", paragraph)
        named = set(re.findall(r"`(\w+)`", told[1])) if told else set()
        assert named == FORBIDDEN.get(room, set()), f"docs/design.md on {room}"
