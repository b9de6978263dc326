"""Files of a silo's directory: current model, epoch secrets, the update of the open round, and what is being fetched.

Writes are durable and atomic (temporary file, fsync, rename). Secrets and updates are readable by the owner only. What
is as large as a model goes to and from the disk in pieces: ciphertexts and sums are never in memory as a whole.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from crypto.quantise import model_digest, model_from_bytes, model_view
from crypto.ring import CHUNK_BYTES, FRESH_BYTES
from silo.errors import SiloError


@dataclass(frozen=True)
class Update:
    """What a silo made in a round: quantised update int8[d], tags, noised prototypes; the ciphertext stays on disk."""

    values: NDArray[np.int8]
    tags: bytes
    prototypes: bytes | None


@dataclass(frozen=True)
class Chunks:
    """A file in pieces of `size` bytes, one in memory at a time; may be iterated again, as a retried upload needs."""

    path: Path
    size: int

    def __iter__(self) -> Iterator[bytes]:
        with self.path.open("rb") as file:
            while chunk := file.read(self.size):
                yield chunk


class Workspace:
    """One silo's files below `directory` (mode 0700)."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    def save_model(self, model: NDArray[np.float32]) -> str:
        """Keep a model (float32[d]) under its digest, which is returned."""
        digest = model_digest(model)
        self._write(f"{digest}.f32", [model_view(model)])
        return digest

    def fetch_model(self, digest: str, pieces: Iterable[bytes], size: int) -> bool:
        """Keep the `size` parameters of a model that come in pieces; False, and nothing kept, where it is another."""
        with self._received(pieces, 4 * size, durable=True) as path:
            found = path is not None and _digest(path) == digest
            if found and path is not None:
                os.replace(path, self.directory / f"{digest}.f32")
        self._sync()
        return found

    def has_model(self, digest: str) -> bool:
        """Whether the model of that digest is here."""
        return (self.directory / f"{digest}.f32").exists()

    def load_model(self, size: int, digest: str) -> NDArray[np.float32] | None:
        """The model of that digest (float32[size]), or None where it is not here or damaged."""
        if not self.has_model(digest):
            return None
        with (self.directory / f"{digest}.f32").open("rb") as file:
            data = bytearray(os.fstat(file.fileno()).st_size)
            file.readinto(data)
        model = model_from_bytes(data, size)
        return model if model_digest(model) == digest else None

    def keep_models(self, digests: set[str]) -> None:
        """Delete all models but these."""
        for path in self.directory.glob("*.f32"):
            if path.stem not in digests:
                path.unlink()

    def save_secret(self, epoch: int, secret: bytes) -> None:
        """Keep the secrets of a key epoch that is being agreed on; the current one's stay until it begins."""
        self._write(f"epoch-{epoch}.key", [secret])

    def keep_secrets(self, epoch: int) -> None:
        """Erase the secrets of all key epochs before this one."""
        for path in self.directory.glob("epoch-*.key"):
            if int(path.stem.removeprefix("epoch-")) < epoch:
                _erase(path)

    def load_secret(self, epoch: int) -> bytes | None:
        """The secrets of a key epoch, or None."""
        path = self.directory / f"epoch-{epoch}.key"
        return path.read_bytes() if path.exists() else None

    def save_update(self, round: int, update: Update, ciphertext: Iterable[bytes]) -> None:
        """Keep everything that a commitment fixes, before it is sent."""
        for path in self.directory.glob("round-*"):
            path.unlink()
        self._write(f"round-{round}.update", [update.values.tobytes()])
        self._write(f"round-{round}.tags", [update.tags])
        self._write(f"round-{round}.prototypes", [update.prototypes or b""])
        self._write(f"round-{round}.ciphertext", ciphertext)

    def load_update(self, round: int) -> Update | None:
        """What `save_update` kept for the round, or None."""
        names = [self.directory / f"round-{round}.{part}" for part in ("update", "tags", "prototypes", "ciphertext")]
        if not all(path.exists() for path in names):
            return None
        values = np.frombuffer(names[0].read_bytes(), dtype=np.int8)
        return Update(values, names[1].read_bytes(), names[2].read_bytes() or None)

    def ciphertext(self, round: int, size: int = FRESH_BYTES) -> Chunks:
        """The round's ciphertext in chunks (or other pieces), read from disk each time they are iterated."""
        return Chunks(self.directory / f"round-{round}.ciphertext", size)

    @contextmanager
    def received(self, pieces: Iterable[bytes], chunks: int) -> Iterator[Chunks | None]:
        """Full chunks that come in pieces of any size, on disk while the context is open; nobody has judged them.

        None where there are more bytes than of so many chunks: what follows is not asked for.

        Raises:
            SiloError: the disk is full or fails; nothing is left behind.
        """
        with self._received(pieces, chunks * CHUNK_BYTES, durable=False) as path:
            yield None if path is None else Chunks(path, CHUNK_BYTES)

    @contextmanager
    def _received(self, pieces: Iterable[bytes], most: int, *, durable: bool) -> Iterator[Path | None]:
        path = self.directory / "received.tmp"
        try:
            whole = self._spool(path, pieces, most, durable=durable)
            yield path if whole else None
        finally:
            path.unlink(missing_ok=True)

    def _write(self, name: str, chunks: Iterable[bytes | memoryview]) -> None:
        path = self.directory / f"{name}.tmp"
        try:
            self._spool(path, chunks, None, durable=True)
            os.replace(path, self.directory / name)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        self._sync()

    def _spool(self, path: Path, pieces: Iterable[bytes | memoryview], most: int | None, *, durable: bool) -> bool:
        """Write what comes, at most `most` bytes; whether that was all."""
        written = 0
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                for piece in pieces:
                    written += len(piece)
                    if most is not None and written > most:
                        return False
                    file.write(piece)
                file.flush()
                if durable:
                    os.fsync(file.fileno())
        except OSError as error:
            raise SiloError(
                f"{path.with_suffix('')} cannot be written: {error.strerror}; free space and retry"
            ) from error
        return True

    def _sync(self) -> None:
        descriptor = os.open(self.directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _erase(path: Path) -> None:
    """Overwrite, then unlink: the best that a file system without copies allows."""
    with path.open("r+b") as file:
        file.write(bytes(path.stat().st_size))
        file.flush()
        os.fsync(file.fileno())
    path.unlink()
