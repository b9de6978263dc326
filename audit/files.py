"""A log on disk: `log.jsonl`, one record's canonical JSON per line, and `log.head` beside it, the newest signed head.

Records are only ever appended, and each is on disk before the head that covers it; the head is replaced atomically. A
crash therefore leaves at worst a half-written last line or records that no head covers yet, and `recover` drops what
the owner does not know. One process owns a log and writes it; anybody may read it meanwhile.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from audit.errors import BrokenLog, UnreadableInput, UnwritableLog
from protos.codec import pack, unpack
from protos.errors import MalformedMessage
from protos.records import SignedHead

MAX_RECORD_BYTES = 256 * 1024 * 1024
"""Longest line that is read; a log with a longer one is refused before it fills the memory."""

_MAX_SMALL_FILE = 64 * 1024
_KEY = re.compile(r"[0-9a-f]{64}")


class LogFile:
    """The pair of files of one log.

    Args:
        path: the file of records, or a directory that holds (or will hold) `log.jsonl`.
        max_record_bytes: longest record that is accepted.
    """

    def __init__(self, path: str | Path, max_record_bytes: int = MAX_RECORD_BYTES) -> None:
        path = Path(path)
        self.path = path / "log.jsonl" if path.is_dir() else path
        self.head_path = self.path.with_suffix(".head")
        self._max = max_record_bytes

    def append(self, record: bytes, head: SignedHead | None = None) -> None:
        """Add one record's canonical bytes, then the head that covers it (None where a later one will).

        Both are on disk when this returns.

        Raises:
            UnwritableLog: the disk refused; the log is as before, but for a record that no head covers.
        """
        if b"\n" in record or not 0 < len(record) <= self._max:
            raise UnwritableLog("a record is one line of canonical JSON of bounded length")
        try:
            self._append_line(record + b"\n")
            if head is not None:
                self._write_head(head)
        except OSError as error:
            raise UnwritableLog(
                f"cannot write {self.path}: {error.strerror or error}; make room, then again"
            ) from error

    def records(self) -> Iterator[bytes]:
        """Bytes of each record in order.

        Raises:
            UnreadableInput: there is no such file or it cannot be read.
            BrokenLog: the last line is cut, or a line is longer than any record may be.
        """
        try:
            with self.path.open("rb") as file:
                yield from self._lines(file)
        except OSError as error:
            raise UnreadableInput(f"cannot read the log {self.path}: {error.strerror or error}") from error

    def head(self) -> SignedHead | None:
        """The newest signed head, None where there is no file of it. Its signature is not checked here."""
        return read_head(self.head_path) if self.head_path.exists() else None

    def recover(self, size: int) -> int:
        """After a crash keep at most the first `size` records, drop a half-written line, and say how many are left.

        A head that covers a dropped record is removed with it. An owner whose own state may be an old backup must
        compare it with `head()` first: what is dropped here was signed once.
        """
        if not self.path.exists():
            return 0
        try:
            kept = self._truncate(size)
            head = self.head()
            if head is not None and head.head.size > kept:
                self.head_path.unlink()
                _sync_directory(self.path.parent)
        except OSError as error:
            raise UnwritableLog(f"cannot repair {self.path}: {error.strerror or error}") from error
        return kept

    def _append_line(self, line: bytes) -> None:
        is_new = not self.path.exists()
        with self.path.open("ab", buffering=0) as file:
            before = file.tell()
            try:
                _write_all(file, line)
            except OSError:
                file.truncate(before)
                raise
        if is_new:
            _sync_directory(self.path.parent)

    def _write_head(self, head: SignedHead) -> None:
        temporary = self.head_path.with_suffix(".head.tmp")
        with temporary.open("wb", buffering=0) as file:
            _write_all(file, pack(head))
        temporary.replace(self.head_path)
        _sync_directory(self.head_path.parent)

    def _lines(self, file: BinaryIO) -> Iterator[bytes]:
        number = 0
        while line := file.readline(self._max + 1):
            if not line.endswith(b"\n"):
                what = f"is longer than {self._max} bytes" if len(line) > self._max else "is cut in the middle"
                raise BrokenLog(f"record {number} {what}: get another copy of the log")
            yield line[:-1]
            number += 1

    def _truncate(self, size: int) -> int:
        kept, end = 0, 0
        with self.path.open("r+b") as file:
            while kept < size and (line := file.readline(self._max + 1)).endswith(b"\n"):
                kept, end = kept + 1, end + len(line)
            file.truncate(end)
            os.fsync(file.fileno())
        return kept


def read_head(path: str | Path) -> SignedHead:
    """A signed head from a file such as `log.head`; its signature is not checked here.

    Raises:
        UnreadableInput: the file is missing or holds no canonical signed head.
    """
    data = read_at_most(path, _MAX_SMALL_FILE, "what it should be")
    try:
        return unpack(SignedHead, data.removesuffix(b"\n"))
    except MalformedMessage as error:
        raise UnreadableInput(f"{path} is no signed head: {error}") from error


def read_key(path_or_hex: str) -> str:
    """The log key (Ed25519 public key, 64 hex digits) given itself or as a file that holds it in one line.

    Raises:
        UnreadableInput: neither.
    """
    if _KEY.fullmatch(path_or_hex.lower()):
        return path_or_hex.lower()
    text = read_at_most(path_or_hex, _MAX_SMALL_FILE, "what it should be").decode("ascii", "replace").strip().lower()
    if not _KEY.fullmatch(text):
        raise UnreadableInput(f"{path_or_hex} is no log key: one line of 64 hex digits is needed")
    return text


def read_at_most(path: Path | str, most: int, what: str) -> bytes:
    """A whole file of at most so many bytes; `what` it may be stands in the message.

    Raises:
        UnreadableInput: it cannot be read or is larger.
    """
    try:
        with Path(path).open("rb") as file:
            data = file.read(most + 1)
    except (OSError, ValueError) as error:
        raise UnreadableInput(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
    if len(data) > most:
        raise UnreadableInput(f"{path} is larger than {what}")
    return data


def _write_all(file: BinaryIO, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]
    os.fsync(file.fileno())


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
