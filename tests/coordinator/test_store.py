"""One contract for every store, and what a crash or a full disk leaves behind."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import event

from coordinator.errors import StoreError, TokenRefused
from coordinator.store import Store
from protos.codec import pack
from protos.records import Record

TOKEN, OTHER = "1" * 64, "2" * 64


def record(sequence: int) -> bytes:
    return pack(Record(sequence, "0" * 64, 5, {"kind": "x"}))


@pytest.fixture(params=["memory", "file"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    made = Store("sqlite://" if request.param == "memory" else f"sqlite:///{tmp_path}/state.sqlite")
    yield made
    made.close()


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/state.sqlite"


def test_new_store_is_empty(store: Store) -> None:
    assert (store.records(), store.head(), store.submissions(), store.note("x")) == ([], None, [], None)


def test_records_come_back_in_order_with_the_newest_head(store: Store) -> None:
    for sequence in range(12):
        store.append(record(sequence), b"head %d" % sequence)
    assert store.records() == [record(sequence) for sequence in range(12)]
    assert store.head() == b"head 11"


@pytest.mark.parametrize("sequence", [0, 2])
def test_record_out_of_sequence_is_refused_and_changes_nothing(store: Store, sequence: int) -> None:
    store.append(record(0), b"head")
    store.add_submission("a", b"message")
    with pytest.raises(StoreError, match="is not the next one"):
        store.append(record(sequence), b"other head")
    assert (store.records(), store.head(), store.submissions()) == ([record(0)], b"head", [("a", b"message")])


def test_bytes_that_are_no_record_are_refused(store: Store) -> None:
    with pytest.raises(StoreError, match="not a record"):
        store.append(b"nonsense", b"head")
    assert store.records() == []


def test_submissions_keep_their_order_and_end_with_the_next_record(store: Store) -> None:
    messages = [("b", b"1"), ("a", b"2"), ("b", b"1")]
    for silo, message in messages:
        store.add_submission(silo, message)
    assert store.submissions() == messages
    store.append(record(0), b"head")
    assert store.submissions() == []


def test_enrolment_in_a_phase_keeps_what_silos_sent_in_it(store: Store) -> None:
    store.add_submission("a", b"message")
    store.append(record(0), b"head", keep_submissions=True)
    assert (store.records(), store.submissions()) == ([record(0)], [("a", b"message")])


def test_note_is_replaced_by_a_newer_one(store: Store) -> None:
    store.set_note("nonce", b"\x00\xff")
    store.set_note("start", b"3")
    store.set_note("nonce", b"new")
    assert (store.note("nonce"), store.note("start")) == (b"new", b"3")


@pytest.mark.parametrize(
    ("digest", "name", "now_ms", "reason"),
    [
        (OTHER, "a", 50, "unknown"),
        (TOKEN, "b", 50, "for a, not for b"),
        (TOKEN, "a", 100, "expired"),
        (TOKEN, "a", 101, "expired"),
    ],
)
def test_token_that_does_not_hold_is_refused_and_stays_unused(
    store: Store, digest: str, name: str, now_ms: int, reason: str
) -> None:
    store.add_token(TOKEN, "a", 100)
    for attempt in (store.check_token, store.use_token):
        with pytest.raises(TokenRefused, match=reason):
            attempt(digest, name, now_ms)
    store.check_token(TOKEN, "a", 99)
    store.use_token(TOKEN, "a", 99)


def test_token_is_spent_once(store: Store) -> None:
    store.add_token(TOKEN, "a", 100)
    store.use_token(TOKEN, "a", 1)
    for attempt in (store.check_token, store.use_token):
        with pytest.raises(TokenRefused, match="has been used"):
            attempt(TOKEN, "a", 2)


def test_token_is_spent_once_by_many_threads(store: Store) -> None:
    store.add_token(TOKEN, "a", 100)
    taken: list[int] = []

    def attempt(number: int) -> None:
        try:
            store.use_token(TOKEN, "a", 1)
            taken.append(number)
        except TokenRefused:
            pass

    threads = [threading.Thread(target=attempt, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(taken) == 1


def test_threads_that_write_together_lose_nothing(store: Store) -> None:
    def write(silo: str) -> None:
        for number in range(20):
            store.add_submission(silo, b"%d" % number)
            store.note("x")

    threads = [threading.Thread(target=write, args=(silo,)) for silo in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for silo in "abcd":
        assert [m for s, m in store.submissions() if s == silo] == [b"%d" % number for number in range(20)]


def test_everything_survives_closing(url: str) -> None:
    first = Store(url)
    first.append(record(0), b"head")
    first.add_submission("a", b"message")
    first.set_note("nonce", b"n")
    first.add_token(TOKEN, "a", 100)
    first.use_token(TOKEN, "a", 1)
    first.close()
    second = Store(url)
    assert (second.records(), second.head(), second.note("nonce")) == ([record(0)], b"head", b"n")
    assert second.submissions() == [("a", b"message")]
    with pytest.raises(TokenRefused, match="used"):
        second.use_token(TOKEN, "a", 1)
    second.close()


def test_second_process_may_note_while_the_first_works(url: str) -> None:
    first, second = Store(url), Store(url)
    second.set_note("start", b"1")
    first.append(record(0), b"head")
    assert (first.note("start"), second.records()) == (b"1", [record(0)])
    first.close()
    second.close()


def test_sqlite_is_durable_and_checks_foreign_keys(url: str) -> None:
    store = Store(url)
    with store._transaction() as connection:
        values = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in ("synchronous", "foreign_keys")
        }
    assert values == {"synchronous": 2, "foreign_keys": 1}
    store.close()


@pytest.mark.parametrize("statement", ["INSERT INTO log", "UPDATE notes", "DELETE FROM submissions"])
def test_append_that_fails_before_it_is_persisted_leaves_everything_as_it_was(url: str, statement: str) -> None:
    store = Store(url)
    store.append(record(0), b"head 0")
    store.add_submission("a", b"message")

    def fail(conn: object, cursor: object, text: str, *rest: object) -> None:
        if text.startswith(statement):
            raise RuntimeError("killed here")

    event.listen(store._engine, "before_cursor_execute", fail)
    with pytest.raises(RuntimeError, match="killed here"):
        store.append(record(1), b"head 1")
    event.remove(store._engine, "before_cursor_execute", fail)
    for seen in (store, Store(url)):
        assert (seen.records(), seen.head(), seen.submissions()) == ([record(0)], b"head 0", [("a", b"message")])
        seen.close()


def test_append_that_fails_after_it_is_persisted_is_there_whole_and_refused_again(url: str) -> None:
    store = Store(url)
    store.add_submission("a", b"message")
    commit = store._engine.dialect.do_commit

    def fail(connection: object) -> None:
        commit(connection)  # type: ignore[arg-type]
        raise RuntimeError("killed here")

    store._engine.dialect.do_commit = fail  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="killed here"):
        store.append(record(0), b"head 0")
    again = Store(url)
    assert (again.records(), again.head(), again.submissions()) == ([record(0)], b"head 0", [])
    with pytest.raises(StoreError, match="is not the next one"):
        again.append(record(0), b"head 0")
    again.close()


def test_full_disk_is_one_clear_error_and_what_was_acknowledged_stays(url: str) -> None:
    store = Store(url)
    store.append(record(0), b"head")
    with store._transaction() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(StoreError, match="no space left: free space and start again; nothing acknowledged is lost"):
        store.add_submission("a", bytes(1 << 20))
    assert (store.records(), store.submissions()) == ([record(0)], [])
    with store._transaction() as connection:
        connection.exec_driver_sql("PRAGMA max_page_count = 1000000")
    store.add_submission("a", bytes(1 << 20))
    store.close()


def test_file_that_is_no_database_is_one_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "state.sqlite"
    path.write_bytes(b"this is no database, but long enough to be taken for one" * 40)
    with pytest.raises(StoreError, match="damaged"):
        Store(f"sqlite:///{path}")


def test_path_that_cannot_be_opened_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cannot be opened"):
        Store(f"sqlite:///{tmp_path}/missing/state.sqlite")
