"""A referee's word in whole federations: what it decides against a majority of liars, and what it cannot do alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from audit import turns
from audit.certificate import certify
from audit.files import LogFile
from audit.findings import search_facts, support
from audit.history import History
from protos.codec import digest_of
from protos.rounds import Phase
from protos.task import MICRO
from silo.link import BadSiloDirectory
from silo.overview import _releasable
from tests.integration.bench import in_phase, replay
from tests.integration.finds import BOOST, Changed, denying, searching, seat_changes, trigger
from tests.integration.framing import Framing

LIARS = ("bob", "cyd", "dan")
REFEREE = "eve"


def agreeing(history: History) -> list[tuple[int, int]]:
    """(tables, agreeing) of the last search's cases."""
    assert history.search.attributed is not None
    return [(case.tables, case.agreeing) for case in history.search.attributed.cases]


def test_majority_that_denies_a_find_is_convicted_of_it(tmp_path: Path) -> None:
    federation = searching(tmp_path, {name: denying(BOOST / 2) for name in LIARS}, rounds=5, referee=REFEREE)
    history = federation.run()
    (found,) = history.searches[0].confirmed
    assert (found.yes, found.no, found.success_micro) == (2, 3, MICRO)
    assert history.triggers == (trigger(),)
    assert set(history.convicted) == set(LIARS)
    assert federation.errors == {}
    assert replay(federation).chain.digest == history.chain.digest
    facts = search_facts(history)[0]
    assert support(facts, facts.finds[0]).startswith(f"success 100% by referee {REFEREE}; borne out by 2 silos, not")
    head = LogFile(federation.directory / "log.jsonl").head()
    assert head is not None
    (clause,) = [clause for clause in certify(history, head).clauses if clause.name == "search"]
    assert f" finds by the word of {REFEREE}; " in clause.detail


def test_majority_of_lying_tables_frames_nobody_and_clears_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Framing(monkeypatch, LIARS, "ada")
    federation = searching(tmp_path, {name: seat_changes(BOOST) for name in LIARS}, rounds=5, referee=REFEREE)
    history = federation.until(lambda state: len(state.searches) == 3 and state.search.closed)
    assert agreeing(history) == [(5, 2)]
    assert set(history.convicted) == set(LIARS)
    assert not set(federation.errors) & {"ada", REFEREE}
    shares = {part.silo: part.contributions for part in search_facts(history)[-1].finds[0].parts}
    assert max(one.sigma_micro for one in shares["ada"]) < min(one.sigma_micro for one in shares["bob"])


def test_referee_alone_confirms_nothing(tmp_path: Path) -> None:
    lie = Changed(search=lambda model, root, suspected: (trigger(0),), success=lambda model, root, trigger: MICRO)
    federation = searching(tmp_path, {REFEREE: seat_changes(searcher=lambda task: lie)}, rounds=1, referee=REFEREE)
    history = federation.run()
    (search,) = history.searches
    assert search.reporters(digest_of(trigger(0))) == (REFEREE,)
    assert search.clean
    assert (history.triggers, history.convicted) == ((), {})


def test_table_of_the_referee_alone_convicts_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Framing(monkeypatch, (REFEREE,), "ada")
    federation = searching(tmp_path, {"bob": seat_changes(BOOST)}, rounds=5, referee=REFEREE)
    history = federation.run()
    assert agreeing(history) == [(5, 1)]
    assert history.convicted == {}
    assert history.triggers == (trigger(),)


def test_find_that_the_referee_denies_is_not_confirmed_and_no_silo_is_kept_from_its_own_word(tmp_path: Path) -> None:
    said: list[Any] = []
    seats = {"bob": seat_changes(BOOST), REFEREE: denying(0.0), "ada": seat_changes(said=said)}
    history = searching(tmp_path, seats, rounds=2, referee=REFEREE).run()
    assert (history.triggers, history.convicted) == ((), {})
    assert said == [(), (trigger(),)]
    with pytest.raises(BadSiloDirectory, match="that the others deny"):
        _releasable(history, "ada")


def test_where_the_referee_is_silent_most_silos_decide(tmp_path: Path) -> None:
    federation = searching(tmp_path, {"bob": seat_changes(BOOST)}, rounds=1, referee=REFEREE)
    federation.until(in_phase(Phase.FIND_CHECKING))
    federation.link(REFEREE).down = True
    history = federation.until(lambda state: state.search.closed)
    (found,) = history.search.confirmed
    assert (found.yes, found.no) == (4, 0)
    assert agreeing(history) == [(4, 4)]
    assert search_facts(history)[0].finds[0].referee is None


def test_referee_is_among_those_who_attribute_whoever_is_drawn(tmp_path: Path) -> None:
    for index, name in enumerate(("ada", "bob", "cyd", "dan", "eve")):
        directory = tmp_path / str(index)
        directory.mkdir()
        federation = searching(directory, {"bob": seat_changes(BOOST)}, rounds=1, checkers=2, referee=name)
        history = federation.until(in_phase(Phase.ATTRIBUTING))
        assert name in turns.awaited(history)
        assert len(turns.awaited(history)) in (2, 3)
