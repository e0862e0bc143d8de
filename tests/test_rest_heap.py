"""The heap of a process that serves: what was freed goes back to the system."""

import ctypes
import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(
    not (sys.platform.startswith("linux") and hasattr(ctypes.CDLL(None), "gnu_get_libc_version")),
    reason="only glibc can be told",
)
SCRIPT = """
import ctypes, sys
if sys.argv[1] != "not bound":
    from cascade.serving.shared.heap import bound_heap
    print(bound_heap(keep_feature_maps=sys.argv[1] == "keep"))
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]

def take(size):
    block = libc.malloc(size)
    ctypes.memset(block, 1, size)
    return block

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096

start = resident()
libc.free(take(24 * 2**20))  # from now on glibc takes up to 24 MB from the heap
before = resident()
image = take(16 * 2**20)
behind = [take(2**16) for _ in range(8)]  # something small lies behind the image
libc.free(image)
print(resident() - before, before - start)
"""


def run(how, **variables):
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "LD_PRE"))}
    command = [sys.executable, "-c", SCRIPT, how]
    done = subprocess.run(
        command, env={**environment, **variables}, capture_output=True, text=True, check=True
    )
    *said, behind, kept = done.stdout.split()
    return said, int(behind), int(kept)


def test_a_freed_image_leaves_the_process_unless_the_environment_says_otherwise():
    _, unbound, _ = run("not bound")
    said, bound, kept = run("bound")
    assert said == ["True"]
    assert kept < 4e6
    assert unbound > 15e6, "this is what happens without"
    assert bound < 4e6
    own = {"MMAP_THRESHOLD_": 2**25, "TRIM_THRESHOLD_": 2**17, "ARENA_MAX": 1}
    said, behind, _ = run("bound", **{f"MALLOC_{name}": str(own[name]) for name in own})
    assert said == ["False"]
    assert behind > 15e6


def test_feature_maps_of_torch_stay_in_the_process():
    said, _, kept = run("keep")
    assert said == ["True"]
    assert kept > 20e6
