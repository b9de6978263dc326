"""Every party may be killed at any point: what was acknowledged stays, and the run goes on."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from audit.errors import UnwritableLog
from audit.files import LogFile
from coordinator.blobs import Blobs
from coordinator.errors import StoreError
from coordinator.store import Store
from protos import canonical
from protos.rounds import TABLE, Phase
from protos.task import Deadlines
from silo.errors import LedgerUnusable, SiloError
from silo.journal import Journal
from silo.ledger import Ledger
from silo.workspace import Workspace
from tests.integration.bench import Bench, bench, closed, outcomes, replay
from tests.integration.federation import SILOS
from tests.integration.finds import BOOST, searching, seat_changes
from tests.integration.liars import false_tag, protecting
from tests.integration.test_lying_coordinator import FalseSum, doubles_one

PATIENT = {"deadlines": Deadlines(10**8, 10**8, 10**8, 10**8)}
LIAR = "bob"
SEARCH = (Phase.SEARCHING, Phase.FIND_CHECKING, Phase.ATTRIBUTING)
ROUND = (Phase.COMMITTING, Phase.OPENING, Phase.CHECKING, Phase.SUMMING, Phase.VERIFYING)


def in_phase(phase: Phase) -> Any:
    return lambda history: history.phase is phase


def assert_nothing_was_lost(federation: Bench, rounds: int) -> None:
    """Every acknowledged message is on record, ledgers are charged once, and log, mirror and silos agree."""
    said = [
        item
        for data in federation.service._records
        for value in canonical.loads(data)["body"].values()
        for item in (value if isinstance(value, list) else [value])
    ]
    for name, session in federation.sessions.items():
        for _, message in session.journal.sent():
            assert canonical.loads(message) in said, name
        keys = [entry.key for entry in session.desk.ledger.entries()]
        assert keys == ["counts", *(f"round-{number}" for number in range(1, rounds + 1))]
        assert session.history.chain.digest == federation.history.chain.digest
    fresh = replay(federation)
    assert fresh.chain.digest == federation.history.chain.digest
    head = LogFile(federation.directory / "log.jsonl").head()
    assert head is not None
    fresh.chain.verify_head(head)


def drive(
    federation: Bench, on_record: Callable[[], None], on_answer: Callable[[str], None], done: Callable[[], bool]
) -> set[Phase]:
    """Turns with something done after every record and every silo's answer; the phases that were seen."""
    federation.service.start()
    seen = set()
    for _ in range(300):
        while federation.service._step():
            seen.add(federation.history.phase)
            on_record()
        for name in SILOS:
            step = federation._step(name)
            if step and step.done:
                on_answer(name)
        federation.clock.advance(1)
        if done():
            return seen
    raise AssertionError(f"no end in phase {federation.history.phase.value}")


def _finished(federation: Bench) -> bool:
    return federation.history.phase is Phase.FINISHED


def test_coordinator_killed_after_every_record_and_message_finishes(tmp_path: Path) -> None:
    federation = bench(tmp_path, rounds=1, **PATIENT)
    restart = federation.restart_service
    seen = drive(federation, restart, lambda name: restart(), lambda: _finished(federation))
    federation.turn()
    assert seen >= {Phase.DEALING, Phase.CONFIRMING, Phase.COUNTING, Phase.IDLE, *ROUND}
    assert outcomes(federation.history)[0].late == ()
    assert_nothing_was_lost(federation, 1)


def test_silos_killed_after_every_record_and_answer_finish(tmp_path: Path) -> None:
    federation = bench(tmp_path, rounds=1, **PATIENT)

    def kill() -> None:
        for name in SILOS:
            federation.restart(name)

    drive(federation, kill, federation.restart, lambda: _finished(federation))
    federation.turn()
    assert outcomes(federation.history)[0].late == ()
    assert set(federation.history.round.weights) == set(SILOS)
    assert_nothing_was_lost(federation, 1)


