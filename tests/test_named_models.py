"""Models that are named and not given as a path."""

import shutil

import cv2
import numpy as np
import pytest
from tiny_export import tiny_export

from cascade import Cascade
from cascade.command_line import main as console
from cascade.errors import ModelFileError
from cascade.models import named
from cascade.models.exported import is_exported
from cascade.models.named import SHIPPED, is_named, model_path

FAST = named.shipped_models() / SHIPPED["fast"]


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    """A folder of models with a fast one, and another one to work in."""
    folder = tmp_path / "shipped"
    folder.mkdir()
    monkeypatch.setattr(named, "shipped_models", lambda: folder)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return folder


def test_a_name_is_the_model_that_comes_with_the_library(shipped):
    for name, file in SHIPPED.items():
        assert is_named(name)
        assert model_path(name) == shipped / file


def test_a_file_or_folder_of_that_name_comes_first(shipped, tmp_path):
    (tmp_path / "elsewhere" / "fast").mkdir()
    assert not is_named("fast")
    assert str(model_path("fast")) == "fast"
    assert str(model_path("./default")) == "default", "a path, which is not there"


def test_the_fast_cascade_is_loaded_by_its_name(shipped):
    shutil.copytree(tiny_export(), shipped / "fast_onnx")
    expected = Cascade.load(tiny_export()).describe()
    assert Cascade.load("fast").describe() == expected
    assert Cascade.load("fast", runtime="onnx").describe() == expected


def test_a_model_that_is_not_shipped_is_named_with_its_path(shipped):
    with pytest.raises(ModelFileError, match="fast_onnx"):
        Cascade.load("fast")


def test_a_command_takes_the_name(shipped, tmp_path, capsys):
    shutil.copytree(tiny_export(), shipped / "fast_onnx")
    photograph = tmp_path / "photo.png"
    cv2.imwrite(str(photograph), np.full((60, 80, 3), 150, np.uint8))
    given = ["--model", "fast", "--output", str(tmp_path / "out")]
    assert console.main(["predict", str(photograph), *given]) == 0
    assert (tmp_path / "out" / "predictions.csv").is_file()
    assert console.main(["export", "--model", "fast", "--output", str(tmp_path / "x")]) == 2
    assert "fast_onnx" in capsys.readouterr().err


@pytest.mark.skipif(not is_exported(FAST), reason="no fast cascade in this clone")
def test_the_fast_cascade_has_six_megabytes_at_most():
    assert sum(path.stat().st_size for path in FAST.iterdir()) <= 6e6
