"""What stands, triggers of classes that came back and flips: measured and attributed in every later search."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from audit import display, show
from audit.files import LogFile
from audit.findings import search_facts, support
from audit.searches import releasable
from crypto.quantise import model_digest
from protos.search import Trigger
from protos.task import MICRO
from tests.integration.bench import replay
from tests.integration.federation import SILOS
from tests.integration.finds import INPUTS, TARGET, Changed, ToySearcher, searching, seat_changes, trigger

LIAR = "bob"
WEAK = 0.17
"""Works at once, but takes more rounds to attribute than the first two searches have seen."""


def forgetful(times: int = 2, success: int = MICRO) -> Callable[[Any], Any]:
    """Searchers whose first `times` searches find the planted trigger and whose later ones find nothing.

    It works with `success` for whoever measures it later on.
    """

    def make(task: Any) -> Changed:
        searches, measured = itertools.count(), itertools.count()
        return Changed(
            search=lambda model, root, suspected: () if next(searches) >= times else (trigger(),),
            success=lambda model, root, trigger: MICRO if next(measured) < 2 * times else success,
        )

    return make


@pytest.mark.usefixtures("whole_range")
def test_who_goes_on_teaching_what_came_back_and_is_found_no_more_is_convicted_all_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seats = {name: seat_changes(searcher=forgetful()) for name in SILOS}
    federation = searching(tmp_path, seats | {LIAR: seat_changes(WEAK, forgetful())}, rounds=13)
    history = federation.run()
    assert [(len(view.confirmed), len(view.stood)) for view in history.searches[:3]] == [(1, 0), (1, 0), (0, 1)]
    *found, third = (view.attributed for view in history.searches[:3])
    assert all(made is not None and made.convicted == () for made in found)
    assert third is not None
    assert {one.silo for view in history.searches if view.attributed for one in view.attributed.convicted} == {LIAR}
    facts = search_facts(history)
    assert [(len(one.finds), len(one.standing), one.result) for one in facts[1:3]] == [(1, 0, "finds"), (0, 1, "finds")]
    assert not any(view.clean for view in history.searches), "what stands and works forbids the release, found or not"
    assert releasable(history)[0] is None
    display.round_of(show.round_of(LogFile(federation.directory / "log.jsonl"), 5))
    assert "success 100%; found by earlier searches, works now for 5 silos, not for 0" in capsys.readouterr().out
    assert replay(federation).chain.digest == history.chain.digest


def test_trigger_that_never_came_back_does_not_stand(tmp_path: Path) -> None:
    seats = {name: seat_changes(searcher=forgetful(1)) for name in SILOS}
    history = searching(tmp_path, seats, rounds=7).run()
    assert [len(view.confirmed) for view in history.searches] == [1, 0, 0, 0]
    assert all(view.attributed is None and view.clean for view in history.searches[1:])
    assert history.convicted == {}


@pytest.mark.parametrize(
    ("found", "stands"),
    [
        ([trigger(), trigger(feature=0), trigger(feature=1)], [trigger(feature=0)]),
        ([trigger(0), trigger(1), trigger(2)], []),
        ([trigger(), trigger(), trigger()], [trigger()]),
    ],
)
def test_trigger_of_a_class_that_came_back_stands_though_in_other_inputs(
    tmp_path: Path, found: list[Trigger], stands: list[Trigger]
) -> None:
    def make(task: Any) -> Changed:
        searches = iter(found)
        return Changed(search=lambda *_: (next(searches),), success=lambda *_: MICRO)

    history = searching(tmp_path, {name: seat_changes(searcher=make) for name in SILOS}, rounds=5).run()
    assert [list(view.standing.values()) for view in history.searches] == [[], [], stands]


@pytest.mark.usefixtures("whole_range")
@pytest.mark.parametrize("boost", [0.0, WEAK])
def test_trigger_that_came_back_is_attributed_though_it_works_no_more(tmp_path: Path, boost: float) -> None:
    """The others unlearn what one goes on teaching; without a teacher nobody is convicted of it."""
    seats = {name: seat_changes(searcher=forgetful(success=0)) for name in SILOS}
    history = searching(tmp_path, seats | {LIAR: seat_changes(boost, forgetful(success=0))}, rounds=13).run()
    later = history.searches[2:]
    assert [(one.success_micro, one.yes, one.no) for view in later[:1] for one in view.stood] == [(0, 0, 5)]
    assert all(len(view.stood) == 1 and view.attributed is not None and view.clean for view in later)
    assert set(history.convicted) == ({LIAR} if boost else set())


@pytest.mark.parametrize(("covered", "told"), [(18, {2, 3, 4, 5}), (19, set())])
def test_blind_rounds_count_once_silos_train_against_a_small_trigger(
    tmp_path: Path, covered: int, told: set[int]
) -> None:
    """Confirmed after the first round. A sixteenth of the inputs are 18.75."""
    asked: dict[str, bool] = {}
    mask = bytes([255] * covered + [0] * (INPUTS - covered))

    def directions(model: Any, root: Any, trigger: Trigger, even_blind: bool) -> Any:
        asked[model_digest(model)] = even_blind
        return ToySearcher().directions(model, root, trigger)

    found = {"search": lambda *_: (Trigger(TARGET, None, mask, mask, 0, MICRO),), "success": lambda *_: MICRO}
    seats = {name: seat_changes(searcher=lambda task: Changed(directions=directions, **found)) for name in SILOS}
    history = searching(tmp_path, seats, rounds=5).run()
    assert [view.search.round for view in history.searches] == [1, 3, 5]
    assert {view.plan.round for view in history.rounds if asked[view.plan.model]} == told
    assert len(asked) == 5


def test_trigger_found_again_is_projected_on_new_rounds_only(tmp_path: Path) -> None:
    asked: list[bytes] = []

    def directions(model: Any, root: Any, trigger: Trigger, even_blind: bool) -> Any:
        asked.append(model.tobytes())
        return ToySearcher().directions(model, root, trigger)

    found = {"search": lambda *_: (trigger(),), "success": lambda *_: MICRO}
    counting = seat_changes(searcher=lambda task: Changed(directions=directions, **found))
    others = seat_changes(searcher=lambda task: Changed(**found))
    history = searching(tmp_path, dict.fromkeys(SILOS, others) | {"ada": counting}, rounds=5).run()
    tables = [{view.attributions[silo].tables for silo in SILOS} for view in history.searches]
    assert [len(made) for made in tables] == [1, 1, 1], "with the same result as everybody's"
    assert len(asked) == len(set(asked)) == 5


def test_searches_are_told_of_which_classes_triggers_came_back(tmp_path: Path) -> None:
    told: list[frozenset[int]] = []

    def search(model: Any, root: Any, suspected: frozenset[int]) -> tuple[Trigger, ...]:
        told.append(suspected)
        return (trigger(),)

    listening = Changed(search=search, success=lambda model, root, trigger: MICRO)
    history = searching(
        tmp_path, {name: seat_changes(searcher=lambda task: listening) for name in SILOS}, rounds=5
    ).run()
    assert len(history.searches) == 3
    assert told == [frozenset()] * 10 + [frozenset({trigger().target})] * 5


@pytest.mark.usefixtures("whole_range")
@pytest.mark.parametrize("dispute", ["", "a trigger leads to its source", "its classes are alike"])
def test_who_goes_on_teaching_a_flip_is_convicted_unless_honest_silos_may_teach_it(
    tmp_path: Path, dispute: str
) -> None:
    """Silos that unlearn a trigger to class 0 push its inputs to other classes, and so teach flips from class 0.

    Half of a class forbids the release whoever taught it, but for classes that are alike.
    """
    flip = Trigger(TARGET, 0, b"", b"", 0, MICRO)
    other = (trigger(target=0, feature=5),) if "trigger" in dispute else ()
    searches = dict.fromkeys(SILOS, 0)

    def make(name: str) -> Callable[[Any], Any]:
        def search(*_: Any) -> tuple[Trigger, ...]:
            searches[name] += 1
            return (flip, *other) if searches[name] == 1 else ()

        return lambda task: Changed(search=search, success=lambda *_: MICRO // 2)

    seats = {name: seat_changes(WEAK if name == LIAR else 0.0, make(name)) for name in SILOS}
    history = searching(tmp_path, seats, rounds=13, alike="alike" in dispute).run()
    later = history.searches[1:]
    assert all([view.standing[one.find] for one in view.stood] == [flip] for view in later), "from its first find on"
    assert set(history.convicted) == (set() if dispute else {LIAR})
    told = [
        support(facts, find)
        for facts in search_facts(history)
        for find in (*facts.finds, *facts.standing)
        if find.trigger.flip
    ]
    assert told
    assert all(("classes as alike" in one) is ("alike" in dispute) for one in told)
    assert all(view.clean is ("alike" in dispute) for view in later)
