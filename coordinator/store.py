"""The coordinator's durable state in SQL: the log, what came in since its last record, tokens and small facts.

A record, its head and the end of the phase's submissions are one transaction, so that after a crash the log and the
state never disagree. SQLite runs with synchronous=FULL and a write-ahead log; any database that SQLAlchemy knows will
do. A store may be used by many threads, and by a second process for single statements (`invite`, `start`, `status`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Engine,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    create_engine,
    delete,
    event,
    func,
    insert,
    select,
    update,
)
from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlalchemy.pool import StaticPool

from coordinator.errors import StoreError, TokenRefused
from protos.codec import unpack
from protos.errors import MalformedMessage
from protos.records import Record

_metadata = MetaData()
_log = Table(
    "log",
    _metadata,
    Column("sequence", Integer, primary_key=True, autoincrement=False),
    Column("record", LargeBinary, nullable=False),
)
_submissions = Table(
    "submissions",
    _metadata,
    Column("number", Integer, primary_key=True, autoincrement=True),
    Column("silo", String(32), nullable=False),
    Column("message", LargeBinary, nullable=False),
)
_notes = Table(
    "notes", _metadata, Column("key", String(64), primary_key=True), Column("value", LargeBinary, nullable=False)
)
_tokens = Table(
    "tokens",
    _metadata,
    Column("digest", String(64), primary_key=True),
    Column("name", String(32), nullable=False),
    Column("expires_ms", BigInteger, nullable=False),
    Column("used_ms", BigInteger, nullable=True),
)
_HEAD = "head"
_BUSY_S = 30
_USED = "this invitation has been used: ask the coordinator's operator for a new one"


class Store:
    """State behind `url`; `sqlite://` keeps it in memory, for simulators and tests."""

    def __init__(self, url: str) -> None:
        self._lock = threading.RLock()
        with _translated():
            self._engine = _engine(url)
            with self._engine.begin() as connection:
                _metadata.create_all(connection)

    def records(self) -> list[bytes]:
        """All records of the log in order."""
        with self._transaction() as connection:
            return [bytes(row) for row in connection.scalars(select(_log.c.record).order_by(_log.c.sequence))]

    def head(self) -> bytes | None:
        """The packed `SignedHead` of the whole log, None while the log is empty."""
        return self.note(_HEAD)

    def append(self, record: bytes, head: bytes, *, keep_submissions: bool = False) -> None:
        """Append a record with the head after it and drop the submissions it ends: all durable on return, or nothing.

        A record that ends no phase (an enrolment) keeps them.

        Raises:
            StoreError: if it is not the next record, or cannot be written.
        """
        sequence = _sequence(record)
        with self._transaction() as connection:
            size = connection.scalar(select(func.count()).select_from(_log))
            if sequence != size:
                raise StoreError(
                    f"record {sequence} is not the next one, the log has {size}: is a second process at work?"
                )
            connection.execute(insert(_log).values(sequence=sequence, record=record))
            _put_note(connection, _HEAD, head)
            if not keep_submissions:
                connection.execute(delete(_submissions))

    def submissions(self) -> list[tuple[str, bytes]]:
        """`(silo, message)` of everything taken since the last record, in order of arrival."""
        with self._transaction() as connection:
            query = select(_submissions.c.silo, _submissions.c.message).order_by(_submissions.c.number)
            return [(silo, bytes(message)) for silo, message in connection.execute(query)]

    def add_submission(self, silo: str, message: bytes) -> None:
        """Keep a message of `silo` until the next record; durable on return."""
        with self._transaction() as connection:
            connection.execute(insert(_submissions).values(silo=silo, message=message))

    def note(self, key: str) -> bytes | None:
        """The value last set under `key`, or None."""
        with self._transaction() as connection:
            value = connection.scalar(select(_notes.c.value).where(_notes.c.key == key))
            return None if value is None else bytes(value)

    def set_note(self, key: str, value: bytes) -> None:
        """Set a small durable fact, such as the round's nonce or a request to start."""
        with self._transaction() as connection:
            _put_note(connection, key, value)

    def add_token(self, digest: str, name: str, expires_ms: int) -> None:
        """Remember an invitation for `name` by the SHA-256 of its secret."""
        with self._transaction() as connection:
            connection.execute(insert(_tokens).values(digest=digest, name=name, expires_ms=expires_ms))

    def check_token(self, digest: str, name: str, now_ms: int) -> None:
        """Raise TokenRefused if the invitation is unknown, of another name, expired or used. Changes nothing."""
        with self._transaction() as connection:
            _require_token(connection, digest, name, now_ms)

    def use_token(self, digest: str, name: str, now_ms: int) -> None:
        """Spend an invitation, once whatever the number of threads and processes that try.

        Raises:
            TokenRefused: as `check_token`; nothing has changed then.
        """
        with self._transaction() as connection:
            _require_token(connection, digest, name, now_ms)
            fresh = (_tokens.c.digest == digest) & _tokens.c.used_ms.is_(None)
            if connection.execute(update(_tokens).where(fresh).values(used_ms=now_ms)).rowcount != 1:
                raise TokenRefused(_USED)

    def close(self) -> None:
        """Release the database; the store cannot be used afterwards."""
        self._engine.dispose()

    @contextmanager
    def _transaction(self) -> Iterator[Connection]:
        # One connection at a time: SQLite has one writer anyway, and a memory database only one connection.
        with self._lock, _translated(), self._engine.begin() as connection:
            yield connection


