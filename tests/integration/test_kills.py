"""SIGKILL, as a power cut would: every party in every phase comes back, the run finishes, nothing is charged twice."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from audit.history import History
from tests.integration.federation import SILOS
from tests.integration.processes import Processes
from tests.integration.slow_silo import MARK
from tools.processes import wait_for

pytestmark = [pytest.mark.processes, pytest.mark.timeout(300)]

PHASE_RECORDS = ("roster", "deal-record", "epoch", "plan", "challenge", "openings", "decision", "sum")
"""Records that begin the phases in which somebody is awaited or works."""


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[Processes]:
    parties = Processes(tmp_path, rounds=len(PHASE_RECORDS))
    yield parties
    parties.close()


def _require_whole(history: History, rounds: int) -> None:
    assert len(history.rounds) == rounds
    assert all(view.outcome is not None for view in history.rounds)
    for name in SILOS:
        entries = [view.openings[name].receipt.entry for view in history.rounds if name in view.openings]
        assert entries == sorted(set(entries)), f"{name} charged a round twice"
        assert max(entries) <= rounds + 1, "one entry for the counts, one for each round"


def test_coordinator_killed_in_each_phase_comes_back_and_the_run_finishes(federation: Processes) -> None:
    federation.start()
    for number, kind in enumerate(PHASE_RECORDS):
        seen = max(number - 2, 1)
        federation.wait(lambda kinds, kind=kind, seen=seen: kinds.count(kind) >= (1 if kind in _ONCE else seen))
        federation.kill_and_restart("coordinator")
    _require_whole(federation.finish(), len(PHASE_RECORDS))


_ONCE = ("roster", "deal-record", "epoch")


def test_silo_killed_in_each_phase_comes_back_and_the_run_finishes(federation: Processes) -> None:
    federation.start()
    for number, kind in enumerate(PHASE_RECORDS):
        seen = max(number - 2, 1)
        federation.wait(lambda kinds, kind=kind, seen=seen: kinds.count(kind) >= (1 if kind in _ONCE else seen))
        federation.kill_and_restart(SILOS[number % len(SILOS)])
    history = federation.finish()
    _require_whole(history, len(PHASE_RECORDS))
    assert sum(view.adopted for view in history.rounds) >= 6


def test_silo_killed_in_the_middle_of_training_is_charged_once_and_trains_again(federation: Processes) -> None:
    federation.start(slow="bob")
    wait_for(federation.directory / "bob" / MARK, federation.parties["bob"])
    before = federation.ledger_entries("bob")
    federation.kill_and_restart("bob")
    history = federation.finish()
    assert before == ["counts", "round-1"], "the ledger is charged before the data are touched"
    expected = ["counts", *(f"round-{number}" for number in range(1, len(history.rounds) + 1))]
    assert federation.ledger_entries("bob") == expected
    assert history.round.outcome is not None
    assert "bob" in history.rounds[0].openings, "it came back within the deadline"
