"""What is asked of the C library's allocator; that it obeys is measured by `tests.bench.serving`."""

from __future__ import annotations

import subprocess
import sys

import pytest

from agent.serving.models import allocator

_PROGRAM = """
import threading
from agent.serving.models import allocator

def anonymous():
    return next(int(line.split()[1]) for line in open("/proc/self/smaps_rollup") if line.startswith("Anonymous:"))

allocator.keep_little()
kept = [bytearray(1000) for _ in range(40_000)]
much = anonymous()
del kept
allocator.give_back()
print(much - anonymous())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the kernel's figures are Linux's")
def test_memory_that_is_free_goes_back_to_the_system() -> None:
    run = subprocess.run([sys.executable, "-c", _PROGRAM], check=True, capture_output=True, text=True, timeout=30)
    assert int(run.stdout) > 20_000


def test_asking_again_is_harmless() -> None:
    allocator.give_back()
    allocator.give_back()
