"""The runtime without torch gives the heat maps that Grad-CAM gives."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny_export import tiny_cascade, tiny_export

from cascade.config import CLASSES
from cascade.data.synthetic import draw_lesion
from cascade.data.tables import read_csv
from cascade.explain import explain, overlay_heat
from cascade.imaging import read_image, write_image
from cascade.pipeline import Cascade

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def exported():
    return Cascade.load(tiny_export(), runtime="onnx")


@pytest.fixture(scope="module")
def photographs():
    random = np.random.default_rng(3)
    return [draw_lesion(random, malignant=bool(i % 2), shape=(60, 90)).image for i in range(4)]


@pytest.mark.parametrize("tta", ["none", "dihedral"])
def test_both_runtimes_give_the_same_heat(exported, photographs, tta):
    original, hot = tiny_cascade(), 0
    for image, target in itertools.product(photographs, CLASSES):
        found, expected = (
            explain(cascade, image, cascade([image], tta=tta)[0], target=target, tta=tta)
            for cascade in (exported, original)
        )
        hot += not expected.is_empty
        assert found.is_empty == expected.is_empty
        np.testing.assert_allclose(found.heat_map, expected.heat_map, atol=1e-3)
        assert found.inside_fraction == pytest.approx(expected.inside_fraction, abs=1e-3)
        assert found.turn_agreement == pytest.approx(expected.turn_agreement, abs=1e-3)
        assert found.warnings == expected.warnings
    assert hot, "or nothing was compared"


def test_the_command_draws_the_same_picture_without_torch(exported, photographs, tmp_path):
    write_image(tmp_path / "a.png", photographs[0])
    code = (
        "import sys\n"
        "for name in ('torch', 'torchvision', 'timm', 'pytorch_grad_cam', 'matplotlib'):\n"
        "    sys.modules[name] = None\n"
        "from cascade.command_line.main import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    command = ["explain", str(tmp_path / "a.png"), "--model", str(tiny_export()),
               "--output", str(tmp_path / "out"), "--target", "benign"]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", code, *command],
        cwd=REPOSITORY, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (row,) = read_csv(tmp_path / "out" / "explanations.csv")[1]
    (prediction,) = exported([photographs[0]])
    found = explain(exported, photographs[0], prediction, target="benign")
    np.testing.assert_array_equal(
        read_image(tmp_path / "out" / row["overlay"]).pixels,
        overlay_heat(photographs[0], found, prediction.mask),
    )
