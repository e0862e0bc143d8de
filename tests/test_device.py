import pytest
import torch

from cascade.errors import DeviceError
from cascade.models.network import describe_device, resolve_device


@pytest.fixture
def devices(monkeypatch):
    """Pretend that this machine has some accelerators."""

    def pretend(*, cuda=0, mps=False):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)

    return pretend


@pytest.mark.parametrize(
    ("present", "chosen"),
    [
        ({}, "cpu"),
        ({"cuda": 1}, "cuda"),
        ({"mps": True}, "mps"),
        ({"cuda": 2, "mps": True}, "cuda"),
    ],
)
def test_auto_takes_the_best_there_is(devices, present, chosen):
    devices(**present)
    assert resolve_device() == resolve_device("auto") == torch.device(chosen)


@pytest.mark.parametrize(("asked", "present"), [("cuda", 0), ("cuda:1", 1), ("mps", 0)])
def test_a_device_that_is_absent_is_an_error_and_never_replaced(devices, asked, present):
    devices(cuda=present)
    with pytest.raises(DeviceError, match=asked):
        resolve_device(asked)


@pytest.mark.parametrize("asked", ["cuda", "cuda:3", "mps"])
def test_a_device_that_exists_is_taken(devices, asked):
    devices(cuda=4, mps=True)
    assert resolve_device(asked) == torch.device(asked)


@pytest.mark.parametrize("asked", ["gpu", "", "cuda:x", "CUDA", "meta"])
def test_an_unknown_device_is_refused(devices, asked):
    devices(cuda=1)
    with pytest.raises(DeviceError, match=f"{asked!r}.*cuda"):
        resolve_device(asked)


def test_a_device_is_described_in_words(monkeypatch):
    assert describe_device(torch.device("cpu")) == f"cpu ({torch.get_num_threads()} threads)"
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Some Card")
    assert describe_device(torch.device("cuda:1")) == "cuda:1 (Some Card)"