def test_silo_killed_between_reading_and_answering_finishes(tmp_path: Path) -> None:
    federation = bench(tmp_path, rounds=1, **PATIENT)

    def read_and_kill() -> None:
        for name in SILOS:
            federation.sessions[name]._read(0.0)
            federation.restart(name)

    drive(federation, read_and_kill, lambda name: None, lambda: _finished(federation))
    federation.turn()
    assert_nothing_was_lost(federation, 1)


def test_everybody_killed_all_the_time_while_a_liar_is_traced(tmp_path: Path) -> None:
    """The phases of recheck and trace, once each: a false tag, then a false sum."""
    lie = type("False_", (FalseSum,), {"lie": staticmethod(doubles_one)})
    federation = bench(tmp_path, {LIAR: protecting(false_tag)}, rounds=1, service=lie, **PATIENT)

    def kill() -> None:
        federation.restart_service()
        for name in SILOS:
            federation.restart(name)

    seen = drive(federation, kill, federation.restart, lambda: bool(outcomes(federation.history)))
    assert seen >= {*ROUND, Phase.RECHECKING, Phase.TRACE_OPENING, Phase.TRACE_CHECKING}
    assert seen | {Phase.EMPTY, Phase.ENROLLING, Phase.FINISHED, *SEARCH} == set(TABLE)
    (void,) = outcomes(federation.history)
    assert (void.fault, set(federation.history.convicted)) == ("sum", {LIAR})
    federation.turn()
    for name in SILOS:
        assert "the sum of round 1 was false" in federation.said(name)


def test_everybody_killed_all_the_time_while_a_trigger_is_searched_found_and_attributed(tmp_path: Path) -> None:
    federation = searching(tmp_path, {LIAR: seat_changes(BOOST)}, rounds=1, **PATIENT)

    def kill() -> None:
        federation.restart_service()
        for name in SILOS:
            federation.restart(name)

    def kill_one(name: str) -> None:
        federation.restart(name)
        federation.restart_service()

    seen = drive(federation, kill, kill_one, lambda: _finished(federation))
    federation.turn()
    assert seen >= {*ROUND, *SEARCH}
    search = federation.history.search
    assert set(search.reports) == set(search.answers) == set(search.attributions) == set(SILOS)
    assert set(federation.history.convicted) == {LIAR}
    assert federation.errors == {}
    assert_nothing_was_lost(federation, 1)


@pytest.mark.parametrize("phase", [Phase.SEARCHING, Phase.ATTRIBUTING], ids=lambda phase: phase.value)
def test_silo_restored_from_an_older_copy_answers_a_search_as_before(tmp_path: Path, phase: Phase) -> None:
    """Nothing is charged and nothing is drawn at random: the same bytes again, or silence where a model is gone."""
    federation = searching(tmp_path, {LIAR: seat_changes(BOOST)}, rounds=1)
    federation.until(in_phase(Phase.SEARCHING))
    federation.sessions["ada"]._read(0.0)
    copy = _snapshot(federation, "ada")
    federation.until(in_phase(phase))
    _restore(federation, "ada", copy, ledger=False)
    history = federation.run()
    assert federation.said("ada") == ""
    assert "ada" in history.search.attributions
    assert set(history.convicted) == {LIAR}


# Faults: every write fails once


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
        if _finished(federation):
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


# Restored copies


def _snapshot(federation: Bench, name: str) -> Path:
    copy = federation.directory / f"copy-of-{name}"
    shutil.copytree(federation.directory / name, copy)
    return copy


def _restore(federation: Bench, name: str, copy: Path, *, ledger: bool) -> None:
    federation.sessions[name].close()
    target = federation.directory / name
    kept = {path.name: path.read_bytes() for path in target.glob("ledger.db*")}
    shutil.rmtree(target)
    shutil.copytree(copy, target)
    if not ledger:
        for path in target.glob("ledger.db*"):
            path.unlink()
        for file, data in kept.items():
            (target / file).write_bytes(data)
    federation.sessions[name] = federation.open_session(name)