def _require_token(connection: Connection, digest: str, name: str, now_ms: int) -> None:
    row = connection.execute(select(_tokens).where(_tokens.c.digest == digest)).one_or_none()
    if row is None:
        raise TokenRefused("this invitation is unknown here: ask the coordinator's operator for a new one")
    if row.name != name:
        raise TokenRefused(f"this invitation is for {row.name}, not for {name}")
    if now_ms >= row.expires_ms:
        raise TokenRefused("this invitation has expired: ask the coordinator's operator for a new one")
    if row.used_ms is not None:
        raise TokenRefused(_USED)


def _put_note(connection: Connection, key: str, value: bytes) -> None:
    if connection.execute(update(_notes).where(_notes.c.key == key).values(value=value)).rowcount == 0:
        connection.execute(insert(_notes).values(key=key, value=value))


def _sequence(record: bytes) -> int:
    try:
        return unpack(Record, record).sequence
    except MalformedMessage as error:
        raise StoreError(f"not a record of the log: {error}") from error


def _engine(url: str) -> Engine:
    if not url.startswith("sqlite"):
        return create_engine(url)
    options: dict[str, Any] = {
        "connect_args": {"check_same_thread": False, "timeout": _BUSY_S},
        "poolclass": StaticPool,
    }
    engine = create_engine(url, **options)
    event.listen(engine, "connect", _on_connect)
    event.listen(engine, "begin", _on_begin)
    return engine


def _on_connect(connection: Any, _record: Any) -> None:
    # The driver's own transaction handling would leave reads outside; "begin" below states it in full.
    connection.isolation_level = None
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _on_begin(connection: Connection) -> None:
    # IMMEDIATE takes the write lock first: a transaction that reads and then writes cannot fail halfway for a lock.
    connection.exec_driver_sql("BEGIN IMMEDIATE")


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except SQLAlchemyError as error:
        raise StoreError(_explain(error)) from error


def _explain(error: SQLAlchemyError) -> str:
    text = str(getattr(error, "orig", None) or error).splitlines()[0]
    hints: tuple[tuple[str, Callable[[str], bool]], ...] = (
        ("no space left: free space and start again; nothing acknowledged is lost", _says("full", "No space")),
        ("the database is locked: another process holds it; stop it and try again", _says("locked")),
        ("the database is damaged: restore the newest copy", _says("malformed", "not a database")),
        ("the database cannot be opened: check the path and its permissions", _says("unable to open", "readonly")),
    )
    if isinstance(error, IntegrityError):
        return f"the entry exists already ({text})"
    return next((f"{hint} ({text})" for hint, fits in hints if fits(text)), f"the database failed: {text}")


def _says(*words: str) -> Callable[[str], bool]:
    return lambda text: any(word in text for word in words)
