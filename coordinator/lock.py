"""One coordinator per directory: an advisory lock that the kernel drops with the process, whatever kills it."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path
from types import TracebackType

from coordinator.errors import AlreadyRunning, BadDirectory

_NAME = "lock"
_ATTEMPTS = 5


class Lock:
    """Held while a coordinator works on `directory`; a context manager."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / _NAME
        self._descriptor: int | None = None

    def __enter__(self) -> Lock:
        """Take the lock; AlreadyRunning names the process that has it."""
        descriptor = _open(self._path)
        if not _taken(descriptor):
            pid = _holder(descriptor)
            os.close(descriptor)
            raise AlreadyRunning(
                f"process {pid} already serves {self._path.parent}: stop it first (concordat-coordinator stop)"
            )
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        self._descriptor = descriptor
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def holder(directory: Path) -> int | None:
    """The process that serves `directory`, or None."""
    path = directory / _NAME
    if not path.exists():
        return None
    descriptor = _open(path)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _holder(descriptor)
    finally:
        os.close(descriptor)
    return None


def _taken(descriptor: int) -> bool:
    # `holder` has the lock for an instant when somebody only asks: one refusal proves nothing.
    for _ in range(_ATTEMPTS):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            time.sleep(0.05)
    return False


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise BadDirectory(f"{path} cannot be opened: {error.strerror}") from error


def _holder(descriptor: int) -> int:
    text = os.pread(descriptor, 32, 0)
    return int(text) if text.isdigit() else 0
