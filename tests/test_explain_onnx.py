"""The runtime without torch gives the heat maps that Grad-CAM gives."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from tiny_export import tiny_cascade, tiny_export

from cascade.config import CLASSES
from cascade.data.synthetic import draw_lesion
from cascade.explain import explain
from cascade.pipeline import Cascade


@pytest.fixture(scope="module")
def exported():
    return Cascade.load(tiny_export(), runtime="onnx")


@pytest.fixture(scope="module")
def photographs():
    random = np.random.default_rng(3)
    return [draw_lesion(random, malignant=bool(i % 2), shape=(60, 90)).image for i in range(4)]


def test_both_runtimes_give_the_same_heat(exported, photographs):
    tta = "dihedral"
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
