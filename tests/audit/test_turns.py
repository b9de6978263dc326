"""Whose turn it is in each phase, read off a real run in which every phase occurs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from audit import turns, votes
from audit.files import LogFile
from audit.history import History
from protos.rounds import TABLE, Phase
from tests.integration.bench import bench, outcomes
from tests.integration.federation import SILOS
from tests.integration.liars import false_tag, protecting
from tests.integration.test_lying_coordinator import FalseSum, doubles_one

pytestmark = pytest.mark.integration

LIAR = "bob"
HONEST = tuple(name for name in SILOS if name != LIAR)


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """The log of a round with a false tag, a recheck, a false sum and a trace."""
    lie = type("False_", (FalseSum,), {"lie": staticmethod(doubles_one)})
    directory: Path = tmp_path_factory.mktemp("turns")
    federation = bench(directory, {LIAR: protecting(false_tag)}, rounds=1, service=lie)
    federation.until(lambda history: bool(outcomes(history)))
    federation.close()
    return list(LogFile(directory / "log.jsonl").records())


def histories(records: list[bytes]) -> Iterator[History]:
    history = History()
    yield history
    for data in records:
        history.apply(data)
        yield history


def at(records: list[bytes], phase: Phase) -> History:
    return next(history for history in histories(records) if history.phase is phase)


AWAITED = {
    Phase.EMPTY: (), Phase.ENROLLING: (), Phase.DEALING: ("ada",), Phase.CONFIRMING: SILOS, Phase.COUNTING: SILOS,
    Phase.IDLE: (), Phase.COMMITTING: SILOS, Phase.OPENING: SILOS, Phase.CHECKING: SILOS, Phase.SUMMING: (),
    Phase.VERIFYING: SILOS, Phase.TRACE_OPENING: HONEST, Phase.TRACE_CHECKING: HONEST,
}  # fmt: skip


@pytest.mark.parametrize("phase", AWAITED, ids=lambda phase: phase.value)
def test_phase_awaits_exactly_these(records: list[bytes], phase: Phase) -> None:
    history = at(records, phase)
    if phase is Phase.CHECKING:
        drawn = votes.duties(history.round.seed, SILOS)
        assert turns.awaited(history) == tuple(sorted({name for checkers in drawn.values() for name in checkers}))
    else:
        assert turns.awaited(history) == AWAITED[phase]


def test_recheck_asks_everybody_about_others_only(records: list[bytes]) -> None:
    history = at(records, Phase.RECHECKING)
    assert history.round.recheck is not None
    assert history.round.recheck.subjects == (LIAR,)
    assert turns.awaited(history) == HONEST
    assert turns.subjects(history, LIAR) == ()
    assert all(turns.subjects(history, name) == (LIAR,) for name in HONEST)


def test_checkers_are_asked_about_the_silos_that_they_were_drawn_for(records: list[bytes]) -> None:
    history = at(records, Phase.CHECKING)
    drawn = votes.duties(history.round.seed, SILOS)
    for name in SILOS:
        assert turns.subjects(history, name) == tuple(sorted(s for s, checkers in drawn.items() if name in checkers))
    assert turns.asking_record(history) == history.round.openings_digest


def test_trace_asks_everybody_about_all_other_retained(records: list[bytes]) -> None:
    history = at(records, Phase.TRACE_CHECKING)
    for name in HONEST:
        assert turns.subjects(history, name) == tuple(silo for silo in HONEST if silo != name)
    assert turns.asking_record(history) == history.round.trace_openings_digest


def test_nobody_is_asked_outside_the_checking_phases(records: list[bytes]) -> None:
    seen = set()
    for history in histories(records):
        seen.add(history.phase)
        checking = history.phase in (Phase.CHECKING, Phase.RECHECKING, Phase.TRACE_CHECKING)
        if history.rounds:
            assert (turns.asking_record(history) != "") == checking
        if history.rounds and not checking:
            assert all(turns.subjects(history, name) == () for name in SILOS)
    assert seen == set(TABLE) - {Phase.FINISHED, Phase.SEARCHING, Phase.FIND_CHECKING, Phase.ATTRIBUTING}


def test_deadline_is_the_policys_for_each_phase_that_awaits(records: list[bytes]) -> None:
    expected = {Phase.COMMITTING: 60_000, Phase.COUNTING: 60_000}
    for history in histories(records):
        if history.phase is not Phase.EMPTY:
            awaits = bool(TABLE[history.phase].awaits)
            assert turns.deadline_ms(history) == (expected.get(history.phase, 30_000) if awaits else None)
