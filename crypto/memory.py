"""How a serving process holds its memory: what is freed goes back to the operating system.

glibc raises its threshold for mapping an array by itself whenever one is freed, up to 32 MB, and keeps for itself what
it takes from the heap; and it gives every few threads a heap of their own. A process that passes arrays as large as
models through many threads would keep hundreds of megabytes that nobody uses.
"""

from __future__ import annotations

import ctypes
import sys

_ARENA_MAX, _MMAP_THRESHOLD, _TRIM_THRESHOLD = -8, -3, -1
_HEAPS = 2
_MAPPED_BYTES = 1 << 20


def keep_little() -> None:
    """Map every array of a megabyte and more by itself, and share two heaps among threads; no effect without glibc."""
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for option, value in (
            (_ARENA_MAX, _HEAPS), (_MMAP_THRESHOLD, _MAPPED_BYTES), (_TRIM_THRESHOLD, _MAPPED_BYTES),
        ):  # fmt: skip
            mallopt(option, value)
