"""Blobs appear complete and verified or not at all."""

from __future__ import annotations

import errno
import hashlib
import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.blobs import Blobs
from coordinator.errors import BadBlob, BadRequest, NoSuchBlob, StoreError

LEAF = 32800


def _leaf(data: bytes) -> bytes:
    return hashlib.sha256(b"\0" + data).digest()


def naive_root(data: bytes) -> str:
    """RFC 6962, section 2.1, by recursion over the list of chunks."""

    def tree(chunks: list[bytes]) -> bytes:
        if len(chunks) == 1:
            return _leaf(chunks[0])
        split = 1
        while split * 2 < len(chunks):
            split *= 2
        return hashlib.sha256(b"\1" + tree(chunks[:split]) + tree(chunks[split:])).digest()

    chunks = [data[start : start + LEAF] for start in range(0, len(data), LEAF)]
    return tree(chunks).hex() if chunks else hashlib.sha256().hexdigest()


@pytest.fixture
def blobs(tmp_path: Path) -> Blobs:
    return Blobs(tmp_path / "blobs")


def _files(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "blobs").iterdir())


@settings(max_examples=25, deadline=None)
@given(length=st.integers(0, 5 * LEAF), cuts=st.lists(st.integers(0, 5 * LEAF), max_size=6), tree=st.booleans())
def test_bytes_cut_anywhere_come_back_under_their_digest(
    tmp_path_factory: pytest.TempPathFactory, length: int, cuts: list[int], tree: bool
) -> None:
    blobs = Blobs(tmp_path_factory.mktemp("blobs"))
    data = (b"0123456789abcdef!" * (length // 17 + 1))[:length]
    edges = [0, *sorted(min(cut, length) for cut in cuts), length]
    pieces = [data[start:end] for start, end in itertools.pairwise(edges)]
    digest = naive_root(data) if tree else hashlib.sha256(data).hexdigest()
    blobs.write(digest, pieces, leaf=LEAF if tree else None, limit=length)
    assert b"".join(blobs.read(digest)) == data
    assert all(len(piece) == 1000 for piece in list(blobs.read(digest, 1000))[:-1])


@pytest.mark.parametrize("tree", [False, True])
def test_wrong_digest_is_refused_and_leaves_nothing(blobs: Blobs, tmp_path: Path, tree: bool) -> None:
    digest = naive_root(b"x" * 70000) if tree else hashlib.sha256(b"x" * 70000).hexdigest()
    with pytest.raises(BadBlob, match="send the whole again"):
        blobs.write(digest, [b"x" * 69999 + b"y"], leaf=LEAF if tree else None, limit=70000)
    assert (_files(tmp_path), blobs.has(digest)) == ([], False)


def test_digest_of_the_other_kind_is_refused(blobs: Blobs) -> None:
    data = b"x" * (2 * LEAF)
    with pytest.raises(BadBlob):
        blobs.write(naive_root(data), [data], leaf=None, limit=len(data))


def test_one_byte_too_long_is_refused_before_the_rest_is_read(blobs: Blobs, tmp_path: Path) -> None:
    def endless() -> Iterator[bytes]:
        yield b"x" * 10
        yield b"y"
        raise AssertionError("read on beyond the limit")

    with pytest.raises(BadBlob, match="longer than the 10 bytes"):
        blobs.write(hashlib.sha256(b"x" * 10).hexdigest(), endless(), leaf=None, limit=10)
    assert _files(tmp_path) == []


def test_upload_that_breaks_off_leaves_nothing(blobs: Blobs, tmp_path: Path) -> None:
    def broken() -> Iterator[bytes]:
        yield b"x"
        raise ConnectionError("gone")

    with pytest.raises(ConnectionError, match="gone"):
        blobs.write("0" * 64, broken(), leaf=None, limit=10)
    assert _files(tmp_path) == []


def test_leftover_of_a_crash_is_no_blob_and_goes_at_the_next_start(blobs: Blobs, tmp_path: Path) -> None:
    digest = hashlib.sha256(b"whole").hexdigest()
    blobs.write(digest, [b"whole"], leaf=None, limit=5)
    (tmp_path / "blobs" / f"{'1' * 64}.0.part").write_bytes(b"half")
    assert not blobs.has("1" * 64)
    again = Blobs(tmp_path / "blobs")
    assert _files(tmp_path) == [digest]
    assert b"".join(again.read(digest)) == b"whole"


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_failure_before_the_rename_leaves_no_blob(
    blobs: Blobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def fail(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(StoreError, match="no space left: free space and start again; nothing acknowledged is lost"):
        blobs.write(hashlib.sha256(b"x").hexdigest(), [b"x"], leaf=None, limit=1)
    monkeypatch.undo()
    assert _files(tmp_path) == []
    blobs.write(hashlib.sha256(b"x").hexdigest(), [b"x"], leaf=None, limit=1)


def test_failure_after_the_rename_leaves_the_whole_blob(
    blobs: Blobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = hashlib.sha256(b"x").hexdigest()

    def fail(self: Blobs) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(Blobs, "_flush_directory", fail)
    with pytest.raises(StoreError, match="Input/output error"):
        blobs.write(digest, [b"x"], leaf=None, limit=1)
    assert _files(tmp_path) == [digest]
    assert b"".join(blobs.read(digest)) == b"x"


def test_missing_blob_is_told_at_once(blobs: Blobs) -> None:
    with pytest.raises(NoSuchBlob, match="no blob 0000"):
        blobs.read("0" * 64)


@pytest.mark.parametrize("name", ["../../etc/passwd", "", "0" * 63, "0" * 64 + "\n", "A" * 64])
def test_name_that_is_no_digest_is_refused(blobs: Blobs, name: str) -> None:
    for attempt in (blobs.read, blobs.has, blobs.remove):
        with pytest.raises(BadRequest):
            attempt(name)


def test_removing_keeps_the_others(blobs: Blobs, tmp_path: Path) -> None:
    digests = {}
    for data in (b"a", b"b", b"c"):
        digests[data] = hashlib.sha256(data).hexdigest()
        blobs.write(digests[data], [data], leaf=None, limit=1)
    blobs.remove(digests[b"a"])
    blobs.remove(digests[b"a"])
    assert _files(tmp_path) == sorted([digests[b"b"], digests[b"c"]])
    blobs.clear_except({digests[b"c"], "0" * 64})
    assert _files(tmp_path) == [digests[b"c"]]
