"""What a silo must remember across crashes, in one small SQLite file: messages made and taken, notes, halts.

A message is written before it is sent and marked when the coordinator has taken it; a retry sends the same bytes.
Writes are durable when they return.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

from silo.errors import SiloError

_SCHEMA = """
CREATE TABLE IF NOT EXISTS messages (phase TEXT PRIMARY KEY, message BLOB NOT NULL, state TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS notes (key TEXT PRIMARY KEY, value TEXT NOT NULL);
"""


class Journal:
    """Messages by the digest of the record that they answer, and notes by name."""

    def __init__(self, path: Path) -> None:
        try:
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.executescript(_SCHEMA)
        except sqlite3.Error as error:
            raise SiloError(f"the journal {path} cannot be opened: {error}") from error

    def message(self, phase: str) -> bytes | None:
        """The message made for a phase, or None."""
        row = self._db.execute("SELECT message FROM messages WHERE phase = ?", (phase,)).fetchone()
        return None if row is None else bytes(row[0])

    def put_message(self, phase: str, message: bytes) -> None:
        """Remember a message before it is sent; a second one for the same phase is refused."""
        self._write("INSERT INTO messages VALUES (?, ?, 'made')", (phase, message))

    def mark(self, phase: str, state: str) -> None:
        """The coordinator's answer: `taken` or `refused`. A phase without message can be sat out (`refused`)."""
        self._write(
            "INSERT INTO messages VALUES (?, x'', ?) ON CONFLICT (phase) DO UPDATE SET state = excluded.state",
            (phase, state),
        )

    def state(self, phase: str) -> str | None:
        """`made`, `taken`, `refused`, or None."""
        row = self._db.execute("SELECT state FROM messages WHERE phase = ?", (phase,)).fetchone()
        return None if row is None else str(row[0])

    def sent(self) -> list[tuple[str, bytes]]:
        """Digest of the answered record and message, of everything that the coordinator took, in order."""
        rows = self._db.execute("SELECT phase, message FROM messages WHERE state = 'taken' ORDER BY rowid")
        return [(str(phase), bytes(message)) for phase, message in rows]

    def note(self, key: str) -> str | None:
        """A note, or None."""
        row = self._db.execute("SELECT value FROM notes WHERE key = ?", (key,)).fetchone()
        return None if row is None else str(row[0])

    def set_note(self, key: str, value: str | None) -> None:
        """Set or (None) erase a note."""
        if value is None:
            self._write("DELETE FROM notes WHERE key = ?", (key,))
        else:
            self._write("INSERT OR REPLACE INTO notes VALUES (?, ?)", (key, value))

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def _write(self, statement: str, values: tuple[object, ...]) -> None:
        try:
            self._db.execute(statement, values)
        except sqlite3.Error as error:
            raise SiloError(f"the journal cannot be written: {error}; free space and start again") from error
