"""Searches in whole federations: found, confirmed, attributed, answered, and what each liar gains."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from audit.certificate import certify
from audit.files import LogFile
from audit.findings import search_facts
from audit.searches import denied, releasable
from coordinator.errors import RejectedMessage
from coordinator.service import Service
from crypto.identity import ExchangeKey, SigningKey, sign
from protos.codec import digest_of, pack
from protos.messages import Find, SearchReport
from protos.records import Clean, Searched
from protos.rounds import Phase
from protos.search import Trigger
from protos.task import MICRO
from silo.identity import SiloIdentity
from silo.link import BadSiloDirectory
from silo.overview import _releasable
from tests.integration import finds
from tests.integration.bench import closed, in_phase, replay
from tests.integration.federation import SILOS
from tests.integration.finds import BOOST, TARGET, Changed, denying, searching, seat, seat_changes, trigger
from tests.integration.framing import Framing

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
    federation = searching(tmp_path, {LIAR: seat_changes(BOOST), "ada": seat_changes(said=said)}, rounds=7)
    history = federation.run()
    first = history.searches[0]
    assert set(first.reporters(first.confirmed[0].find)) == set(SILOS)
    assert history.triggers == (trigger(),)
    assert set(history.convicted) == {LIAR}
    assert "under a trigger for class 2: z = " in history.convicted[LIAR]
    assert first.attributed is not None
    assert first.attributed.convicted == (), "nobody was told of the trigger yet"
    assert [len(view.attributed.convicted) for view in history.searches[1:3] if view.attributed] == [0, 1]
    assert [LIAR in view.plan.silos for view in history.rounds] == [True] * 5 + [False] * 2
    assert said == [(), *[(trigger(),)] * 2, *[(trigger(), trigger())] * 4], "what came back gets a dose of its own"
    assert federation.errors == {}
    assert replay(federation).chain.digest == history.chain.digest


def test_nobody_is_convicted_where_the_others_do_not_unlearn_what_they_were_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finds, "UNLEARNT", 0.0)
    federation = searching(tmp_path, {LIAR: seat_changes(BOOST)}, rounds=5)
    history = federation.run()
    assert history.search.attributed is not None
    (case,) = history.search.attributed.cases
    (liar,) = [part for part in case.parts if part.silo == LIAR]
    assert [score.value_micro > 9 * MICRO for score in liar.scores if score.name == "after-z"] == [True]
    assert history.convicted == {}
    assert federation.errors == {}


def test_report_of_another_model_is_refused(tmp_path: Path) -> None:
    federation = searching(tmp_path, rounds=1)
    federation.until(in_phase(Phase.SEARCHING))
    history = federation.history
    right = SearchReport("simulated", history.search.digest, history.model, ())
    for wrong, message in (
        (dataclasses.replace(right, model="0" * 64), "another model"),
        (dataclasses.replace(right, search="0" * 64), "another search"),
        (dataclasses.replace(right, finds=(Find(trigger(), 0),)), "below the task's success"),
        (dataclasses.replace(right, finds=(Find(trigger(), MICRO),), blind=True), "has no finds"),
        (dataclasses.replace(right, finds=(Find(trigger(), MICRO),) * 2), "reported once"),
        (dataclasses.replace(right, finds=(Find(trigger(3), MICRO),)), "a class that is not there"),
        (dataclasses.replace(right, finds=(Find(dataclasses.replace(trigger(), mask=b"1"), MICRO),)), "values"),
    ):
        message_of = pack(sign(wrong, "dan", federation.identities["dan"].signing))
        with pytest.raises(RejectedMessage, match=message):
            federation.service.submit("dan", message_of)


def test_silo_silent_in_a_search_is_named_and_the_search_counts(tmp_path: Path) -> None:
    federation = searching(tmp_path, {LIAR: seat_changes(BOOST)}, rounds=1)
    federation.until(in_phase(Phase.SEARCHING))
    federation.link("eve").down = True
    history = federation.until(lambda state: bool(state.search.reports))
    assert set(history.search.reports) == set(SILOS) - {"eve"}
    federation.link("eve").down = False
    federation.link("dan").down = True
    history = federation.until(lambda state: state.search.closed)
    assert set(history.search.attributions) == set(SILOS) - {"dan"}
    assert history.search.attributed is not None
    assert [(case.tables, case.agreeing) for case in history.search.attributed.cases] == [(4, 4)]


def test_search_without_a_quorum_of_reports_is_asked_for_again(tmp_path: Path) -> None:
    federation = searching(tmp_path, rounds=1)
    federation.until(in_phase(Phase.SEARCHING))
    for name in ("dan", "eve"):
        federation.link(name).down = True
    history = federation.until(lambda state: state.searches[-1].closed)
    assert not history.search.enough
    federation.turns(5)
    assert federation.history.phase is Phase.IDLE
    for name in ("dan", "eve"):
        federation.link(name).down = False
    history = federation.run()
    assert [view.clean for view in history.searches] == [False, True]
    assert releasable(history)[0] == history.model


def test_invented_trigger_is_borne_out_by_nobody_and_nothing_follows(tmp_path: Path) -> None:
    """It works, as any trigger does that replaces enough of an input: the others' own searches have none like it."""
    lie = Changed(search=lambda model, root, suspected: (trigger(0),), success=lambda model, root, trigger: MICRO)
    everything_works = Changed(success=lambda model, root, trigger: MICRO, search=lambda model, root, suspected: ())
    liars = {name: seat_changes(searcher=lambda task: everything_works) for name in HONEST}
    federation = searching(tmp_path, liars | {LIAR: seat_changes(searcher=lambda task: lie)}, rounds=1)
    history = federation.run()
    (search,) = history.searches
    assert search.reporters(digest_of(trigger(0))) == (LIAR,)
    assert set(search.measured(digest_of(trigger(0))).values()) == {MICRO}
    assert search.clean
    assert (history.triggers, history.convicted) == ((), {})
    assert releasable(history)[0] == history.model


