"""Freed memory stays in a training on the CPU, and goes back after it."""

import resource
import sys

import pytest
import torch

from cascade.training.memory import kept_memory

CPU = torch.device("cpu")
MANY = 10_000_000  # float32: 40 MB, more than glibc ever keeps by itself


def faults():
    """Pages that the kernel hands out for an array that is made and freed ten times."""
    for _ in range(3):
        torch.ones(MANY)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.ones(MANY)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs glibc")
def test_an_array_takes_the_memory_of_the_one_before():
    with kept_memory(CPU) as kept:
        if not kept:
            pytest.skip("another C library")
        within = faults()
    assert faults() > 1.5 * within, "it goes back to the system afterwards"


def test_nothing_changes_for_a_gpu_or_without_glibc(monkeypatch):
    with kept_memory(torch.device("cuda")) as kept:
        assert not kept
    monkeypatch.setattr(sys, "platform", "darwin")
    with kept_memory(CPU) as kept:
        assert not kept


def test_an_error_passes_through():
    with pytest.raises(KeyError), kept_memory(CPU):
        raise KeyError
