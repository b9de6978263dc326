"""Files of a silo's directory: current model, epoch secrets, and the update of the open round.

Writes are durable and atomic (temporary file, fsync, rename). Secrets and updates are readable by the owner only.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from crypto.quantise import model_bytes, model_digest, model_from_bytes
from crypto.ring import FRESH_BYTES
from silo.errors import SiloError


@dataclass(frozen=True)
class Update:
    """What a silo made in a round: quantised update int16[d], tags, noised prototypes; the ciphertext stays on disk."""

    values: NDArray[np.int16]
    tags: bytes
    prototypes: bytes | None


@dataclass(frozen=True)
class Chunks:
    """A ciphertext on disk, one chunk in memory at a time; may be iterated again, as a retried upload needs."""

    path: Path

    def __iter__(self) -> Iterator[bytes]:
        with self.path.open("rb") as file:
            while chunk := file.read(FRESH_BYTES):
                yield chunk


class Workspace:
    """One silo's files below `directory` (mode 0700)."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    def save_model(self, model: NDArray[np.float32]) -> str:
        """Keep a model (float32[d]) under its digest, which is returned."""
        digest = model_digest(model)
        self._write(f"{digest}.f32", [model_bytes(model)])
        return digest

    def has_model(self, digest: str) -> bool:
        """Whether the model of that digest is here."""
        return (self.directory / f"{digest}.f32").exists()

    def load_model(self, size: int, digest: str) -> NDArray[np.float32] | None:
        """The model of that digest (float32[size]), or None where it is not here or damaged."""
        if not self.has_model(digest):
            return None
        model = model_from_bytes((self.directory / f"{digest}.f32").read_bytes(), size)
        return model if model_digest(model) == digest else None

    def keep_models(self, digests: set[str]) -> None:
        """Delete all models but these."""
        for path in self.directory.glob("*.f32"):
            if path.stem not in digests:
                path.unlink()

    def save_root(self, data: bytes) -> None:
        """Keep the public root set under its digest."""
        self._write(f"{hashlib.sha256(data).hexdigest()}.root", [data])

    def load_root(self, digest: str) -> bytes | None:
        """The root set of that digest, or None where it is not here or damaged."""
        path = self.directory / f"{digest}.root"
        data = path.read_bytes() if path.exists() else b""
        return data if hashlib.sha256(data).hexdigest() == digest else None

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
        self._write(f"round-{round}.update", [update.values.astype("<i2").tobytes()])
        self._write(f"round-{round}.tags", [update.tags])
        self._write(f"round-{round}.prototypes", [update.prototypes or b""])
        self._write(f"round-{round}.ciphertext", ciphertext)

    def load_update(self, round: int) -> Update | None:
        """What `save_update` kept for the round, or None."""
        names = [self.directory / f"round-{round}.{part}" for part in ("update", "tags", "prototypes", "ciphertext")]
        if not all(path.exists() for path in names):
            return None
        values = np.frombuffer(names[0].read_bytes(), dtype="<i2").astype(np.int16)
        return Update(values, names[1].read_bytes(), names[2].read_bytes() or None)

    def ciphertext(self, round: int) -> Chunks:
        """Chunks of the round's ciphertext, read from disk each time they are iterated."""
        return Chunks(self.directory / f"round-{round}.ciphertext")

    def _write(self, name: str, chunks: Iterable[bytes]) -> None:
        path = self.directory / f"{name}.tmp"
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                for chunk in chunks:
                    file.write(chunk)
                file.flush()
                os.fsync(file.fileno())
            os.replace(path, self.directory / name)
        except OSError as error:
            raise SiloError(
                f"{path.with_suffix('')} cannot be written: {error.strerror}; free space and retry"
            ) from error
        self._sync()

    def _sync(self) -> None:
        descriptor = os.open(self.directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _erase(path: Path) -> None:
    """Overwrite, then unlink: the best that a file system without copies allows."""
    with path.open("r+b") as file:
        file.write(bytes(path.stat().st_size))
        file.flush()
        os.fsync(file.fileno())
    path.unlink()