@pytest.mark.parametrize("phase", ROUND[1:3] + ROUND[4:], ids=lambda phase: phase.value)
def test_silo_restored_from_an_older_copy_sits_out_the_open_round_and_rejoins(tmp_path: Path, phase: Phase) -> None:
    federation = bench(tmp_path, rounds=3)
    federation.until(closed(1))
    federation.sessions[LIAR]._read(0.0)
    copy = _snapshot(federation, LIAR)
    federation.until(lambda history: history.phase is phase and len(history.rounds) == 2)
    _restore(federation, LIAR, copy, ledger=False)
    history = federation.until(closed(2))
    sent = [canonical.loads(message)["body"] for message in federation.link(LIAR).sent]
    open_round = history.rounds[1]
    asked = {open_round.plan_digest, open_round.challenge_digest, open_round.openings_digest, open_round.sum_digest}
    assert not [body for body in sent if asked & set(map(str, body.values()))]
    assert outcomes(federation.history)[1].result == "adopted"
    assert LIAR in outcomes(federation.history)[1].late
    history = federation.run()
    assert LIAR in history.round.weights
    assert federation.said(LIAR) == ""
    assert federation.sessions[LIAR].workspace.has_model(history.model)


def test_ledger_restored_from_a_backup_is_refused(tmp_path: Path) -> None:
    federation = bench(tmp_path, rounds=2)
    federation.until(in_phase(Phase.COMMITTING))
    copy = _snapshot(federation, LIAR)
    federation.until(closed(1))
    _restore(federation, LIAR, copy, ledger=True)
    history = federation.run()
    assert history.round.challenge is not None
    assert history.round.challenge.late == (LIAR,)
    assert "LedgerBehind" in federation.said(LIAR)
    assert "restore the newest copy of the ledger" in federation.said(LIAR)
    assert [entry.key for entry in federation.sessions[LIAR].desk.ledger.entries()] == ["counts"]


def test_retry_after_a_lost_answer_sends_the_same_bytes(tmp_path: Path) -> None:
    federation = bench(tmp_path, rounds=1, **PATIENT)
    federation.until(in_phase(Phase.COMMITTING))
    link = federation.link(LIAR)
    real = type(link).submit

    def lost(message: bytes) -> tuple[str, ...]:
        from silo.link import Unreachable

        real(link, message)
        raise Unreachable("the answer was lost")

    link.submit = lost
    federation._step(LIAR)
    federation._step(LIAR)
    federation.restart(LIAR)
    federation._step(LIAR)
    again = federation.link(LIAR).sent
    assert len({*link.sent[-2:], *again}) == 1
    assert outcomes(federation.run())[0].result == "adopted"
    assert_nothing_was_lost(federation, 1)


def test_ciphertexts_of_a_closed_round_are_deleted_even_if_killed_at_its_close(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    federation = bench(tmp_path, rounds=1)
    federation.until(in_phase(Phase.VERIFYING))
    with monkeypatch.context() as patch:
        patch.setattr(Blobs, "clear_except", lambda blobs, digests: None)
        federation.run()
    assert len(list((tmp_path / "blobs").iterdir())) > 2
    federation.restart_service()
    history = federation.history
    left = {path.name for path in (tmp_path / "blobs").iterdir()}
    assert left == {history.genesis.task.initial_model, history.sealed}


def test_whole_directory_restored_after_its_commitment_is_withdrawn_and_rejoins(tmp_path: Path) -> None:
    """Ledger included: no receipt of the round is on record yet, so it is not behind; its second commit is refused."""
    federation = bench(tmp_path, rounds=2)
    federation.until(in_phase(Phase.COUNTING))
    federation.turn()
    federation.sessions[LIAR]._read(0.0)
    copy = _snapshot(federation, LIAR)
    federation._step(LIAR)
    assert LIAR in federation.service._pending
    _restore(federation, LIAR, copy, ledger=True)
    history = federation.until(closed(1))
    assert history.rounds[0].withdrawn == (LIAR,)
    assert LIAR not in history.rounds[0].weights
    assert "taken before and stands" in str([step.note for step in federation.progress[LIAR]])
    assert LIAR in federation.run().rounds[1].weights
    assert_nothing_was_lost(federation, 2)
