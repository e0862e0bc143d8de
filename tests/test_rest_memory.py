"""The service on a machine with 1 GB: without torch, under a hard limit of its memory."""

import http.client
import json
import resource
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("fastapi")
pytest.importorskip("onnxruntime")

from rest_fakes import lesion_pixels, lesion_png

from cascade.imaging import encode_image
from cascade.models.exported import default_export, is_exported

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]
LIMIT = 2**30
MOST_MB = 350


@pytest.fixture(scope="module")
def service():
    """The default cascade's exported form behind ``cascade serve``, within 1 GiB."""
    if not is_exported(default_export()):
        pytest.skip("the exported default cascade is not in this clone")
    command = [sys.executable, "-m", "cascade", "serve", "--port", "0", "--threads", "1"]
    child = subprocess.Popen(
        [*command, "--model", str(default_export())],
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (LIMIT, LIMIT)),
    )
    lines, port = [], 0
    try:
        for line in child.stderr:
            lines.append(line)
            if line.startswith("listening on "):
                port = int(line.split(",")[0].rsplit(":", 1)[1])
            if line.startswith("ready: "):
                break
        else:
            raise AssertionError("".join(lines))
        reader = threading.Thread(target=child.stderr.read)
        reader.start()
        yield child, port
    finally:
        child.terminate()
        child.wait(30)
        reader.join(10)
        child.stderr.close()


def ask(port, method, path, body=None):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    try:
        connection.request(method, path, body, {"Content-Type": "image/png"})
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def peak_mb(child):
    status = Path(f"/proc/{child.pid}/status").read_text(encoding="utf-8")
    line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024 / 1e6


def test_the_default_cascade_is_served_in_350_mb_of_a_gigabyte(service):
    """Row 93, with everything that an answer can hold."""
    child, port = service
    body = lesion_png(shape=(450, 600))
    for query in ("", "?tta=dihedral", "?include=mask,overlay,heat_map"):
        status, answer = ask(port, "POST", f"/v1/predict{query}", body)
        assert status == 200, answer
        assert json.loads(answer)["model"]["runtime"] == "onnx"
    codes = []
    threads = [
        threading.Thread(
            target=lambda: codes.append(ask(port, "POST", "/v1/predict", body)[0]), daemon=True
        )
        for _ in range(64)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(codes) == {200, 503}
    assert ask(port, "POST", "/v1/predict", body)[0] == 200
    assert peak_mb(child) < MOST_MB


def test_torch_is_not_loaded(service):
    child, _ = service
    maps = Path(f"/proc/{child.pid}/maps").read_text(encoding="utf-8")
    assert "onnxruntime" in maps
    assert "libtorch" not in maps


def test_the_largest_image_is_judged_or_refused_and_the_service_goes_on(service):
    child, port = service
    small = lesion_pixels(shape=(490, 500))
    large = np.kron(small, np.ones((10, 10, 1), np.uint8))  # 24.5 megapixels, within the limit
    status, answer = ask(port, "POST", "/v1/predict", encode_image(large))
    assert status in (200, 503), answer
    assert ask(port, "POST", "/v1/predict", lesion_png())[0] == 200
    assert child.poll() is None
