"""Helper processes: the same results in order, whatever becomes of a helper; the key stays off its arguments."""

from __future__ import annotations

import gc
import os
import resource
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from crypto import helpers, ring
from crypto.ckks import CkksKey

pytestmark = pytest.mark.processes


def wait_until_idle(helper: helpers.Helper) -> None:
    helper.take(60)
    assert helper.idle


@pytest.fixture
def many_files() -> Iterator[None]:
    """More than the 1,024 open files that select() can tell apart, as a process with many connections has them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 4096)), hard))
    opened = [os.open(os.devnull, os.O_RDONLY)]
    while opened[-1] < 1100:
        opened.append(os.dup(opened[0]))
    yield
    for one in opened:
        os.close(one)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture
def helped(seed: bytes, monkeypatch: pytest.MonkeyPatch) -> CkksKey:
    """A key with one helper that is ready."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1})
    key = CkksKey.load(seed)
    key.start_helpers()
    wait_until_idle(key._helpers[0])
    return key


def slots(count: int) -> NDArray[np.int64]:
    return np.arange(count * 4096).reshape(count, 4096)


def both_ways(key: CkksKey, count: int) -> None:
    chunks = key.encrypt_all(slots(count))
    assert len({chunk[:32] for chunk in chunks}) == count
    full = [ring.to_bytes(ring.parse_fresh(chunk)) for chunk in chunks]
    assert np.array_equal(np.rint(key.decrypt_all(full)), slots(count))


@pytest.mark.parametrize("count", [0, 1, 2, 5, 61])
def test_chunks_come_back_in_order(helped: CkksKey, count: int) -> None:
    if count:
        both_ways(helped, count)
    else:
        assert helped.encrypt_all(slots(0)) == []
        assert helped.decrypt_all([]).shape == (0, 4096)


def test_helpers_work_beside_more_open_files_than_select_takes(many_files: None, helped: CkksKey) -> None:
    assert helped._helpers[0]._process.stdout.fileno() > 1024
    both_ways(helped, 5)


def test_helper_does_a_part(helped: CkksKey, monkeypatch: pytest.MonkeyPatch) -> None:
    own = []
    monkeypatch.setattr(
        helped, "encrypt_bytes", lambda data: own.append(1) or time.sleep(0.02) or bytes(ring.FRESH_BYTES)
    )
    assert len(helped.encrypt_all(slots(40))) == 40
    assert 0 < len(own) < 30


def test_what_a_killed_helper_was_given_is_done_here(helped: CkksKey) -> None:
    helper = helped._helpers[0]
    os.kill(helper._process.pid, signal.SIGSTOP)
    helper.give(helpers.ENCRYPT, [(0, bytes(8 * 4096))], ring.FRESH_BYTES)
    os.kill(helper._process.pid, signal.SIGKILL)
    both_ways(helped, 9)
    assert not helper.alive


def test_helper_killed_at_work_costs_no_chunk(helped: CkksKey, monkeypatch: pytest.MonkeyPatch) -> None:
    real, helper = helped.encrypt_bytes, helped._helpers[0]

    def kill_then_encrypt(data: bytes) -> bytes:
        os.kill(helper._process.pid, signal.SIGKILL)
        return real(data)

    monkeypatch.setattr(helped, "encrypt_bytes", kill_then_encrypt)
    both_ways(helped, 30)
    assert not helper.alive


def test_helper_that_is_still_starting_is_not_waited_for(seed: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1})
    key = CkksKey.load(seed)
    key.start_helpers()
    os.kill(key._helpers[0]._process.pid, signal.SIGSTOP)
    both_ways(key, 6)
    os.kill(key._helpers[0]._process.pid, signal.SIGKILL)


def test_key_is_neither_in_arguments_nor_in_the_environment(helped: CkksKey, seed: bytes) -> None:
    process = Path("/proc") / str(helped._helpers[0]._process.pid)
    for name in ("cmdline", "environ"):
        shown = (process / name).read_bytes()
        assert b"crypto" in shown or name == "environ"
        for form in (seed, seed.hex().encode(), repr(seed)[2:-1].encode()):
            assert form not in shown


def test_helper_ends_with_its_key(helped: CkksKey, seed: bytes) -> None:
    key = CkksKey.load(seed)
    key.start_helpers()
    process = key._helpers[0]._process
    wait_until_idle(key._helpers[0])
    del key
    gc.collect()
    assert process.wait(timeout=10) == 0


def test_on_one_core_there_is_no_helper(seed: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0})
    assert helpers.start(seed) == []
