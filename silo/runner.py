"""Runs one silo as a process: builds the session from its directory and takes turns until training is done."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from crypto import memory
from silo.data import Records, open_source
from silo.entropy import OsEntropy, require_operating_system
from silo.identity import load_certificates, load_enrolment, load_identity
from silo.link import BadSiloDirectory, Link

if TYPE_CHECKING:
    from audit.history import History
    from crypto.scheme import SumScheme
    from protos.task import Task
    from silo.client import GrpcLink
    from silo.desk import Desk, LocalPolicy
    from silo.entropy import Entropy
    from silo.session import Progress, Session
    from silo.trainer import Trainer
    from silo.workspace import Workspace

ROSTER_FILE = "roster.json"
RUN_FILE = "run.json"
_WAIT_S = 20.0
_PAUSE_S = 0.5


@dataclass(frozen=True)
class Work:
    """What `run` was asked to do. The ledger belongs to the data, not the directory: enrolling again resets nothing.

    `sums` names the scheme of the secure sum, the same at every silo; `features` is the file of fixed features that the
    task names, if it names one. `trainer` stands in for `silo.trainer.trainer_for`, `link` wraps the link to the
    coordinator; the command line never sets these two (the red team and the benchmark of a round do).
    """

    directory: Path
    data: Path
    ledger: Path
    policy: LocalPolicy
    adapter: str = "numpy"
    address: str | None = None
    sums: str = "ckks"
    trainer: Callable[[Task, Records, Entropy], Trainer] | None = None
    link: Callable[[Link], Link] | None = None
    features: Path | None = None


def run(work: Work, report: Callable[[Session, Progress], None]) -> bool:
    """Take turns until the last round is done or SIGTERM or Ctrl-C asks to stop.

    Args:
        work: what to run.
        report: called after every turn that brought something.

    Returns:
        Whether training is done (False: it was stopped).

    Raises:
        SiloError: says what the operator has to mend.
    """
    memory.keep_little()
    records = load_records(work)
    with locked(work.directory), _stopping() as stop, _opened(work, records) as session:
        _write_run_file(work)
        return _take_turns(session, stop, report)


def load_records(work: Work) -> Records:
    """The records, through the file of fixed features where there is one."""
    source = open_source(work.adapter, work.data)
    if work.features is None:
        return source.load()
    from silo.features import ExtractedSource, load

    return ExtractedSource(source, load(work.features)).load()


def open_link(directory: Path, address: str | None = None) -> GrpcLink:
    """The link of an enrolled silo; nothing is sent yet."""
    from silo.client import Credentials, GrpcLink

    enrolled = load_enrolment(directory)
    return GrpcLink(address or enrolled.address, enrolled.federation, Credentials(*load_certificates(directory)))


def open_session(work: Work, records: Records | None, link: Link) -> Session:
    """The session; without `records` it can read its state and resume, but not train."""
    from silo.session import Session

    return Session(work.directory, load_identity(work.directory), link, _desk_for(work, records, link))


def approved(directory: Path) -> dict[str, str]:
    """Fingerprints by name that the operator approved.

    Raises:
        BadSiloDirectory: the roster cannot be read.
    """
    path = directory / ROSTER_FILE
    if not path.exists():
        return {}
    try:
        return parse_roster(path.read_bytes())
    except (OSError, ValueError) as error:
        raise BadSiloDirectory(f"{path} cannot be read: restore it, or approve again ({error})") from error


def approve(directory: Path, fingerprints: Mapping[str, str]) -> dict[str, str]:
    """Add approvals; the same name again replaces its fingerprint. Returns all."""
    together = approved(directory) | dict(fingerprints)
    temporary = directory / f"{ROSTER_FILE}.tmp"
    try:
        temporary.write_text(json.dumps(together, indent=1, sort_keys=True), encoding="utf-8")
        os.replace(temporary, directory / ROSTER_FILE)
    except OSError as error:
        raise BadSiloDirectory(f"{directory / ROSTER_FILE} cannot be written: {error.strerror}") from error
    return together


def parse_roster(data: bytes) -> dict[str, str]:
    """Names to fingerprints from JSON; ValueError for anything else."""
    try:
        value = json.loads(data)
    except RecursionError:
        raise ValueError("the JSON is nested too deeply") from None
    if not isinstance(value, dict):
        raise ValueError("an object of names and fingerprints is needed")
    return {require_name(name): require_fingerprint(text) for name, text in value.items()}


def require_name(name: Any) -> str:
    """A silo's name, or ValueError."""
    from protos.codec import decode
    from protos.errors import MalformedMessage
    from protos.records import Member

    try:
        return decode(Member, {**_SOME_MEMBER, "name": name}).name
    except MalformedMessage:
        raise ValueError(f"{str(name)[:60]!r} is no silo's name: lower case, digits and hyphens") from None