def test_silos_that_deny_a_find_are_outvoted_while_they_are_a_minority(tmp_path: Path) -> None:
    liars = {name: denying(BOOST) for name in ("bob", "cyd")}
    history = searching(tmp_path, liars, rounds=5).run()
    (found,) = history.searches[0].confirmed
    assert (found.yes, found.no) == (3, 2)
    assert set(history.convicted) == {"bob", "cyd"}


def test_majority_that_denies_a_find_keeps_no_honest_silo_from_training_against_it(tmp_path: Path) -> None:
    said: list[Any] = []
    liars = {name: denying(BOOST / 2) for name in ("bob", "cyd", "dan")}
    federation = searching(tmp_path, liars | {"ada": seat_changes(said=said)}, rounds=2)
    history = federation.run()
    assert history.triggers == ()
    assert said == [(), (trigger(),)]
    assert denied(history, "ada", history.searches[0].search.model) == (digest_of(trigger()),)
    assert denied(history, "bob", history.searches[0].search.model) == ()
    with pytest.raises(BadSiloDirectory, match="that the others deny"):
        _releasable(history, "ada")
    assert _releasable(history, "bob") == history.model


def test_minority_of_lying_tables_frames_nobody_and_clears_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Framing(monkeypatch, ("bob", "cyd"), "ada")
    federation = searching(tmp_path, {name: seat_changes(BOOST) for name in ("bob", "cyd")}, rounds=5)
    history = federation.run()
    assert history.search.attributed is not None
    (case,) = history.search.attributed.cases
    assert (case.tables, case.agreeing) == (5, 3)
    assert set(history.convicted) == {"bob", "cyd"}
    assert not set(federation.errors) & {"ada", "dan", "eve"}


def test_majority_of_lying_tables_convicts_and_every_honest_silo_stops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    liars = ("bob", "cyd", "dan")
    Framing(monkeypatch, liars, "ada")
    federation = searching(tmp_path, {name: seat_changes(BOOST) for name in liars}, rounds=5)
    history = federation.until(lambda state: len(state.searches) == 3 and state.search.closed)
    federation.turns(2)
    assert set(history.convicted) == {"ada"}
    for name in ("ada", "eve"):
        assert "ada was convicted of a find in round 5 that our own past models clear it of" in federation.said(name)
    for name in liars:
        assert federation.said(name) == ""


def test_two_tables_that_differ_convict_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Framing(monkeypatch, ("bob",), "ada")
    federation = searching(tmp_path, {"bob": seat_changes(BOOST)}, rounds=1)
    federation.until(in_phase(Phase.ATTRIBUTING))
    for name in ("cyd", "dan", "eve"):
        federation.link(name).down = True
    history = federation.until(lambda state: state.search.closed)
    assert history.search.attributed is not None
    assert [(case.tables, case.agreeing) for case in history.search.attributed.cases] in ([(2, 1)], [(2, 0)])
    assert history.convicted == {}
    assert history.triggers == (trigger(),)


@pytest.mark.usefixtures("whole_range")
def test_last_model_with_a_find_is_not_released_but_the_newest_clean_one(tmp_path: Path) -> None:
    federation = searching(tmp_path, {LIAR: seat_changes(BOOST, first=2)}, rounds=2)
    history = federation.run()
    assert [view.clean for view in history.searches] == [True, False]
    released = history.searches[0].search.model
    assert releasable(history) == (released, history.searches[0].adopted)
    assert released != history.model
    for name, session in federation.sessions.items():
        assert session.workspace.has_model(released), name
        assert session.step(0.0).finished


def test_without_any_clean_model_nothing_is_released(tmp_path: Path) -> None:
    federation = searching(tmp_path, {LIAR: seat_changes(BOOST)}, rounds=1)
    history = federation.run()
    assert history.phase is Phase.FINISHED
    assert releasable(history) == (None, None)
    assert all(session.step(0.0).finished for session in federation.sessions.values())


