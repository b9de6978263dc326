"""Content-addressed files: ciphertexts by the Merkle root over their chunks, everything else by SHA-256.

A file appears under its digest complete, verified and flushed, or not at all; a crash leaves a temporary file that the
next start removes.
"""

from __future__ import annotations

import errno
import hashlib
import hmac
import itertools
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from coordinator.errors import BadBlob, BadRequest, NoSuchBlob, StoreError
from crypto import merkle

PIECE = 65536
_TEMPORARY = ".part"


class Blobs:
    """The blobs in `directory`, which is made if need be. Threads may use it together; processes may not."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._numbers = itertools.count()
        with _translated():
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            for leftover in directory.glob(f"*{_TEMPORARY}"):
                leftover.unlink()

    def write(self, digest: str, chunks: Iterable[bytes], *, leaf: int | None, limit: int) -> None:
        """Store the bytes of `digest`, in pieces of any size; durable on return, and nothing left on an error.

        Args:
            digest: Merkle root over chunks of `leaf` bytes, or SHA-256 if that is None, in hex.
            chunks: the bytes; read to the end even if the blob is there already.
            leaf: bytes of a Merkle leaf, or None.
            limit: bytes allowed in all.

        Raises:
            BadBlob: if they are more than `limit`, or not those of `digest`.
            StoreError: if the disk is full or fails.
        """
        self._path(digest)
        self._store(chunks, leaf, limit, digest)

    def add(self, chunks: Iterable[bytes], *, leaf: int | None, limit: int) -> str:
        """As `write` for bytes of our own making; returns the digest, which is known only at their end."""
        return self._store(chunks, leaf, limit, None)

    def _store(self, chunks: Iterable[bytes], leaf: int | None, limit: int, expected: str | None) -> str:
        temporary = self._directory / f"{next(self._numbers)}{_TEMPORARY}"
        try:
            with _opened(temporary, "xb") as file:
                found = _digest(_spooled(chunks, file, limit, leaf or PIECE), leaf is not None)
                with _translated():
                    file.flush()
                    os.fsync(file.fileno())
            if expected is not None and not hmac.compare_digest(found, expected):
                raise BadBlob(
                    f"the uploaded bytes have the digest {found[:16]}, not {expected[:16]}: send the whole again"
                )
            with _translated():
                os.replace(temporary, self._path(found))
                self._flush_directory()
        finally:
            temporary.unlink(missing_ok=True)
        return found

    def read(self, digest: str, chunk: int = PIECE) -> Iterator[bytes]:
        """The bytes of a blob in pieces of `chunk`, the last one shorter; NoSuchBlob if it is not here."""
        path = self._path(digest)
        if not path.exists():
            raise NoSuchBlob(f"no blob {digest[:16]} here: it never came or its round is closed")
        return _pieces(_opened(path, "rb"), chunk)

    def has(self, digest: str) -> bool:
        """Whether the blob is here, complete."""
        return self._path(digest).exists()

    def remove(self, digest: str) -> None:
        """Delete a blob if it is here."""
        with _translated():
            self._path(digest).unlink(missing_ok=True)

    def clear_except(self, digests: set[str]) -> None:
        """Delete every blob that is not named."""
        with _translated():
            for path in self._directory.iterdir():
                if path.suffix != _TEMPORARY and path.name not in digests:
                    path.unlink(missing_ok=True)

    def _path(self, digest: str) -> Path:
        if re.fullmatch("[0-9a-f]{64}", digest) is None:
            raise BadRequest("a blob is named by 64 hex digits")
        return self._directory / digest

    def _flush_directory(self) -> None:
        descriptor = os.open(self._directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _opened(path: Path, mode: str) -> BinaryIO:
    with _translated():
        return cast(BinaryIO, open(path, mode))


def _digest(chunks: Iterable[bytes], is_merkle: bool) -> str:
    if is_merkle:
        return merkle.root(chunks)
    running = hashlib.sha256()
    for chunk in chunks:
        running.update(chunk)
    return running.hexdigest()


def _spooled(chunks: Iterable[bytes], file: BinaryIO, limit: int, size: int) -> Iterator[bytes]:
    """Write the bytes to `file` and pass them on cut into chunks of `size`."""
    total, pending = 0, bytearray()
    for piece in chunks:
        total += len(piece)
        if total > limit:
            raise BadBlob(f"the upload is longer than the {limit} bytes that were expected")
        with _translated():
            file.write(piece)
        pending += piece
        while len(pending) >= size:
            yield bytes(pending[:size])
            del pending[:size]
    if pending:
        yield bytes(pending)


def _pieces(file: BinaryIO, size: int) -> Iterator[bytes]:
    with file:
        while True:
            with _translated():
                piece = file.read(size)
            if not piece:
                return
            yield piece


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            text = "no space left: free space and start again; nothing acknowledged is lost"
        else:
            text = f"the blob directory failed: {error.strerror or error}"
        raise StoreError(text) from error
