"""Further processes that encrypt and decrypt chunks beside this one: SEAL's Python interface uses one core a process.

A helper is started from the interpreter anew (never forked, so threads and open sockets do no harm), gets the key over
a pipe (never in arguments or environment), works in memory that it shares with its parent, and ends when its parent
closes the pipe or dies. A helper that is not ready yet or fails costs time only: what it was to do is done here.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import selectors
import struct
import subprocess
import sys
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path

ENCRYPT, DECRYPT = b"e", b"d"
READY = b"r"
BLOCK = 4
"""Chunks that a helper is given at once."""
SHARED_BYTES = 1 << 20
"""Input from 0, output from the middle on."""
ORDER = struct.Struct("<cII")
_MOST = 3


class Helper:
    """One process and what it is doing."""

    def __init__(self, secret: bytes) -> None:
        descriptor = os.memfd_create("concordat-helper")
        os.ftruncate(descriptor, SHARED_BYTES)
        self._shared = mmap.mmap(descriptor, SHARED_BYTES)
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "crypto.ckks_worker", str(descriptor)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            pass_fds=[descriptor],
            env={**os.environ, "PYTHONPATH": _search_path()},
            start_new_session=True,
        )
        os.close(descriptor)
        self._doing: list[int] | None = []
        self._size = 0
        self.alive = True
        self._send(secret)
        weakref.finalize(self, _end, self._process)

    @property
    def idle(self) -> bool:
        """Whether it can be given something now."""
        return self.alive and self._doing is None

    @property
    def busy(self) -> bool:
        """Whether it was given something that is not taken yet."""
        return self.alive and bool(self._doing)

    def give(self, kind: bytes, items: Sequence[tuple[int, bytes]], size: int) -> None:
        """Have it work on numbered inputs of one length; each gives an output of `size` bytes."""
        self._shared.seek(0)
        for _, data in items:
            self._shared.write(data)
        self._doing, self._size = [number for number, _ in items], size
        self._send(ORDER.pack(kind, len(items), len(items[0][1])))

    def take(self, seconds: float | None) -> list[tuple[int, bytes]]:
        """Outputs of what it was given, by number, waiting at most `seconds` (None: until it is done or dead)."""
        if not self.alive or self._doing is None:
            return []
        stdout = self._process.stdout
        assert stdout is not None
        with selectors.DefaultSelector() as waiting:  # select() itself takes no descriptor above 1,023
            waiting.register(stdout, selectors.EVENT_READ)
            if not waiting.select(seconds):
                return []
        if os.read(stdout.fileno(), 1) != READY:
            self.alive = False
            return []
        self._shared.seek(SHARED_BYTES // 2)
        done = [(number, self._shared.read(self._size)) for number in self._doing]
        self._doing = None
        return done

    def _send(self, data: bytes) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(data)
            self._process.stdin.flush()
        except OSError:
            self.alive = False


def start(secret: bytes) -> list[Helper]:
    """As many helpers as there are further cores, at most three."""
    return [Helper(secret) for _ in range(min(_MOST, len(os.sched_getaffinity(0)) - 1))]


def run(
    helpers: Sequence[Helper], kind: bytes, inputs: Sequence[bytes], size: int, own: Callable[[bytes], bytes]
) -> list[bytes]:
    """`own` of every input, in order, of which helpers take blocks from the front and this process single ones from
    the back. What a helper died over is done here."""
    results: list[bytes | None] = [None] * len(inputs)
    first, last = 0, len(inputs)
    while first < last:
        for helper in helpers:
            _collect(helper, results, 0)
            # Less towards the end, so that nobody waits for a whole block.
            block = range(first, first + min(BLOCK, (last - first) // 2))
            if helper.idle and block:
                helper.give(kind, [(number, inputs[number]) for number in block], size)
                first = block.stop
        if first < last:
            last -= 1
            results[last] = own(inputs[last])
    for helper in helpers:
        # A helper that is still starting has been given nothing and is not waited for.
        _collect(helper, results, None if helper.busy else 0)
    return [own(data) if done is None else done for data, done in zip(inputs, results, strict=True)]


def _collect(helper: Helper, results: list[bytes | None], seconds: float | None) -> None:
    for number, data in helper.take(seconds):
        results[number] = data


def _search_path() -> str:
    # The same packages as here, whatever directory is the current one.
    root = str(Path(__file__).resolve().parents[1])
    return os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))


def _end(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    with contextlib.suppress(OSError):
        process.stdin.close()
    process.stdout.close()
    # It ends at the closed pipe, within one block; nobody waits for it longer.
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=1)
