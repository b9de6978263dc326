"""The privacy ledger: what a silo's records have spent, on disk before anything is released.

Rules, in this order for every release: `charge`, compute, `store_release`, send; a retry sends `release(key)`. What is
computed under a charge never leaves before `store_release` has returned, so that a crash in between costs nothing but
work: the charge is found again, and other noise may be drawn because nobody has seen the first.

The budget belongs to the *data*, not to a key or an enrolment: the file lies in the data directory, keeps its entries
over re-enrolment and over tasks, and every entry of every task counts towards ε. Whoever deletes or restores it breaks
the promise; `require_not_behind` catches the restored backup.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from audit.accounting import epsilon
from protos import canonical, codec
from protos.errors import ProtocolError
from protos.messages import Charge, Receipt
from protos.task import MICRO, NANO, Budget
from silo.errors import BudgetExhausted, LedgerBehind, LedgerConflict, LedgerUnusable

_SCHEMA = """
CREATE TABLE IF NOT EXISTS entries (
    entry INTEGER PRIMARY KEY, task TEXT NOT NULL, key TEXT NOT NULL, charges BLOB NOT NULL,
    epsilon_micro INTEGER NOT NULL, delta_nano INTEGER NOT NULL, UNIQUE (task, key)
) STRICT;
CREATE TABLE IF NOT EXISTS releases (
    task TEXT NOT NULL, key TEXT NOT NULL, digest TEXT NOT NULL, data BLOB, PRIMARY KEY (task, key)
) STRICT;
"""

_ALL_ENTRIES = "SELECT task, key, entry, charges, epsilon_micro, delta_nano FROM entries ORDER BY entry"


@dataclass(frozen=True)
class Entry:
    """One charge in the file: its receipt, and the task and key that it was made for."""

    task: str
    key: str
    receipt: Receipt


class Ledger:
    """One task's view of the ledger file of a data directory. Safe for threads and for several processes.

    Every change is one transaction and on disk (`synchronous=FULL` with a write-ahead log) when the call returns.
    """

    def __init__(self, path: Path, run: str, budget: Budget) -> None:
        """Open or create (0600) the ledger at `path`.

        `run` tells one federation's training from another on the same data: the digest of its genesis record.

        Raises:
            LedgerUnusable: if the file cannot be opened or is no ledger.
        """
        self._path = path
        self._task = run
        self._budget = budget
        self._lock = threading.RLock()
        with self._ours(), _alone(path.parent) as directory:
            _create_private(path, directory)
            self._database = sqlite3.connect(path, timeout=30, isolation_level=None, check_same_thread=False)
            self._database.execute("PRAGMA journal_mode=WAL")
            self._database.execute("PRAGMA synchronous=FULL")
            self._database.executescript(_SCHEMA)

    def close(self) -> None:
        """Close the file; the ledger object cannot be used afterwards."""
        self._database.close()

    def charge(self, key: str, charges: Sequence[Charge]) -> Receipt:
        """Spend `charges` under `key` of this task, once.

        Args:
            key: what is released, such as `round-7` or `counts`, without a slash.
            charges: at least one; equal charges under the same key return the first receipt and spend nothing.

        Raises:
            BudgetExhausted: the budget does not cover them; nothing was written.
            LedgerConflict: other charges stand under this key already; nothing was written.
            LedgerUnusable: the file cannot be written.
        """
        if not charges or "/" in key:
            raise ValueError("a charge needs a key without a slash and at least one channel")
        with self._transaction():
            known = self._find(key)
            if known is not None:
                if known.charges != tuple(charges):
                    raise LedgerConflict(f"{key} is charged already with other noise or steps; ask the coordinator why")
                return known
            receipt = self._next_receipt(tuple(charges))
            self._database.execute(
                "INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?)",
                (receipt.entry, self._task, key, _packed(charges), receipt.epsilon_micro, receipt.delta_nano),
            )
            return receipt

    def entries(self) -> tuple[Entry, ...]:
        """All entries of the file, of all tasks, in order."""
        with self._ours():
            rows = self._database.execute(_ALL_ENTRIES)
            return tuple(Entry(task, key, _receipt(*rest)) for task, key, *rest in rows.fetchall())

    def spent(self) -> int:
        """ε of all entries, in millionths, at this task's δ."""
        return epsilon(self._all_charges(), self._budget.delta_nano)

    def require_not_behind(self, logged_entry: int) -> None:
        """Refuse to go on when the log holds a receipt of ours with a number that the file does not reach.

        Args:
            logged_entry: the highest entry number of this silo's signed receipts in the log, 0 for none.

        Raises:
            LedgerBehind: the file was restored from a backup or replaced.
        """
        last = self._last_entry()
        if last < logged_entry:
            raise LedgerBehind(
                f"the log shows this silo's ledger entry {logged_entry}, {self._path} ends at {last}: restore the "
                "newest copy of the ledger; without one these data must not be used again"
            )

    def store_release(self, key: str, data: bytes) -> None:
        """Keep what is about to be sent; after this a retry must send these bytes.

        Args:
            key: the charge's key, or that key, a slash and a part, such as `round-7/evaluation`.
            data: up to a few megabytes.

        Raises:
            LedgerConflict: nothing was charged for it, or other bytes stand under this key.
            LedgerUnusable: the file cannot be written; do not send.
        """
        digest = hashlib.sha256(data).hexdigest()
        with self._transaction():
            if self._find(key.partition("/")[0]) is None:
                raise LedgerConflict(f"{key} must be charged before it is released")
            row = self._release_row(key)
            if row is not None and row[0] != digest:
                raise LedgerConflict(f"{key} was released already with other bytes; send those again")
            if row is None:
                self._database.execute("INSERT INTO releases VALUES (?, ?, ?, ?)", (self._task, key, digest, data))

    def release(self, key: str) -> bytes | None:
        """The bytes stored under `key`, or None if none are stored.

        Raises:
            LedgerConflict: they were erased; the release must not be made again.
        """
        with self._ours():
            row = self._release_row(key)
        if row is None:
            return None
        if row[1] is None:
            raise LedgerConflict(f"{key} was released and its bytes are erased; it cannot be sent again")
        return bytes(row[1])

    def erase_release(self, key: str) -> None:
        """Forget the bytes under `key` to save space; their digest stays, so that no others can take their place."""
        with self._transaction():
            self._database.execute("UPDATE releases SET data = NULL WHERE task = ? AND key = ?", (self._task, key))

    def _next_receipt(self, charges: tuple[Charge, ...]) -> Receipt:
        before = self._all_charges()
        after = epsilon((*before, *charges), self._budget.delta_nano)
        if after > self._budget.epsilon_micro:
            spent = epsilon(before, self._budget.delta_nano)
            raise BudgetExhausted(
                f"privacy budget exhausted: epsilon {spent / MICRO:.3f} of {self._budget.epsilon_micro / MICRO:g} at "
                f"delta {self._budget.delta_nano / NANO:g} is spent, this release would make it {after / MICRO:.3f}: "
                "these data take no further part, enrol other records or agree on a larger budget"
            )
        return Receipt(self._last_entry() + 1, charges, after, self._budget.delta_nano)

    def _find(self, key: str) -> Receipt | None:
        row = self._database.execute(
            "SELECT entry, charges, epsilon_micro, delta_nano FROM entries WHERE task = ? AND key = ?",
            (self._task, key),
        ).fetchone()
        return None if row is None else _receipt(*row)

    def _release_row(self, key: str) -> tuple[str, bytes | None] | None:
        row: tuple[str, bytes | None] | None = self._database.execute(
            "SELECT digest, data FROM releases WHERE task = ? AND key = ?", (self._task, key)
        ).fetchone()
        return row

    def _all_charges(self) -> tuple[Charge, ...]:
        return tuple(charge for entry in self.entries() for charge in entry.receipt.charges)

    def _last_entry(self) -> int:
        with self._ours():
            return int(self._database.execute("SELECT COALESCE(MAX(entry), 0) FROM entries").fetchone()[0])

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """One write transaction: taken before reading, so that two processes cannot both spend the last of ε."""
        with self._lock, self._ours():
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._database.execute("COMMIT")
            except BaseException:
                if self._database.in_transaction:
                    self._database.execute("ROLLBACK")
                raise

    @contextmanager
    def _ours(self) -> Iterator[None]:
        try:
            with self._lock:
                yield
        except (sqlite3.Error, OSError, ProtocolError) as error:
            raise LedgerUnusable(
                f"privacy ledger {self._path}: {error}; nothing was released, free space or restore the file and retry"
            ) from error


@contextmanager
def _alone(directory: Path) -> Iterator[int]:
    """The directory's descriptor, locked: SQLite does not wait where two openers switch a new file to its log."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)


def _create_private(path: Path, directory: int) -> None:
    """Make the file 0600 before SQLite opens it; its journal files take over the mode.

    A file that is there is not opened: closing any descriptor of it would drop this process's other locks on it.
    """
    if path.exists():
        path.chmod(0o600)
    else:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    os.fsync(directory)  # the name of a new file must survive a power cut as its entries do


def _packed(charges: Sequence[Charge]) -> bytes:
    return canonical.dumps([codec.encode(charge) for charge in charges])


def _receipt(entry: int, charges: bytes, epsilon_micro: int, delta_nano: int) -> Receipt:
    decoded = tuple(codec.decode(Charge, item) for item in canonical.loads(charges))
    return Receipt(entry, decoded, epsilon_micro, delta_nano)