def require_fingerprint(text: Any) -> str:
    """64 hex digits in lower case; spaces and colons between them are taken out. ValueError for anything else."""
    plain = str(text).replace(" ", "").replace(":", "").lower()
    if len(plain) != 64 or set(plain) - set("0123456789abcdef"):
        raise ValueError(f"{str(text)[:80]!r} is no fingerprint: 64 hex digits, as `status` shows them")
    return plain


def last_ledger(directory: Path) -> Path | None:
    """The ledger of the last `run`, None before the first."""
    try:
        return Path(json.loads((directory / RUN_FILE).read_bytes())["ledger"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


_SOME_MEMBER = {"kind": "concordat/member/v1", "signing_key": "0" * 64, "exchange_key": "0" * 64}


def _desk_for(work: Work, records: Records | None, link: Link) -> Callable[[History, Workspace], Desk]:
    def make(history: History, workspace: Workspace) -> Desk:
        from silo.desk import Desk
        from silo.ledger import Ledger
        from silo.searching import searcher_of
        from silo.trainer import trainer_for

        if records is None:
            raise BadSiloDirectory("no data are open: use `run`")
        entropy = OsEntropy()
        require_operating_system(entropy)
        task = history.genesis.task
        trainer = (work.trainer or trainer_for)(task, records, entropy)
        return Desk(
            identity=load_identity(work.directory),
            link=link,
            workspace=workspace,
            ledger=Ledger(work.ledger, history.genesis_digest, task.budget),
            trainer=trainer,
            labels=records.labels,
            scheme=_scheme(work.sums),
            entropy=entropy,
            approved=lambda: approved(work.directory),
            policy=work.policy,
            searcher=searcher_of(task),
        )

    return make


def _scheme(name: str) -> SumScheme:
    if name == "bfv":
        from crypto.bfv import PackedBfv

        return PackedBfv()
    from crypto.secure_sum import PackedCkks

    return PackedCkks()


def _take_turns(session: Session, stop: threading.Event, report: Callable[[Session, Progress], None]) -> bool:
    while not stop.is_set():
        progress = session.step(_WAIT_S)
        if progress.news or progress.done or progress.note or progress.finished:
            report(session, progress)
        if progress.finished:
            return True
        if progress.note and not progress.news:
            stop.wait(_PAUSE_S)
    return False


@contextmanager
def _opened(work: Work, records: Records) -> Iterator[Session]:
    link = open_link(work.directory, work.address)
    session = open_session(work, records, link if work.link is None else work.link(link))
    try:
        yield session
    finally:
        session.close()
        link.close()


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """One process per directory; the kernel drops the lock with the process."""
    try:
        descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise BadSiloDirectory(f"{directory} cannot be used: {error.strerror}: run `concordat-silo init`") from error
    try:
        _take(descriptor, directory)
        yield
    finally:
        os.close(descriptor)


def _take(descriptor: int, directory: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise BadSiloDirectory(f"another process runs the silo in {directory}: stop it first") from None


@contextmanager
def _stopping() -> Iterator[threading.Event]:
    """An event that SIGTERM sets; Ctrl-C interrupts at once, which is as safe as a kill."""
    stop = threading.Event()

    def handle(number: int, frame: FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    before = signal.signal(signal.SIGTERM, handle)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGTERM, before)


def _write_run_file(work: Work) -> None:
    temporary = work.directory / f"{RUN_FILE}.tmp"
    temporary.write_text(json.dumps({"ledger": str(work.ledger.absolute())}), encoding="utf-8")
    os.replace(temporary, work.directory / RUN_FILE)
