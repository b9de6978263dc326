"""Which finds are alike, and which of several is attributed."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import pytest

from audit.resemblance import SAME, nearly, of_a_kind
from audit.searches import SearchView, disputed, doses_for, excuse, standing, told
from protos.codec import digest_of
from protos.messages import Find, SearchReport
from protos.records import Confirmed, Search
from protos.search import Trigger
from protos.task import MICRO, Confusion

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
    assert nearly(TRIGGER, other, SAME) is expected
    assert nearly(other, TRIGGER, SAME) is expected


def test_flips_of_one_pair_are_the_same() -> None:
    assert nearly(FLIP, FLIP, SAME)
    assert not nearly(FLIP, dataclasses.replace(FLIP, source=2), SAME)


@pytest.mark.parametrize(("size", "expected"), [(1, True), (2, True), (3, True), (4, False), (8, False)])
def test_reported_mask_may_be_half_again_as_large_as_ones_own(size: int, expected: bool) -> None:
    own = changed(mask=bytes([255, 255, 0, 0, 0, 0, 0, 0]))
    assert of_a_kind(changed(mask=bytes([255] * size + [0] * (8 - size))), own) is expected


def ruled(*searches: SimpleNamespace, alike: tuple[Confusion, ...] = (), classes: int = 10) -> SimpleNamespace:
    """A history of these searches, whose task has so many classes and calls some of them alike."""
    task = SimpleNamespace(search=SimpleNamespace(alike=alike), layout=SimpleNamespace(classes=classes))
    return SimpleNamespace(searches=list(searches), genesis=SimpleNamespace(task=task))


def flip(source: int) -> Trigger:
    return dataclasses.replace(FLIP, source=source)


def searched(number: int, *found: Trigger) -> SearchView:
    made = view(ada=found)
    made.search = Search(number, "a" * 64)
    made.confirmed = tuple(Confirmed(digest_of(one), MICRO, 3, 0, True) for one in found)
    return made


def test_triggers_that_came_back_and_all_flips_stand_newest_first_and_equal_ones_once() -> None:
    again, newest = (
        changed(mask=bytes([255, 205, 90, 0, 0, 0, 0, 0])),
        changed(mask=bytes([255, 250, 9, 0, 0, 0, 0, 0])),
    )
    other, once = changed(mask=bytes([0, 0, 0, 0, 0, 0, 255, 200])), changed(target=2)
    views = [searched(1, TRIGGER, other, FLIP), searched(3, again, FLIP), searched(5, other, newest, once)]
    history = SimpleNamespace(searches=views)
    standing_now = list(standing(history).values())  # type: ignore[arg-type]
    assert sorted(standing_now[:2], key=digest_of) == sorted((newest, other), key=digest_of)
    assert standing_now[2:] == [FLIP]
    history.searches = views[:2]
    assert sorted(standing(history).values(), key=digest_of) == sorted((again, FLIP), key=digest_of)  # type: ignore[arg-type]
    history.searches = [searched(1, *(flip(one) for one in range(2, 9)))]
    assert len(standing(history)) == 7, "flips are measured without limit"  # type: ignore[arg-type]


def test_flips_get_a_dose_of_their_own() -> None:
    history = SimpleNamespace(searches=[searched(1, TRIGGER, FLIP)])
    assert doses_for(history, "eve") == ((TRIGGER,), (FLIP,))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("known", "answer"),
    [((FLIP,), False), ((FLIP, flip(1)), False), ((changed(target=0),), True), ((changed(target=2),), False)],
)
def test_a_flip_from_a_class_that_a_known_trigger_leads_to_is_disputed(
    known: tuple[Trigger, ...], answer: bool
) -> None:
    history = ruled(searched(1, *known))
    assert bool(disputed(history, FLIP)) is answer  # type: ignore[arg-type]
    assert not disputed(history, changed(target=2))  # type: ignore[arg-type]


@pytest.mark.parametrize(("alike", "answer"), [((), False), (((0, 1),), True), (((1, 0), (0, 2), (2, 1)), False)])
def test_a_flip_between_classes_that_public_records_show_as_alike_is_disputed(
    alike: tuple[tuple[int, int], ...], answer: bool
) -> None:
    assert (FLIP.source, FLIP.target) == (0, 1)
    history = ruled(searched(1, FLIP), alike=tuple(Confusion(*pair) for pair in alike))
    assert bool(disputed(history, FLIP)) is answer  # type: ignore[arg-type]
    assert ("classes as alike" in excuse(history, FLIP)) is answer  # type: ignore[arg-type]
    assert not disputed(history, changed(source=0))  # type: ignore[arg-type]


@pytest.mark.parametrize(("last", "answer"), [(0, False), (1, True)])
def test_a_trigger_that_covers_more_than_a_quarter_of_the_input_is_disputed(last: int, answer: bool) -> None:
    covers = changed(mask=bytes([255, 255, last, 0, 0, 0, 0, 0]))
    history = ruled(searched(1, covers))
    assert bool(disputed(history, covers)) is answer  # type: ignore[arg-type]
    assert ("a quarter of the input" in excuse(history, covers)) is answer  # type: ignore[arg-type]


@pytest.mark.parametrize(("classes", "answer"), [(2, True), (3, False)])
def test_between_two_classes_everything_is_disputed(classes: int, answer: bool) -> None:
    history = ruled(searched(1, TRIGGER), classes=classes)
    for find in (TRIGGER, FLIP):
        assert bool(disputed(history, find)) is answer  # type: ignore[arg-type]
        assert ("no third class" in excuse(history, find)) is answer  # type: ignore[arg-type]


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


def test_rounds_of_inoculation_are_counted_from_the_search_that_first_confirmed_nearly_the_same() -> None:
    again = changed(mask=bytes([255, 205, 90, 0, 0, 0, 0, 0]))
    rounds = [SimpleNamespace(adopted=number != 4) for number in range(1, 8)]
    history = SimpleNamespace(searches=[searched(2, TRIGGER), searched(5, again)], rounds=rounds)
    expected = {1: 0, 2: 0, 3: 1, 4: 2, 5: 2, 6: 3, 7: 4}
    assert {one: told(history, again, one) for one in expected} == expected  # type: ignore[arg-type]
    assert not told(history, FLIP, 7)  # type: ignore[arg-type]
