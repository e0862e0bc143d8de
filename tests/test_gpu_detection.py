"""A GPU is found by its driver, and torch is loaded only where there is one."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from pathlib import Path

import pytest

from cascade.models import gpu

REPOSITORY = Path(__file__).resolve().parents[1]


class Driver:
    """NVIDIA's management library, with so many GPUs."""

    def __init__(self, count, *, starts=True):
        self.count, self.starts, self.open = count, starts, 0

    def nvmlInit_v2(self):
        self.open += self.starts
        return 0 if self.starts else 9

    def nvmlDeviceGetCount_v2(self, count):
        count._obj.value = self.count
        return 0

    def nvmlShutdown(self):
        self.open -= 1


@pytest.fixture(autouse=True)
def bare_machine(monkeypatch, tmp_path):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(gpu, "_AMD_DRIVER", tmp_path / "kfd")
    monkeypatch.setattr(gpu, "_NVML", str(tmp_path / "none.so"))


@pytest.mark.parametrize(
    ("driver", "expected"),
    [(Driver(2), True), (Driver(0), False), (Driver(1, starts=False), False)],
)
def test_the_driver_of_nvidia_is_asked_and_closed_again(monkeypatch, driver, expected):
    assert not gpu.has_gpu()
    monkeypatch.setattr(ctypes, "CDLL", lambda name: driver)
    assert gpu.has_gpu() is expected
    assert driver.open == 0


@pytest.mark.parametrize("hidden", ["", "-1"])
def test_hidden_gpus_are_none(monkeypatch, hidden):
    monkeypatch.setattr(ctypes, "CDLL", lambda name: Driver(1))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    assert not gpu.has_gpu()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert gpu.has_gpu()


def test_a_gpu_of_amd_counts(tmp_path):
    (tmp_path / "kfd").touch()
    assert gpu.has_gpu()


def test_torch_has_the_last_word_where_there_is_a_driver(monkeypatch):
    monkeypatch.setattr(gpu, "has_gpu", lambda: True)
    for sees in (True, False):
        monkeypatch.setattr("torch.cuda.is_available", lambda sees=sees: sees)
        assert gpu.torch_uses_gpu() is sees
    assert gpu.torch_uses_gpu("cuda:3")
    assert gpu.torch_uses_gpu("mps")
    assert not gpu.torch_uses_gpu("cpu")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert not gpu.torch_uses_gpu("cuda")


def test_without_a_gpu_torch_is_not_loaded():
    code = (
        "import sys\n"
        "from cascade.models import gpu\n"
        "gpu.has_gpu = lambda: False\n"
        "assert not gpu.torch_uses_gpu()\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=REPOSITORY)
