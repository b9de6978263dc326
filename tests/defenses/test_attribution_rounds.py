"""Which rounds count in attribution, and as what."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from defenses.attribution import (
    AFTER,
    BEFORE,
    Past,
    attribute,
    guilty,
    sketched,
)
from tests.defenses.simulate import COUNTS
from tests.defenses.taught import CLASSES, FDR, FIND, PACKING, SIZE, rounds, told, z_of


def blinded(past: list[Past]) -> list[Past]:
    """The same rounds with directions of zero, which `silo.search` gives where a model hardly sees."""
    nothing = np.zeros((CLASSES, SIZE))
    return [replace(one, directions=sketched(nothing, PACKING, one.setting.signs)) for one in past]


@pytest.mark.parametrize(("then", "expected"), [(1.0, {"d150"}), (0.3, set()), (-0.6, set()), (None, set())])
def test_a_push_before_inoculation_counts_against_who_then_does_not_unlearn(
    then: float | None, expected: set[str]
) -> None:
    early = rounds(5, 20, push={"d150": 5.0})
    found = attribute(early if then is None else [*early, *told(then)], FIND)
    assert z_of(next(one for one in found if one.silo == "d150"), "before") > 9
    assert guilty(found, FIND, FDR) == expected


def test_there_is_no_after_before_the_third_round_of_it_in_which_a_silo_took_part() -> None:
    past = rounds(5, 3, push={"d150": 12.0}, inoculated=True, others=-2.0)
    assert [one.scores for one in attribute(past[:2], FIND)] == [()] * len(COUNTS)
    assert guilty(attribute(past, FIND), FIND, FDR) == {"d150"}
    away = [replace(past[0], exhibits=[one for one in past[0].exhibits if one.silo != "d150"]), *past[1:]]
    found = {one.silo: one.scores for one in attribute(away, FIND)}
    assert [silo for silo, scores in found.items() if not scores] == ["d150"]


def test_the_first_round_of_inoculation_is_neither_before_nor_after() -> None:
    """A model moves for a round as it did before it was told, however hard silos pushed."""
    first = [replace(one, told=1) for one in rounds(40, 1, push={"d150": 99.0})]
    late = [replace(one, number=one.number + 1) for one in rounds(41, 6, inoculated=True)]
    with_it, without = attribute([*first, *late], FIND), attribute(late, FIND)
    assert [one.scores for one in with_it] == [one.scores for one in without]
    assert with_it[0].contributions[1]
    assert 1 not in without[0].contributions


def test_rounds_of_a_model_that_sees_too_little_are_left_out() -> None:
    past = rounds(5, 4, push={"d150": 12.0}, inoculated=True, others=-4.0)
    assert guilty(attribute(past[1:], FIND), FIND, FDR) == {"d150"}
    with_them, without = attribute([*blinded(past[:2]), *past[2:]], FIND), attribute(past[2:], FIND)
    assert [one.scores for one in with_them] == [one.scores for one in without] == [()] * len(COUNTS)


def test_the_first_round_of_inoculation_is_the_first_one_whose_model_sees() -> None:
    """A model that has hardly learned moves towards what was found in it, whoever holds which data."""
    first = rounds(5, 3, push={"d150": 99.0}, inoculated=True, others=-4.0)
    first = [replace(one, told=place + 1) for place, one in enumerate(first)]
    late = [
        replace(one, number=one.number + 3, told=one.told + 2) for one in rounds(41, 6, inoculated=True, others=-4.0)
    ]
    with_it, without = attribute([*blinded(first[:2]), first[2], *late], FIND), attribute(late, FIND)
    assert [one.scores for one in with_it] == [one.scores for one in without]
    assert not guilty(with_it, FIND, FDR)
    assert guilty(attribute([*first, *late], FIND), FIND, FDR) == {"d150"}, "where all models see, the third counts"


def test_rounds_in_which_a_silo_did_not_open_are_skipped_for_it() -> None:
    past = rounds(10, 12, push={"d150": 6.0}, inoculated=True, others=-2.0)
    absent = [
        replace(one, exhibits=[e for e in one.exhibits if e.silo != "e100"]) if one.number % 2 else one for one in past
    ]
    found = {one.silo: one for one in attribute(absent, FIND)}
    assert sorted(found["e100"].contributions) == [2, 4, 6, 8, 10, 12]
    assert sorted(found["d150"].contributions) == list(range(1, 13))
    whole = {one.silo: one for one in attribute(past, FIND)}
    assert found["e100"].contributions[2] == whole["e100"].contributions[2]
    assert guilty(list(found.values()), FIND, FDR) == {"d150"}


def test_before_and_after_are_told_apart_and_the_order_of_rounds_does_not_matter() -> None:
    early = rounds(11, 4, push={"a450": 4.0})
    late = [replace(one, number=one.number + 4) for one in rounds(12, 4, inoculated=True)]
    found = attribute([*late, *early], FIND)
    assert found == attribute([*early, *late], FIND)
    names = [score.name for score in found[0].scores]
    assert names == ["before-x", "before-z", "after-x", "after-z"]
    assert z_of(found[0], BEFORE) > 3 > z_of(found[0], AFTER)
