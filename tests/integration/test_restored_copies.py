"""Silos restored from older copies: nothing is charged or sent twice, and they rejoin."""

from __future__ import annotations

from pathlib import Path

import pytest

from protos import canonical
from protos.rounds import Phase
from tests.integration.bench import bench, closed, in_phase, outcomes
from tests.integration.finds import BOOST, searching, seat_changes
from tests.integration.restarts import ROUND, assert_nothing_was_lost, restore, snapshot

LIAR = "bob"


@pytest.mark.parametrize("phase", [Phase.SEARCHING, Phase.ATTRIBUTING], ids=lambda phase: phase.value)
def test_silo_restored_from_an_older_copy_answers_a_search_as_before(tmp_path: Path, phase: Phase) -> None:
    """Nothing is charged and nothing is drawn at random: the same bytes again, or silence where a model is gone."""
    federation = searching(tmp_path, {LIAR: seat_changes(BOOST)}, rounds=1)
    federation.until(in_phase(Phase.SEARCHING))
    federation.sessions["ada"]._read(0.0)
    copy = snapshot(federation, "ada")
    federation.until(in_phase(phase))
    restore(federation, "ada", copy, ledger=False)
    history = federation.run()
    assert federation.said("ada") == ""
    assert "ada" in history.search.attributions
    assert history.search.attributed is not None
    assert [(case.tables, case.agreeing) for case in history.search.attributed.cases] == [(5, 5)]


@pytest.mark.parametrize("phase", ROUND[1:3] + ROUND[4:], ids=lambda phase: phase.value)
def test_silo_restored_from_an_older_copy_sits_out_the_open_round_and_rejoins(tmp_path: Path, phase: Phase) -> None:
    federation = bench(tmp_path, rounds=3)
    federation.until(closed(1))
    federation.sessions[LIAR]._read(0.0)
    copy = snapshot(federation, LIAR)
    federation.until(lambda history: history.phase is phase and len(history.rounds) == 2)
    restore(federation, LIAR, copy, ledger=False)
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
    copy = snapshot(federation, LIAR)
    federation.until(closed(1))
    restore(federation, LIAR, copy, ledger=True)
    history = federation.run()
    assert history.round.challenge is not None
    assert history.round.challenge.late == (LIAR,)
    assert "LedgerBehind" in federation.said(LIAR)
    assert "restore the newest copy of the ledger" in federation.said(LIAR)
    assert [entry.key for entry in federation.sessions[LIAR].desk.ledger.entries()] == ["counts"]


def test_whole_directory_restored_after_its_commitment_is_withdrawn_and_rejoins(tmp_path: Path) -> None:
    """Ledger included: no receipt of the round is on record yet, so it is not behind; its second commit is refused."""
    federation = bench(tmp_path, rounds=2)
    federation.until(in_phase(Phase.COUNTING))
    federation.turn()
    federation.sessions[LIAR]._read(0.0)
    copy = snapshot(federation, LIAR)
    federation._step(LIAR)
    assert LIAR in federation.service._pending
    restore(federation, LIAR, copy, ledger=True)
    history = federation.until(closed(1))
    assert history.rounds[0].withdrawn == (LIAR,)
    assert LIAR not in history.rounds[0].weights
    assert "taken before and stands" in str([step.note for step in federation.progress[LIAR]])
    assert LIAR in federation.run().rounds[1].weights
    assert_nothing_was_lost(federation, 2)
