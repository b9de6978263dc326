"""Attacks on a log, by name. The log is real up to its first roster; the last tests attack one of a whole run."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audit.errors import AuditError, BrokenLog, InvalidRecord, UnreadableInput
from audit.verify import history_at, verify_log
from protos import canonical
from protos.codec import encode, pack
from protos.records import Member, Record, SignedHead
from tests.audit.builders import (
    LOG_KEY,
    OTHER_KEY,
    SILOS,
    bodies,
    chain_of,
    silo_key,
    write_log,
)

LINES, CHAINS = chain_of(bodies())
HEADS = [chain.sign_head(LOG_KEY) for chain in CHAINS]
KEY = LOG_KEY.public


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log.jsonl"


def verify(path: Path, lines: list[bytes], head: SignedHead | None = HEADS[-1], *others: SignedHead) -> None:
    write_log(path, lines, head)
    verify_log(path, KEY, others)


def rechained(lines: list[bytes]) -> list[bytes]:
    """The records numbered and linked anew, as someone without the log key can."""
    result: list[bytes] = []
    previous = "0" * 64
    for number, line in enumerate(lines):
        record = Record(**canonical.loads(line))
        result.append(pack(dataclasses.replace(record, sequence=number, previous=previous)))
        previous = canonical.digest(result[-1])
    return result


def test_whole_log_verifies_and_gives_the_federation(path: Path) -> None:
    write_log(path, LINES, HEADS[-1])
    seen: list[tuple[int, int]] = []
    history = verify_log(path, KEY, HEADS, lambda done, total: seen.append((done, total)))
    assert tuple(history.members) == SILOS
    assert history.chain.digest == HEADS[-1].head.digest
    assert len(seen) == len(LINES)
    assert seen[-1] == (path.stat().st_size, path.stat().st_size)


@settings(max_examples=150, deadline=None)
@given(position=st.integers(0, sum(len(line) + 1 for line in LINES) - 1), flip=st.integers(1, 255))
def test_any_byte_changed_is_detected(tmp_path_factory: pytest.TempPathFactory, position: int, flip: int) -> None:
    path = tmp_path_factory.mktemp("log") / "log.jsonl"
    write_log(path, LINES, HEADS[-1])
    data = bytearray(path.read_bytes())
    data[position] ^= flip
    path.write_bytes(data)
    with pytest.raises(AuditError):
        verify_log(path, KEY)


@settings(max_examples=100, deadline=None)
@given(position=st.integers(0, len(pack(HEADS[-1])) - 1), flip=st.integers(1, 255))
def test_any_byte_of_the_head_changed_is_detected(
    tmp_path_factory: pytest.TempPathFactory, position: int, flip: int
) -> None:
    log = write_log(tmp_path_factory.mktemp("log") / "log.jsonl", LINES, HEADS[-1])
    data = bytearray(log.head_path.read_bytes())
    data[position] ^= flip
    log.head_path.write_bytes(data)
    with pytest.raises(AuditError):
        verify_log(log.path, KEY)


@pytest.mark.parametrize("index", range(len(LINES)))
def test_record_removed_is_detected(path: Path, index: int) -> None:
    with pytest.raises(BrokenLog):
        verify(path, LINES[:index] + LINES[index + 1 :])


@pytest.mark.parametrize("index", range(len(LINES)))
def test_record_repeated_is_detected(path: Path, index: int) -> None:
    with pytest.raises(BrokenLog):
        verify(path, LINES[: index + 1] + LINES[index:])


@pytest.mark.parametrize("index", range(len(LINES) - 1))
def test_neighbours_swapped_are_detected(path: Path, index: int) -> None:
    lines = list(LINES)
    lines[index], lines[index + 1] = lines[index + 1], lines[index]
    with pytest.raises(BrokenLog):
        verify(path, lines)


@pytest.mark.parametrize("index", range(1, len(LINES)))
def test_record_inserted_and_chain_redone_is_detected_by_the_head(path: Path, index: int) -> None:
    stranger = pack(Record(0, "0" * 64, 0, encode(Member("zoe", silo_key("zoe").public, "9" * 64))))
    with pytest.raises((BrokenLog, InvalidRecord)):
        verify(path, rechained([*LINES[:index], stranger, *LINES[index:]]))


@pytest.mark.parametrize("index", range(1, len(LINES) - 1))
def test_record_removed_and_chain_redone_is_detected(path: Path, index: int) -> None:
    with pytest.raises((BrokenLog, InvalidRecord)):
        verify(path, rechained(LINES[:index] + LINES[index + 1 :]))


@pytest.mark.parametrize("size", range(1, len(LINES)))
def test_tail_removed_is_detected_by_the_head(path: Path, size: int) -> None:
    with pytest.raises(BrokenLog, match="tail is missing"):
        verify(path, LINES[:size])


@pytest.mark.parametrize("size", range(1, len(LINES)))
def test_rollback_signed_by_the_coordinator_is_detected_by_a_silos_head(path: Path, size: int) -> None:
    verify(path, LINES[:size], HEADS[size - 1])
    with pytest.raises(BrokenLog, match="its tail is missing"):
        verify(path, LINES[:size], HEADS[size - 1], HEADS[0], HEADS[-1])


def test_fork_signed_by_the_coordinator_is_detected_by_a_silos_head(path: Path) -> None:
    items = bodies()
    items[6] = dataclasses.replace(items[6], exchange_key="9" * 64)
    lines, chains = chain_of(items)
    head = chains[-1].sign_head(LOG_KEY)
    verify(path, lines, head, *HEADS[:6])
    for forked in HEADS[6:]:
        with pytest.raises(BrokenLog, match="changed or forked"):
            verify(path, lines, head, forked)


def test_records_beyond_the_head_are_detected(path: Path) -> None:
    with pytest.raises(BrokenLog, match="the head covers 7 of 8 records"):
        verify(path, LINES, HEADS[-2])


def test_missing_head_is_detected(path: Path) -> None:
    with pytest.raises(BrokenLog, match="no head"):
        verify(path, LINES, None)


def test_head_signed_by_another_key_is_detected(path: Path) -> None:
    with pytest.raises(BrokenLog, match="not signed by the log key"):
        verify(path, LINES, CHAINS[-1].sign_head(OTHER_KEY))
    with pytest.raises(BrokenLog, match="not signed by the log key"):
        verify(path, LINES, HEADS[-1], CHAINS[-1].sign_head(OTHER_KEY))


def test_head_of_another_federation_with_the_same_key_is_detected(path: Path) -> None:
    other = chain_of(bodies(federation="elsewhere"))[1][0].sign_head(LOG_KEY)
    with pytest.raises(BrokenLog, match="federation"):
        verify(path, LINES, HEADS[-1], other)
    with pytest.raises(BrokenLog, match="federation"):
        verify(path, LINES[:1], other)


def test_whole_log_under_another_key_is_detected_by_the_key_given(path: Path) -> None:
    lines, chains = chain_of(bodies(OTHER_KEY))
    with pytest.raises(BrokenLog, match="another log key"):
        verify(path, lines, chains[-1].sign_head(OTHER_KEY))


@pytest.mark.parametrize(
    "change",
    [
        lambda line: line.replace(b":", b": ", 1),
        lambda line: b" " + line,
        lambda line: line + b"\r",
        lambda line: line.replace(b'"sequence":7', b'"sequence":7.0'),
        lambda line: line.replace(b'"sequence":7', b'"sequence":7,"sequence":7'),
        lambda line: line.replace(b'"attempt":1,', b"", 1),
        lambda line: line.replace(b"concordat/roster/v1", b"concordat/roster/v9"),
        lambda line: b"[" * 100_000,
        lambda line: b"\xff",
        lambda line: b"",
    ],
)
def test_record_that_is_not_canonical_or_of_no_known_form_is_refused(
    path: Path, change: Callable[[bytes], bytes]
) -> None:
    assert change(LINES[-1]) != LINES[-1]
    with pytest.raises((BrokenLog, InvalidRecord)):
        verify(path, [*LINES[:-1], change(LINES[-1])])


def test_record_that_breaks_the_rules_is_refused_though_signed(path: Path) -> None:
    items = bodies()
    lines, chains = chain_of([*items[:-1], dataclasses.replace(items[-1], steward="mallory")])
    with pytest.raises(InvalidRecord, match="record 7: the steward must be a member"):
        verify(path, lines, chains[-1].sign_head(LOG_KEY))


def test_empty_log_does_not_verify(path: Path) -> None:
    with pytest.raises(BrokenLog, match="empty"):
        verify(path, [])


def test_missing_log_is_unreadable(path: Path) -> None:
    with pytest.raises(UnreadableInput):
        verify_log(path, KEY)


def test_history_at_a_size_is_the_log_as_it_was(path: Path) -> None:
    write_log(path, LINES, HEADS[-1])
    assert history_at(path, 3).chain.digest == HEADS[2].head.digest
    with pytest.raises(BrokenLog, match="tail is missing"):
        history_at(path, len(LINES) + 1)
