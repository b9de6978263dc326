"""Every party may be killed at any point: what was acknowledged stays, and the run goes on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from coordinator.blobs import Blobs
from protos.rounds import TABLE, Phase
from tests.integration.bench import Bench, bench, in_phase, outcomes
from tests.integration.federation import SILOS
from tests.integration.finds import BOOST, searching, seat_changes
from tests.integration.liars import false_tag, protecting
from tests.integration.restarts import PATIENT, ROUND, assert_nothing_was_lost, finished
from tests.integration.test_lying_coordinator import FalseSum, doubles_one

LIAR = "bob"
SEARCH = (Phase.SEARCHING, Phase.FIND_CHECKING, Phase.ATTRIBUTING)


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


def test_coordinator_killed_after_every_record_and_message_finishes(tmp_path: Path) -> None:
    federation = bench(tmp_path, rounds=1, **PATIENT)
    restart = federation.restart_service
    seen = drive(federation, restart, lambda name: restart(), lambda: finished(federation))
    federation.turn()
    assert seen >= {Phase.DEALING, Phase.CONFIRMING, Phase.COUNTING, Phase.IDLE, *ROUND}
    assert outcomes(federation.history)[0].late == ()
    assert_nothing_was_lost(federation, 1)


def test_silos_killed_after_every_record_and_answer_finish(tmp_path: Path) -> None:
    federation = bench(tmp_path, rounds=1, **PATIENT)

    def kill() -> None:
        for name in SILOS:
            federation.restart(name)

    drive(federation, kill, federation.restart, lambda: finished(federation))
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

    drive(federation, read_and_kill, lambda name: None, lambda: finished(federation))
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

    seen = drive(federation, kill, kill_one, lambda: finished(federation))
    federation.turn()
    assert seen >= {*ROUND, *SEARCH}
    search = federation.history.search
    assert set(search.reports) == set(search.answers) == set(search.attributions) == set(SILOS)
    assert search.attributed is not None
    assert [(case.tables, case.agreeing) for case in search.attributed.cases] == [(5, 5)]
    assert federation.errors == {}
    assert_nothing_was_lost(federation, 1)


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
