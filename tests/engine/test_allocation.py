"""Freed memory is kept: tensors above 32 MiB cost no page faults once there was one of their size."""

import subprocess
import sys

import pytest

LOOP = """
import resource
import numpy as np
from modeconn_cli.engine.machine import memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(8):
        np.full(2**24, 1.0, np.float32)  # 64 MiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

default = faults()
kept = memory.keep()
faults()
print(kept, default, faults())
"""


def test_a_large_array_is_mapped_once() -> None:
    found = subprocess.run([sys.executable, "-c", LOOP], capture_output=True, text=True, check=True)
    kept, default, after = found.stdout.split()
    if kept == "False":
        pytest.skip("the C library is not glibc")
    assert int(after) < int(default) / 10
