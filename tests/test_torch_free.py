"""An exported cascade works where none of the training libraries is installed."""

from __future__ import annotations

import configparser
import csv
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from tiny_export import tiny_cascade, tiny_export

from cascade.command_line.parser import FULL_LIBRARY
from cascade.commands.prediction.doctor import TRAINING
from cascade.data.synthetic import draw_lesion
from cascade.explain import explain as explain_prediction
from cascade.explain import overlay_heat
from cascade.imaging import read_image, write_image
from cascade.pipeline import Cascade

REPOSITORY = Path(__file__).resolve().parents[1]
REQUIREMENTS = REPOSITORY / "requirements"

BLOCKER = f"""
import sys
BLOCKED = {(*FULL_LIBRARY, "albucore", "scipy", "onnx", "onnxscript")!r}
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in BLOCKED:
            raise ModuleNotFoundError(f'No module named {{name!r}}', name=name)
sys.meta_path.insert(0, Blocker())
import importlib.util
find_spec = importlib.util.find_spec
def not_found(name, *rest):
    return None if name.split('.')[0] in BLOCKED else find_spec(name, *rest)
importlib.util.find_spec = not_found
"""
AFTERWARDS = """
loaded = sorted(set(BLOCKED) & {name.split('.')[0] for name in sys.modules})
assert not loaded, loaded
"""


def without_torch(code: str) -> subprocess.CompletedProcess[str]:
    """Run Python where the training libraries cannot be imported; none was, afterwards."""
    return subprocess.run(
        [sys.executable, "-c", f"{BLOCKER}\n{code}\n{AFTERWARDS}"],
        capture_output=True,
        text=True,
        check=False,
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )


@pytest.fixture
def photograph(tmp_path):
    image = draw_lesion(np.random.default_rng(2), malignant=True, shape=(60, 80)).image
    write_image(tmp_path / "lesion.png", image)
    return tmp_path / "lesion.png"


def test_predictions_and_heat_maps_are_those_of_torch(photograph, tmp_path):
    flags = ["predict", str(photograph), "--model", str(tiny_export()), "--save_masks",
             "--save_overlays", "--tta", "flips", "--output", str(tmp_path / "out")]  # fmt: skip
    explain = ["explain", str(photograph), "--model", str(tiny_export()),
               "--output", str(tmp_path / "heat"), "--target", "benign"]  # fmt: skip
    done = without_torch(
        "assert importlib.util.find_spec('timm') is None, 'or nothing is blocked'\n"
        "from cascade.command_line.main import main\n"
        f"assert main({flags}) == 0\n"
        f"assert main({explain}) == 0\n"
    )
    assert done.returncode == 0, done.stderr
    with (tmp_path / "out" / "predictions.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    expected = tiny_cascade()(photograph, tta="flips")[0]
    assert float(row["probability_malignant"]) == pytest.approx(
        expected.probabilities["malignant"], abs=1e-4
    )
    assert row["label"] == expected.label
    assert float(row["out_of_distribution_score"]) == pytest.approx(
        expected.out_of_distribution_score, abs=2e-3
    )
    assert (tmp_path / "out" / row["mask"]).is_file()
    assert (tmp_path / "out" / row["overlay"]).is_file()
    cascade, image = Cascade.load(tiny_export(), runtime="onnx"), read_image(photograph).pixels
    (prediction,) = cascade([image])
    heat = explain_prediction(cascade, image, prediction, target="benign")
    np.testing.assert_array_equal(
        read_image(tmp_path / "heat" / "overlays" / "lesion.png").pixels,
        overlay_heat(image, heat, prediction.mask),
    )


def test_a_prediction_on_the_cpu_loads_none_of_them_where_they_are_installed(photograph, tmp_path):
    tiny_cascade().save(tmp_path / "x.safetensors")
    shutil.copytree(tiny_export(), tmp_path / "x_onnx")
    flags = ["predict", str(photograph), "--model", str(tmp_path / "x.safetensors"),
             "--device", "cpu", "--output", str(tmp_path / "out")]  # fmt: skip
    heavy = {*FULL_LIBRARY, "scipy", "pandas", "pydantic", "onnx"}
    code = (
        "import sys\n"
        "from cascade.command_line.main import main\n"
        f"assert main({flags}) == 0\n"
        f"loaded = {heavy} & set(sys.modules)\n"
        "assert not loaded, loaded\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=REPOSITORY
    )
    assert done.returncode == 0, done.stderr
    assert "runtime: onnx" in done.stderr


def test_what_needs_torch_is_one_line_that_says_what_to_do(tmp_path, photograph, dataset_folder):
    tiny_cascade().save(tmp_path / "x.safetensors")
    predict = ["predict", str(photograph), "--model", str(tmp_path / "x.safetensors"),
               "--output", str(tmp_path / "out")]  # fmt: skip
    train = ["seg-train", "--data_path", str(dataset_folder), "--output", str(tmp_path / "run"),
             "--splits", str(tmp_path / "splits.json")]  # fmt: skip
    done = without_torch(
        "from cascade.command_line.main import main\n"
        f"assert main({predict}) == 2\n"
        f"assert main({train}) == 2\n"
    )
    assert done.returncode == 0, done.stderr
    first, second = done.stderr.splitlines()
    assert "torch" in first
    assert "cascade export" in first
    assert "sklearn" in second


def listed(name: str) -> list[Requirement]:
    """The requirements of a file, without its hashes."""
    lines = (REQUIREMENTS / name).read_text(encoding="utf-8").splitlines()
    return [
        Requirement(line.rstrip("\\").strip())
        for line in lines
        if line.strip() and not line.lstrip().startswith(("#", "--hash"))
    ]


def pins(requirements: list[Requirement]) -> dict[str, str]:
    return {
        canonicalize_name(item.name): str(item.specifier).removeprefix("==")
        for item in requirements
    }


def test_every_version_is_pinned_with_hashes():
    text = (REQUIREMENTS / "serve.txt").read_text(encoding="utf-8")
    assert all(str(item.specifier).startswith("==") for item in listed("serve.txt"))
    blocks = re.split(r"^(?=\w)", text, flags=re.MULTILINE)[1:]
    assert len(blocks) == len(listed("serve.txt"))
    assert all("--hash=sha256:" in block for block in blocks)


def test_what_is_asked_for_is_pinned_and_nothing_that_trains():
    pinned = pins(listed("serve.txt"))
    assert {canonicalize_name(item.name) for item in listed("serve.in")} <= set(pinned)
    assert not {canonicalize_name(name) for name in TRAINING} & set(pinned)


def test_the_pins_fit_the_library_and_its_constraints():
    pinned = pins(listed("serve.txt"))
    setup = configparser.ConfigParser()
    setup.read(REPOSITORY / "setup.cfg", encoding="utf-8")
    wanted = [
        Requirement(line) for line in setup["options"]["install_requires"].split("\n") if line
    ]
    for item in wanted:
        name = canonicalize_name(item.name)
        assert (name in pinned) == (item.name not in TRAINING), name
        assert name not in pinned or item.specifier.contains(pinned[name])
    lines = (REPOSITORY / "constraints.txt").read_text(encoding="utf-8").splitlines()
    tested = pins([Requirement(line) for line in lines if line and not line.startswith("#")])
    assert all(tested.get(name, version) == version for name, version in pinned.items())
