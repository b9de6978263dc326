"""A coordinator's directory: what lies where, founding it and opening it.

`coordinator.json` is written last: a directory without it is no coordinator's yet.

    coordinator.json   federation, address for silos, database
    authority.key/pem  the CA          log.key     Ed25519 key of the log      log.pub    its public key in hex
    concordat.sqlite   state           blobs/      ciphertexts and models      lock       held while serving
    log.jsonl, .head   the log for regulators, a copy of the database's        serve.json while serving
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from audit.files import LogFile
from coordinator.authority import Authority, utc_now
from coordinator.blobs import Blobs
from coordinator.errors import BadDirectory, BadTask, StoreError
from coordinator.store import Store
from crypto.errors import CryptoError
from crypto.identity import SigningKey
from protos.codec import decode, encode, unpack
from protos.errors import MalformedMessage
from protos.records import Genesis
from protos.task import Policy, Task

if TYPE_CHECKING:
    from coordinator.service import Service

CONFIG_FILE = "coordinator.json"
LOG_KEY_FILE = "log.key"
LOG_PUBLIC_FILE = "log.pub"
TASK_FILE, MODEL_FILE, ROOT_FILE = "task.json", "model.f32", "root.bin"


@dataclass(frozen=True)
class Config:
    """What `coordinator.json` says. `host` is how silos reach the coordinator; `database` an SQLAlchemy URL."""

    federation: str
    host: str
    database: str


def read_task(directory: Path) -> tuple[Task, bytes]:
    """The task and the first model that `task pack` wrote.

    Raises:
        BadTask: a file is missing, is no task, or the model is not the one that the task pins.
    """
    try:
        task = unpack(Task, (directory / TASK_FILE).read_bytes())
        model = (directory / MODEL_FILE).read_bytes()
    except OSError as error:
        raise BadTask(f"{error.filename} cannot be read: {error.strerror}: run `concordat-silo task pack`") from error
    except MalformedMessage as error:
        raise BadTask(f"{directory / TASK_FILE} is no task: {error}") from error
    if hashlib.sha256(model).hexdigest() != task.initial_model or len(model) != 4 * task.layout.size:
        raise BadTask(f"{directory / MODEL_FILE} is not the model that the task pins: pack the task again")
    return task, model


def read_root(directory: Path, task: Task) -> bytes | None:
    """The public root set that `task pack` wrote, None where the task has no search.

    Raises:
        BadTask: the file is missing or is not the one that the task pins.
    """
    if task.search is None:
        return None
    try:
        data = (directory / ROOT_FILE).read_bytes()
    except OSError as error:
        raise BadTask(f"{error.filename} cannot be read: {error.strerror}: run `concordat-silo task pack`") from error
    if hashlib.sha256(data).hexdigest() != task.search.root:
        raise BadTask(f"{directory / ROOT_FILE} is not the root set that the task pins: pack the task again")
    return data


def found(
    directory: Path,
    task: Task,
    model: bytes,
    policy: Policy,
    name: str,
    *,
    host: str,
    database: str | None = None,
    root: bytes | None = None,
) -> Genesis:
    """Make the keys and the log of a new federation `name` in `directory`.

    `root` is the public root set, owed where the task has a search.

    Raises:
        BadDirectory: something is there already, or the name is none.
        StoreError: the disk refuses; what was begun is left for inspection and refused at the next attempt.
    """
    _require_new(directory)
    authority, log_key = Authority.create(name, utc_now()), SigningKey.generate()
    genesis = Genesis(name, log_key.public, authority.digest, task, policy)
    try:
        decode(Genesis, encode(genesis))
    except MalformedMessage as error:
        raise BadDirectory(f"no federation can be founded: {error}") from error
    config = Config(name, host, database or f"sqlite:///{(directory / 'concordat.sqlite').absolute()}")
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.chmod(directory, 0o700)
        authority.save(directory)
        log_key.save(directory / LOG_KEY_FILE)
        (directory / LOG_PUBLIC_FILE).write_text(log_key.public + "\n")
        with opened_store(config) as store:
            service = _service(directory, store, log_key)
            service.found(genesis, model, root)
        _write_config(directory, config)
    except OSError as error:
        raise StoreError(f"{directory} cannot be written: {error.strerror}") from error
    except CryptoError as error:
        raise StoreError(str(error)) from error
    return genesis


def read_config(directory: Path) -> Config:
    """What `coordinator.json` says; BadDirectory if there is none."""
    path = directory / CONFIG_FILE
    try:
        return Config(**json.loads(path.read_bytes()))
    except FileNotFoundError as error:
        raise BadDirectory(f"{directory} is no coordinator's directory: run `concordat-coordinator init`") from error
    except OSError as error:
        raise BadDirectory(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, TypeError) as error:
        raise BadDirectory(f"{path} is damaged: restore it") from error


def read_log_key(directory: Path) -> SigningKey:
    """The log's private key; BadDirectory if it is missing or damaged."""
    try:
        return SigningKey.load(directory / LOG_KEY_FILE)
    except CryptoError as error:
        raise BadDirectory(str(error)) from error


@contextlib.contextmanager
def opened_store(config: Config) -> Iterator[Store]:
    """The federation's store, closed at the end."""
    store = Store(config.database)
    try:
        yield store
    finally:
        store.close()


def open_service(directory: Path, store: Store) -> Service:
    """The service of a founded directory, to be served. Hold the lock.

    Raises:
        StoreError: the database is empty or older than the log beside it, so a backup: going on would sign a second
            history, which every silo and regulator would see.
    """
    size = len(store.records())
    head = LogFile(directory / "log.jsonl").head()
    if size == 0 or (head is not None and head.head.size > size):
        signed = head.head.size if head is not None else 1
        raise StoreError(f"the database has {size} records and {signed} were signed: restore the newest copy of it")
    return _service(directory, store, read_log_key(directory))


def clock_ms() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000


def _service(directory: Path, store: Store, log_key: SigningKey) -> Service:
    from coordinator.service import Service

    return Service(store, Blobs(directory / "blobs"), log_key, clock_ms, LogFile(directory / "log.jsonl"))


def _require_new(directory: Path) -> None:
    if (directory / CONFIG_FILE).exists():
        raise BadDirectory(f"{directory} is a coordinator's directory already: choose another one")
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise BadDirectory(f"{directory} is not empty: choose another one, or empty it")


def _write_config(directory: Path, config: Config) -> None:
    temporary = directory / f"{CONFIG_FILE}.tmp"
    with temporary.open("w", encoding="utf-8") as file:
        json.dump(asdict(config), file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(directory / CONFIG_FILE)
