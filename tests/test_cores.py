"""The number of usable cores: affinity, quotas of both kinds of control groups, and the user."""

from __future__ import annotations

import os

import pytest
import torch

from cascade.models.cores import usable_cores
from cascade.models.network import resolve_device


@pytest.fixture(autouse=True)
def eight_cores(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)


@pytest.fixture
def cores(tmp_path):
    """The number of cores where these files of the kernel say so."""

    def count(membership: str, **files: str) -> int:
        (tmp_path / "membership").write_text(membership)
        for name, text in files.items():
            path = tmp_path / "groups" / name.replace("__", "/")
            path = path.with_name(path.name.replace("cpu_max", "cpu.max").replace("cfs", "cpu.cfs"))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return usable_cores(cgroups=tmp_path / "groups", membership=tmp_path / "membership")

    return count


def test_without_groups_it_is_the_affinity(cores):
    assert cores("") == 8
    assert cores("0::/\n") == 8
    assert cores("0::/\n", cpu_max="max 100000\n") == 8


@pytest.mark.parametrize(
    ("quota", "expected"), [("200000", 2), ("150000", 2), ("50000", 1), ("9900000", 8)]
)
def test_the_quota_of_version_2_counts_parts_of_a_core_as_one(cores, quota, expected):
    assert cores("0::/\n", cpu_max=f"{quota} 100000\n") == expected


def test_the_smallest_limit_of_the_groups_around_counts(cores):
    files = {"a__cpu_max": "300000 100000", "a__b__cpu_max": "max 100000"}
    assert cores("0::/a/b\n", **files) == 3
    assert cores("0::/elsewhere\n", **files) == 8
    assert cores("0::/a/b\n", **files, cpu_max="100000 100000") == 1


def test_a_container_that_sees_its_group_at_the_root_is_limited_by_it(cores):
    assert cores("0::/docker/0123\n", cpu_max="400000 100000") == 4


@pytest.mark.parametrize(("folder", "quota"), [("cpu", "300000"), ("cpu,cpuacct", "250000")])
def test_the_quota_of_version_1(cores, folder, quota):
    files = {f"{folder}__box__cfs_quota_us": f"{quota}\n",
             f"{folder}__box__cfs_period_us": "100000\n"}  # fmt: skip
    assert cores("5:memory:/box\n4:cpu,cpuacct:/box\n", **files) == 3
    assert cores("5:memory:/box\n", **files) == 8, "another controller is no matter"
    files[f"{folder}__box__cfs_quota_us"] = "-1\n"
    assert cores("4:cpu,cpuacct:/box\n", **files) == 8


def test_damaged_files_are_no_limit(cores):
    for text in ("", "many", "0 0", "1 2 3", "\u00e9 100000"):
        assert cores("0::/\n", cpu_max=text) == 8


@pytest.mark.parametrize(
    ("given", "expected"), [("3", 3), ("16", 16), ("4,2", 4), ("many", 2), ("0", 2), ("", 2)]
)
def test_the_variable_of_openmp_wins_where_it_is_a_number(cores, monkeypatch, given, expected):
    monkeypatch.setenv("OMP_NUM_THREADS", given)
    assert cores("0::/\n", cpu_max="200000 100000") == expected


def test_without_affinity_all_cores_count(cores, monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert cores("") == 6


def test_torch_gets_no_more_threads_than_cores_and_never_more_than_it_had(monkeypatch):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(4)
        monkeypatch.setenv("OMP_NUM_THREADS", "2")
        resolve_device("cpu")
        assert torch.get_num_threads() == 2
        monkeypatch.setenv("OMP_NUM_THREADS", "4")
        resolve_device("cpu")
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
