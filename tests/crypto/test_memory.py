"""What a process frees goes back to the operating system, wherever in the heap it lay."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc and /proc")

ROOT = Path(__file__).parents[2]
_PROGRAM = """
import numpy as np
from crypto import memory

def resident():
    return 4096 * int(open("/proc/self/statm").read().split()[1])

{first}
before = resident()
for _ in range(2):
    arrays = [np.ones(500_000) for _ in range(16)]
    last = arrays.pop()
    del arrays
print(resident() - before)
"""


def test_arrays_that_are_freed_below_one_that_is_kept_are_given_back() -> None:
    kept, untold = (_growth(first) for first in ("memory.keep_little()", "pass"))
    array = 8 * 500_000
    assert array <= kept < 2 * array
    # What makes it worth telling: without it all but one of 64 MB stay.
    assert untold > 8 * array


def _growth(first: str) -> int:
    program = [sys.executable, "-c", _PROGRAM.format(first=first)]
    return int(subprocess.run(program, capture_output=True, text=True, check=True, cwd=ROOT).stdout)