@pytest.mark.parametrize(("blind", "released"), [(1, True), (2, False)])
def test_model_that_a_quorum_could_not_search_is_not_released(tmp_path: Path, blind: int, released: bool) -> None:
    seats = {name: seat_changes(searcher=lambda task: Changed(search=lambda *_: None)) for name in SILOS[:blind]}
    federation = searching(tmp_path, seats, rounds=1)
    history = federation.run()
    assert history.phase is Phase.FINISHED
    assert releasable(history)[0] == (history.model if released else None)
    assert [facts.result for facts in search_facts(history)] == ["clean" if released else "blind"]
    assert replay(federation).chain.digest == history.chain.digest
    if not released:
        with pytest.raises(BadSiloDirectory, match="right on too few public records to be searched"):
            _releasable(history, "eve")
        head = LogFile(federation.directory / "log.jsonl").head()
        assert head is not None
        (clause,) = [clause for clause in certify(history, head).clauses if clause.name == "search"]
        assert clause.detail == "1 searches, 0 finds; no model was released, because no search of one was clean"


@pytest.mark.usefixtures("whole_range")
def test_newcomer_without_past_models_says_that_it_cannot(tmp_path: Path) -> None:
    federation = searching(tmp_path, {LIAR: seat_changes(BOOST, first=2)}, rounds=2)
    federation.until(closed(1))
    federation.seats["fay"] = seat(9, **seat_changes())
    fay = SiloIdentity("fay", "simulated", federation.log_key.public, SigningKey.generate(), ExchangeKey.generate())
    federation.identities["fay"] = fay
    federation.service.enrol("fay", fay.signing.public, fay.exchange.public)
    federation.sessions["fay"] = federation.open_session("fay")
    federation.service.start()
    history = federation.run()
    (made,) = history.search.attributions["fay"].tables
    assert made.table is None
    assert history.search.attributed is not None
    assert [(case.tables, case.agreeing) for case in history.search.attributed.cases] == [(5, 5)]


def test_coordinator_that_leaves_out_a_report_it_took_is_halted_on(tmp_path: Path) -> None:
    class Dropping(Service):
        """Forgets the victim's report once the search ends."""

        def _append(self, body: Any) -> None:
            if isinstance(body, Searched | Clean) and body.reports:
                kept = tuple(signed for signed in body.reports if signed.signer != "ada")
                body = dataclasses.replace(body, reports=kept, silent=("ada",))
            super()._append(body)

    federation = searching(tmp_path, {LIAR: seat_changes(BOOST)}, rounds=1, service=Dropping)
    federation.until(lambda state: bool(state.searches) and bool(state.search.reports))
    federation.turns(2)
    assert "our answer in phase searching of round 1 was taken and then left out" in federation.said("ada")
    assert federation.said("eve") == ""


@pytest.mark.parametrize(
    ("share", "alike", "clean"),
    [
        (MICRO // 2, False, [False, False]),
        (MICRO // 2, True, [False, True]),
        (MICRO // 2 - 1, False, [True, True]),
    ],
)
def test_flip_of_half_a_class_forbids_the_release_unless_it_is_known_and_its_classes_are_alike(
    tmp_path: Path, share: int, alike: bool, clean: list[bool]
) -> None:
    """Models confuse alike classes by nature: the first search that sees it forbids the release, the next one not."""
    flip = Trigger(TARGET, 0, b"", b"", 0, MICRO)
    confused = Changed(search=lambda model, root, suspected: (flip,), success=lambda model, root, trigger: share)
    seats = {name: seat_changes(searcher=lambda task: confused) for name in SILOS}
    history = searching(tmp_path, seats, rounds=2, alike=alike).run()
    assert [bool(view.confirmed) for view in history.searches] == [True, True]
    assert [view.clean for view in history.searches] == clean
    assert [facts.result for facts in search_facts(history)] == ["answered" if one else "finds" for one in clean]
    assert releasable(history)[0] == (history.model if clean[-1] else None)
    assert history.triggers == (flip,)
    assert history.convicted == {}


@pytest.mark.usefixtures("whole_range")
def test_silo_that_was_away_gets_the_released_model_though_a_newer_one_is_current(tmp_path: Path) -> None:
    federation = searching(tmp_path, {LIAR: seat_changes(BOOST, first=2)}, rounds=2)
    federation.until(in_phase(Phase.VERIFYING))
    federation.link("eve").down = True
    history = federation.until(in_phase(Phase.FINISHED))
    released = releasable(history)[0]
    assert released not in (None, history.model)
    eve = federation.sessions["eve"]
    assert not eve.workspace.has_model(str(released))
    federation.link("eve").down = False
    assert [eve.step(0.0).finished for _ in range(2)][-1]
    assert eve.workspace.has_model(str(released))
