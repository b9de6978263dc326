"""Searches in whole federations: found, confirmed, attributed, answered, and what each liar gains."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from protos.rounds import Phase
from tests.integration.bench import replay
from tests.integration.federation import SILOS
from tests.integration.finds import BOOST, searching, seat_changes, trigger

LIAR = "bob"
HONEST = tuple(silo for silo in SILOS if silo != LIAR)


def test_honest_federation_searches_after_odd_rounds_and_the_last_and_releases(tmp_path: Path) -> None:
    federation = searching(tmp_path, rounds=4)
    history = federation.run()
    assert [view.search.round for view in history.searches] == [1, 3, 4]
    assert all(view.clean and set(view.reports) == set(SILOS) for view in history.searches)
    assert (history.triggers, history.convicted) == ((), {})
    assert federation.errors == {}
    assert replay(federation).phase is Phase.FINISHED


def test_poisoner_is_found_convicted_and_its_trigger_is_trained_against(tmp_path: Path) -> None:
    said: list[Any] = []
    federation = searching(tmp_path, {LIAR: seat_changes(BOOST), "ada": seat_changes(said=said)}, rounds=3)
    history = federation.run()
    first = history.searches[0]
    assert set(first.reporters(first.confirmed[0].find)) == set(SILOS)
    assert history.triggers == (trigger(),)
    assert set(history.convicted) == {LIAR}
    assert "under a trigger: z = " in history.convicted[LIAR]
    assert LIAR in history.rounds[0].weights
    assert LIAR not in history.rounds[1].plan.silos
    assert said == [(), (trigger(),), (trigger(),)]
    assert federation.errors == {}
    assert replay(federation).chain.digest == history.chain.digest
