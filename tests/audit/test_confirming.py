"""Which finds are confirmed, and which of several is attributed: by ballot and by a referee."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from audit.confirming import _chosen, _is_confirmed, _stood, _success
from audit.searches import open_search
from protos.codec import digest_of
from protos.records import Search
from protos.task import MICRO
from tests.audit.test_searches import TRIGGER, changed, flip, view

EVERYBODY = ("ada", "bob", "cyd", "dan", "eve")


@pytest.mark.parametrize(
    ("yes", "silent", "referee", "expected"),
    [
        (("ada", "bob", "cyd"), (), None, True),
        (("ada", "bob"), (), None, False),
        (("ada", "bob"), ("eve",), None, False),
        (("ada", "bob"), ("dan", "eve"), None, True),
        (("ada",), ("bob", "cyd", "dan", "eve"), None, False),
        (("ada", "bob"), (), "ada", True),
        (("ada",), (), "ada", False),
        (("ada", "bob", "cyd", "dan"), (), "eve", False),
        (("ada", "bob", "cyd"), ("eve",), "eve", True),
        (("ada", "bob"), ("eve",), "eve", False),
    ],
)
def test_most_silos_confirm_a_find_or_the_referee_and_one_more(
    yes: tuple[str, ...], silent: tuple[str, ...], referee: str | None, expected: bool
) -> None:
    measured = dict.fromkeys(set(EVERYBODY) - set(silent), MICRO)
    assert _is_confirmed(set(yes), measured, referee) is expected


@pytest.mark.parametrize(("referee", "expected"), [(None, 200_000), ("ada", 900_000), ("zoe", 200_000)])
def test_recorded_success_is_the_referees_or_the_lower_median(referee: str | None, expected: int) -> None:
    assert _success({"ada": 900_000, "bob": 0, "cyd": 200_000, "dan": 300_000}, referee) == expected


@pytest.mark.parametrize(
    ("named", "active", "expected"),
    [("ada", EVERYBODY, "ada"), ("ada", EVERYBODY[1:], None), (None, EVERYBODY, None), ("zoe", EVERYBODY, None)],
)
def test_referee_of_a_search_is_the_tasks_while_it_is_an_active_member(
    named: str | None, active: tuple[str, ...], expected: str | None
) -> None:
    policy = SimpleNamespace(quorum_minimum=3, privacy_minimum=3)
    genesis = SimpleNamespace(policy=policy, task=SimpleNamespace(search=SimpleNamespace(referee=named)))
    history = SimpleNamespace(
        genesis=genesis, active=active, adopted=5, sealed=None, sealed_round=0, epoch=1, searches=[]
    )
    assert open_search(history, Search(1, "a" * 64), "b" * 64).referee == expected  # type: ignore[arg-type]


def test_liars_stronger_trigger_of_the_same_class_does_not_displace_the_one_that_most_report() -> None:
    decoy = changed(mask=bytes([0, 0, 0, 0, 0, 0, 255, 200]))
    mine = changed(mask=bytes([250, 205, 9, 0, 0, 0, 0, 0]))
    search = view(ada=(TRIGGER,), bob=(decoy,), cyd=(mine,), dan=(TRIGGER,), eve=(decoy,))
    success = {digest_of(TRIGGER): 800_000, digest_of(mine): 790_000, digest_of(decoy): MICRO}
    assert _chosen(search, success) == {digest_of(TRIGGER)}


def test_find_that_the_referee_reports_goes_before_one_that_most_report() -> None:
    decoy = changed(mask=bytes([0, 0, 0, 0, 0, 0, 255, 200]))
    search = view(ada=(TRIGGER,), bob=(decoy,), cyd=(decoy,), dan=(decoy,), eve=(TRIGGER,))
    success = {digest_of(TRIGGER): 800_000, digest_of(decoy): MICRO}
    assert _chosen(search, success) == {digest_of(decoy)}
    search.referee = "ada"
    assert _chosen(search, success) == {digest_of(TRIGGER)}


def test_of_each_target_and_source_one_find_is_attributed_of_triggers_and_of_flips_four_at_most() -> None:
    found, flips = tuple(changed(target=target) for target in range(6)), tuple(flip(one) for one in range(2, 8))
    search = view(ada=(*found, *flips), bob=(*found[:5], *flips[:5]), cyd=(*found[:5], *flips[:5]))
    success = {digest_of(one): 500_000 + place for place, one in enumerate((*found, *flips))}
    assert _chosen(search, success) == {digest_of(one) for one in (*found[1:5], *flips[1:5])}


def test_what_stands_fills_the_places_that_finds_leave_flips_that_work_best_first() -> None:
    flips, old = [flip(one) for one in range(2, 8)], [changed(target=one) for one in range(3, 7)]
    search = view(ada=(TRIGGER,))
    search.standing = {digest_of(one): one for one in (*old, *flips)}
    success = {digest_of(one): 100_000 * place for place, one in enumerate((*old, *flips))}
    success[digest_of(TRIGGER)] = MICRO
    found = {digest_of(TRIGGER)}
    stood = _stood(search, success, found, found)
    assert stood == [digest_of(one) for one in (*old[:3], *reversed(flips[2:]))]
    del success[digest_of(flips[5])]
    assert _stood(search, success, found, found)[3:] == [digest_of(one) for one in reversed(flips[1:5])]
