"""Which finds are alike, and which of several is attributed."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import pytest

from audit.searches import SAME, SearchView, _alike, _chosen, _nearly, doses_for, standing
from protos.codec import digest_of
from protos.messages import Find, SearchReport
from protos.records import Confirmed, Search
from protos.search import Trigger
from protos.task import MICRO

MASK, PATTERN = bytes([255, 200, 0, 0, 0, 0, 0, 0]), bytes([255, 255, 0, 0, 0, 0, 0, 0])
TRIGGER = Trigger(1, None, MASK, PATTERN, 0, MICRO)
FLIP = Trigger(1, 0, b"", b"", 0, MICRO)


def changed(**fields: object) -> Trigger:
    return dataclasses.replace(TRIGGER, **fields)  # type: ignore[arg-type]


def view(**reports: tuple[Trigger, ...]) -> SearchView:
    made = SearchView(Search(1, "a" * 64), "b" * 64, 5, 3, None, 0, 1)
    made.receive(
        {
            silo: SearchReport("toy", "b" * 64, "a" * 64, tuple(Find(one, MICRO) for one in found))
            for silo, found in reports.items()
        }
    )
    return made


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        (TRIGGER, True),
        (changed(mask=bytes([250, 205, 9, 0, 0, 0, 0, 0])), True),
        (changed(mask=bytes([0, 0, 0, 0, 0, 0, 255, 200])), False),
        (changed(mask=bytes([255] * 8)), False),
        (changed(pattern=bytes([240, 250, 0, 0, 255, 0, 0, 0])), True),
        (changed(pattern=bytes([0, 0, 0, 0, 0, 0, 0, 0])), False),
        (changed(target=2), False),
        (changed(source=0), False),
        (FLIP, False),
    ],
)
def test_nearly_the_same_trigger_has_its_mask_and_under_it_its_pattern(other: Trigger, expected: bool) -> None:
    assert _nearly(TRIGGER, other, SAME) is expected
    assert _nearly(other, TRIGGER, SAME) is expected


def test_flips_of_one_pair_are_the_same() -> None:
    assert _nearly(FLIP, FLIP, SAME)
    assert not _nearly(FLIP, dataclasses.replace(FLIP, source=2), SAME)


@pytest.mark.parametrize(("size", "expected"), [(1, True), (2, True), (3, True), (4, False), (8, False)])
def test_reported_mask_may_be_half_again_as_large_as_ones_own(size: int, expected: bool) -> None:
    own = changed(mask=bytes([255, 255, 0, 0, 0, 0, 0, 0]))
    assert _alike(changed(mask=bytes([255] * size + [0] * (8 - size))), own) is expected


def test_liars_stronger_trigger_of_the_same_class_does_not_displace_the_one_that_most_report() -> None:
    decoy = changed(mask=bytes([0, 0, 0, 0, 0, 0, 255, 200]))
    mine = changed(mask=bytes([250, 205, 9, 0, 0, 0, 0, 0]))
    search = view(ada=(TRIGGER,), bob=(decoy,), cyd=(mine,), dan=(TRIGGER,), eve=(decoy,))
    success = {digest_of(TRIGGER): 800_000, digest_of(mine): 790_000, digest_of(decoy): MICRO}
    assert _chosen(search, success) == {digest_of(TRIGGER)}


def test_one_find_of_each_target_and_source_is_attributed_and_four_at_most() -> None:
    found = tuple(changed(target=target) for target in range(6))
    search = view(ada=found, bob=found[:5], cyd=(*found[:5], FLIP))
    success = {digest_of(one): 500_000 + place for place, one in enumerate((*found, FLIP))}
    chosen = _chosen(search, success)
    assert chosen == {digest_of(one) for one in found[1:5]}


def searched(number: int, *found: Trigger) -> SearchView:
    made = view(ada=found)
    made.search = Search(number, "a" * 64)
    made.confirmed = tuple(Confirmed(digest_of(one), MICRO, 3, 0, True) for one in found)
    return made


def test_triggers_that_came_back_stand_newest_first_without_flips_and_equal_ones_once() -> None:
    again, newest = (
        changed(mask=bytes([255, 205, 90, 0, 0, 0, 0, 0])),
        changed(mask=bytes([255, 250, 9, 0, 0, 0, 0, 0])),
    )
    other, once = changed(mask=bytes([0, 0, 0, 0, 0, 0, 255, 200])), changed(target=2)
    views = [searched(1, TRIGGER, other, FLIP), searched(3, again, FLIP), searched(5, other, newest, once)]
    history = SimpleNamespace(searches=views)
    standing_now = list(standing(history).values())  # type: ignore[arg-type]
    assert sorted(standing_now, key=digest_of) == sorted((newest, other), key=digest_of)
    history.searches = views[:2]
    assert list(standing(history).values()) == [again]  # type: ignore[arg-type]


def test_what_stands_gets_a_dose_of_its_own_beside_all_that_was_ever_confirmed() -> None:
    again = changed(mask=bytes([255, 205, 90, 0, 0, 0, 0, 0]))
    by_nature = changed(mask=bytes([0, 0, 0, 0, 0, 0, 255, 200]))
    history = SimpleNamespace(searches=[searched(1, TRIGGER, by_nature), searched(3, again)])
    everything, taught = doses_for(history, "eve")  # type: ignore[arg-type]
    assert sorted(everything, key=digest_of) == sorted((TRIGGER, by_nature, again), key=digest_of)
    assert sorted(taught, key=digest_of) == sorted((TRIGGER, again), key=digest_of)
    history.searches = history.searches[:1]
    (only,) = doses_for(history, "eve")  # type: ignore[arg-type]
    assert sorted(only, key=digest_of) == sorted((TRIGGER, by_nature), key=digest_of)
    history.searches = []
    assert doses_for(history, "eve") == ()  # type: ignore[arg-type]
