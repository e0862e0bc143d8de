"""The page on a small machine: the default cascade's exported form, a gigabyte, one thread."""

import sys
from pathlib import Path

import numpy as np
import pytest
from chromium import chromium, find_chromium

from cascade.models.exported import default_export, is_exported

pytest.importorskip("streamlit")
pytest.importorskip("onnxruntime")
pytest.importorskip("websockets")
BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.mark.slow
@pytest.mark.skipif(find_chromium() is None, reason="no Chromium on this machine")
@pytest.mark.skipif(not is_exported(default_export()), reason="no exported default cascade")
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is read from /proc")
def test_the_default_cascade_fits_a_gigabyte_with_room(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    from page_memory import drawn_images, running, show_images

    images = drawn_images(tmp_path, (1024, 768))
    flags = ["--model", str(default_export()), "--runtime", "onnx"]
    with running(flags, address_space_mb=1024) as page, chromium(tmp_path / "profile") as tab:
        costs = show_images(page, tab, images, count=4)
        assert page.memory_mb() <= 450
    assert np.median(costs.busy_s) <= 1.0, "processor time: the machine may be busy with other work"
