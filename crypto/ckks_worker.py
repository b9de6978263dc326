"""The process behind `crypto.helpers.Helper`: `python -m crypto.ckks_worker DESCRIPTOR`.

It reads the key's seed and then orders from its standard input, and answers each by one byte. Its standard input
ends with its parent.
"""

from __future__ import annotations

import mmap
import sys

from crypto.ckks import CkksKey
from crypto.ckks_key import SEED_BYTES
from crypto.helpers import ENCRYPT, ORDER, READY, SHARED_BYTES


def main(descriptor: int) -> None:
    """Serve until the input ends."""
    shared = mmap.mmap(descriptor, SHARED_BYTES)
    key = CkksKey.load(sys.stdin.buffer.read(SEED_BYTES))
    _answer()
    while len(order := sys.stdin.buffer.read(ORDER.size)) == ORDER.size:
        kind, count, size = ORDER.unpack(order)
        work = key.encrypt_bytes if kind == ENCRYPT else key.decrypt_bytes
        data = [shared[start : start + size] for start in range(0, count * size, size)]
        shared.seek(SHARED_BYTES // 2)
        for item in data:
            shared.write(work(item))
        _answer()


def _answer() -> None:
    sys.stdout.buffer.write(READY)
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main(int(sys.argv[1]))
