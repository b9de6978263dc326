"""Every write of every party fails once, and disks are full: one clear error, and the run goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from audit.errors import UnwritableLog
from audit.files import LogFile
from coordinator.blobs import Blobs
from coordinator.errors import StoreError
from coordinator.store import Store
from protos import canonical
from protos.rounds import Phase
from silo.errors import LedgerUnusable, SiloError
from silo.journal import Journal
from silo.ledger import Ledger
from silo.workspace import Workspace
from tests.integration.bench import Bench, bench, in_phase, outcomes, replay
from tests.integration.federation import SILOS
from tests.integration.restarts import PATIENT, assert_nothing_was_lost, finished

LIAR = "bob"


class Faults:
    """Makes every write of a kind fail once for each thing written, before or after it is persistent."""

    def __init__(self, after: bool) -> None:
        self.after, self.armed = after, True
        self.raised: dict[str, int] = {}
        self._seen: set[Any] = set()

    def wrap(self, patch: pytest.MonkeyPatch, cls: Any, method: str, key: Any, error: type[Exception]) -> None:
        real = getattr(cls, method)
        name = f"{cls.__name__}.{method}"

        def failing(this: Any, *arguments: Any, **rest: Any) -> Any:
            thing = (name, key(this, *arguments))
            first = self.armed and thing not in self._seen
            self._seen.add(thing)
            if first and not self.after:
                self._raise(name, error)
            result = real(this, *arguments, **rest)
            if first:
                self._raise(name, error)
            return result

        patch.setattr(cls, method, failing)

    def _raise(self, name: str, error: type[Exception]) -> None:
        self.raised[name] = self.raised.get(name, 0) + 1
        raise error("no space left on device")


WRITES: list[tuple[Any, str, Any, type[Exception]]] = [
    (Store, "append", lambda store, record, *rest: canonical.loads(record)["sequence"], StoreError),
    (Store, "add_submission", lambda store, silo, message: (silo, message), StoreError),
    (Store, "set_note", lambda store, key, value: key, StoreError),
    (Blobs, "write", lambda blobs, digest, *rest: digest, StoreError),
    (Blobs, "clear_except", lambda blobs, digests: str(sorted(digests)), StoreError),
    (LogFile, "append", lambda log, record, *rest: (log.path, canonical.loads(record)["sequence"]), UnwritableLog),
    (Journal, "put_message", lambda journal, phase, message: (_file(journal), phase), SiloError),
    (Journal, "mark", lambda journal, phase, state: (_file(journal), phase), SiloError),
    (Workspace, "_write", lambda space, name, chunks: (space.directory, name), SiloError),
    (Ledger, "charge", lambda ledger, key, charges: (ledger._path, key), LedgerUnusable),
    (Ledger, "store_release", lambda ledger, key, data: (ledger._path, key), LedgerUnusable),
]


def _file(journal: Journal) -> str:
    return str(journal._db.execute("PRAGMA database_list").fetchone()[2])


@pytest.fixture(params=["before", "after"])
def faults(request: pytest.FixtureRequest) -> Faults:
    return Faults(after=request.param == "after")


@pytest.mark.parametrize("killed", [False, True], ids=["goes on", "is killed"])
def test_every_write_fails_once_and_the_run_finishes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, faults: Faults, killed: bool
) -> None:
    federation = bench(tmp_path, rounds=1, **PATIENT)
    federation.service.start()
    for cls, method, key, error in WRITES:
        faults.wrap(monkeypatch, cls, method, key, error)
    monkeypatch.setattr(federation.clock, "advance", lambda milliseconds: None)
    for _ in range(400):
        broken = {name: len(errors) for name, errors in federation.errors.items()}
        federation.turn()
        for name, errors in federation.errors.items() if killed else ():
            if len(errors) > broken.get(name, 0):
                _kill(federation, name)
        federation.clock.now_ms += 1
        if finished(federation):
            break
    faults.armed = False
    federation.turns(3)
    assert set(faults.raised) == {f"{cls.__name__}.{method}" for cls, method, *_ in WRITES}
    assert outcomes(federation.history)[0].result == "adopted"
    assert outcomes(federation.history)[0].late == ()
    assert set(federation.history.round.weights) == set(SILOS)
    for session in federation.sessions.values():
        assert session.workspace.has_model(federation.history.model)
    assert_nothing_was_lost(federation, 1)
    assert not any("Halted" in federation.said(name) for name in SILOS)


def _kill(federation: Bench, name: str) -> None:
    for _ in range(50):
        try:
            if name == "coordinator":
                federation.restart_service()
            else:
                federation.restart(name)
            return
        except (SiloError, StoreError):
            continue
    raise AssertionError(f"{name} does not come back")


def test_disk_full_at_the_coordinator_is_one_error_and_changes_no_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    federation = bench(tmp_path, rounds=1)
    federation.until(in_phase(Phase.OPENING))
    size = federation.history.chain.size

    def full(*arguments: Any, **rest: Any) -> None:
        raise StoreError("no space left: free space and start again; nothing acknowledged is lost")

    with monkeypatch.context() as patch:
        patch.setattr(Store, "append", full)
        federation.turns(3)
        assert len(federation.service.tail("ada", 0)[0]) == size
        assert replay(federation).chain.size == size
    assert "no space left" in federation.said("coordinator")
    history = federation.run()
    assert outcomes(history)[0].result == "adopted"
    assert set(history.round.weights) == set(SILOS)


def test_disk_full_at_a_silo_does_not_accuse_the_coordinator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    federation = bench(tmp_path, rounds=1)
    federation.until(in_phase(Phase.OPENING))
    real = LogFile.append

    def full(log: LogFile, *arguments: Any) -> None:
        if log.path.parent.name == LIAR:
            raise UnwritableLog("cannot write the log: no space left; make room, then again")
        real(log, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(LogFile, "append", full)
        federation.turn()
    assert "no space left" in federation.said(LIAR)
    assert "Halted" not in federation.said(LIAR)
    history = federation.run()
    assert outcomes(history)[0].result == "adopted"
    assert LIAR in history.round.weights
