"""Freed memory stays in a training on the CPU, and goes back after it."""

import subprocess
import sys

import pytest
import torch

from cascade.training.memory import kept_memory

CPU = torch.device("cpu")
MANY = 10_000_000  # float32: 40 MB, more than glibc ever keeps by itself


SCRIPT = f"""
import resource
import torch
from cascade.training.memory import kept_memory

def faults():
    for _ in range(3):
        torch.ones({MANY})
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.ones({MANY})
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

before = faults()
with kept_memory(torch.device("cpu")) as kept:
    within = faults()
print(int(kept), within, before)
"""
"""A process of its own: what other tests freed and allocated before would count, too."""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs glibc")
def test_an_array_takes_the_memory_of_the_one_before():
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True
    )
    kept, within, before = map(int, done.stdout.split())
    if not kept:
        pytest.skip("another C library")
    assert before > 1.5 * within


def test_nothing_changes_for_a_gpu_or_without_glibc(monkeypatch):
    with kept_memory(torch.device("cuda")) as kept:
        assert not kept
    monkeypatch.setattr(sys, "platform", "darwin")
    with kept_memory(CPU) as kept:
        assert not kept


def test_an_error_passes_through():
    with pytest.raises(KeyError), kept_memory(CPU):
        raise KeyError
