import errno
import os
from pathlib import Path
from typing import BinaryIO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audit import files
from audit.errors import BrokenLog, UnreadableInput, UnwritableLog
from audit.files import LogFile, read_head, read_key
from protos.records import Head, SignedHead


def head(size: int) -> SignedHead:
    return SignedHead(Head("hand-made", size, f"{size:064x}"), "ab" * 64)


@pytest.fixture
def log(tmp_path: Path) -> LogFile:
    log = LogFile(tmp_path / "log.jsonl")
    for size in (1, 2, 3):
        log.append(f'{{"record":{size}}}'.encode(), head(size))
    return log


def test_records_come_back_in_order_with_the_newest_head(log: LogFile) -> None:
    assert list(log.records()) == [b'{"record":1}', b'{"record":2}', b'{"record":3}']
    assert log.head() == head(3)
    assert read_head(log.head_path) == head(3)


def test_directory_names_the_log_inside(log: LogFile) -> None:
    assert LogFile(log.path.parent).path == log.path


def test_record_without_head_keeps_the_old_head(log: LogFile) -> None:
    log.append(b"{}")
    assert log.head() == head(3)
    assert len(list(log.records())) == 4


@pytest.mark.parametrize("record", [b"", b"{}\n", b"{\n}", b"x" * 33])
def test_record_that_is_no_bounded_line_is_refused_and_nothing_written(tmp_path: Path, record: bytes) -> None:
    log = LogFile(tmp_path / "log.jsonl", max_record_bytes=32)
    with pytest.raises(UnwritableLog):
        log.append(record, head(1))
    assert not log.path.exists()
    assert log.head() is None


def test_overlong_line_is_refused_before_it_is_read_whole(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "log.jsonl", max_record_bytes=32)
    log.path.write_bytes(b"y" * 32 + b"\n" + b"x" * 1000 + b"\n")
    records = log.records()
    assert next(records) == b"y" * 32
    with pytest.raises(BrokenLog, match="record 1 is longer than 32 bytes"):
        next(records)


def test_cut_last_line_is_an_error_for_readers(log: LogFile) -> None:
    log.path.write_bytes(log.path.read_bytes()[:-3])
    with pytest.raises(BrokenLog, match="record 2 is cut"):
        list(log.records())


def test_missing_log_is_unreadable(tmp_path: Path) -> None:
    with pytest.raises(UnreadableInput, match="No such file"):
        list(LogFile(tmp_path / "nothing.jsonl").records())


@settings(max_examples=60, deadline=None)
@given(cut=st.integers(0, 39), size=st.integers(0, 5))
def test_recover_keeps_whole_known_records_at_any_cut(
    tmp_path_factory: pytest.TempPathFactory, cut: int, size: int
) -> None:
    log = LogFile(tmp_path_factory.mktemp("log") / "log.jsonl")
    lines = [b'{"record":1}', b'{"record":2}', b'{"record":3}']
    for number, line in enumerate(lines, 1):
        log.append(line, head(number))
    log.path.write_bytes(log.path.read_bytes()[:cut])
    kept = log.recover(size)
    assert kept == min(size, cut // 13)
    assert list(log.records()) == lines[:kept]
    assert log.head() == (head(3) if kept == 3 else None)
    log.append(b"{}", head(kept + 1))
    assert list(log.records()) == [*lines[:kept], b"{}"]


def test_recover_without_a_file_keeps_nothing(tmp_path: Path) -> None:
    assert LogFile(tmp_path / "log.jsonl").recover(4) == 0


def test_recover_keeps_a_head_that_covers_known_records_only(log: LogFile) -> None:
    log.append(b"{}")
    assert log.recover(3) == 3
    assert log.head() == head(3)


def test_full_disk_leaves_records_and_head_as_they_were(log: LogFile, monkeypatch: pytest.MonkeyPatch) -> None:
    before = log.path.read_bytes()

    def half_written(file: BinaryIO, data: bytes) -> None:
        file.write(data[: len(data) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files, "_write_all", half_written)
    with pytest.raises(UnwritableLog, match="No space left"):
        log.append(b'{"record":4}', head(4))
    assert log.path.read_bytes() == before
    assert log.head() == head(3)


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_crash_between_record_and_head_leaves_the_old_head_whole(
    log: LogFile, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def crash(*arguments: object) -> None:
        raise KeyboardInterrupt

    if step == "replace":
        monkeypatch.setattr(Path, "replace", crash)
    else:
        real, calls = os.fsync, iter((False, True))
        monkeypatch.setattr(os, "fsync", lambda fd: crash() if next(calls) else real(fd))
    with pytest.raises(KeyboardInterrupt):
        log.append(b'{"record":4}', head(4))
    monkeypatch.undo()
    assert log.head() == head(3)
    assert log.recover(4) == 4


def test_head_file_of_something_else_is_unreadable(tmp_path: Path) -> None:
    path = tmp_path / "x.head"
    path.write_bytes(b'{"size":1}')
    with pytest.raises(UnreadableInput, match="no signed head"):
        read_head(path)


def test_key_is_read_from_hex_and_from_file(tmp_path: Path) -> None:
    path = tmp_path / "log.key"
    path.write_text("ab" * 32 + "\n")
    assert read_key(str(path)) == read_key("AB" * 32) == "ab" * 32


@pytest.mark.parametrize("text", ["", "ab" * 31, "ab" * 33, "zz" * 32, "ab" * 32 + "\nmore"])
def test_key_file_of_something_else_is_unreadable(tmp_path: Path, text: str) -> None:
    path = tmp_path / "log.key"
    path.write_text(text)
    with pytest.raises(UnreadableInput, match="64 hex digits"):
        read_key(str(path))


def test_missing_key_is_unreadable(tmp_path: Path) -> None:
    with pytest.raises(UnreadableInput, match="cannot read"):
        read_key(str(tmp_path / "nothing"))
