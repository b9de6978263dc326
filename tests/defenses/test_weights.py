from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from defenses.errors import InfeasibleWeights, WrongWeights
from defenses.evidence import micro
from defenses.weights import bounds, integer_weights, verify_weights

NAMES = st.text("abcdefgh", min_size=1, max_size=5)
BASES = st.dictionaries(NAMES, st.integers(1, 5000), min_size=1, max_size=24)
DOUBTS = st.fractions(0, 1, max_denominator=1000)


@given(BASES, st.data())
def test_any_counts_and_suspicions_give_weights_that_verify(base: dict[str, int], data: st.DataObject) -> None:
    suspicion = {silo: data.draw(DOUBTS) for silo in base}
    weights = integer_weights(base, suspicion, 0.5, 2.0, 1024)
    verify_weights(weights, 500_000, 2_000_000, 1024)
    assert list(weights) == sorted(base)


@given(BASES, DOUBTS)
def test_weight_grows_with_the_count(base: dict[str, int], doubt: Fraction) -> None:
    weights = integer_weights(base, dict.fromkeys(base, doubt), 0.5, 2.0, 1024)
    ranked = sorted(base, key=lambda silo: base[silo])
    for less, more in pairwise(ranked):
        assert base[less] == base[more] or weights[less] <= weights[more]


@given(BASES, st.data())
def test_order_of_the_silos_changes_nothing(base: dict[str, int], data: st.DataObject) -> None:
    suspicion = {silo: data.draw(DOUBTS) for silo in base}
    shuffled = data.draw(st.permutations(list(base)))
    other = {silo: base[silo] for silo in shuffled}
    assert integer_weights(base, suspicion, 0.5, 2.0, 1024) == integer_weights(other, suspicion, 0.5, 2.0, 1024)


@given(BASES, st.data())
def test_suspicion_of_one_silo_never_raises_its_weight(base: dict[str, int], data: st.DataObject) -> None:
    suspect = data.draw(st.sampled_from(sorted(base)))
    plain = integer_weights(base, {}, 0.5, 2.0, 1024)
    weights = integer_weights(base, {suspect: data.draw(DOUBTS)}, 0.5, 2.0, 1024)
    assume(len(base) > 1)
    assert weights[suspect] <= plain[suspect] + 1


def test_counts_within_the_bounds_are_followed_exactly() -> None:
    assert integer_weights({"a": 300, "b": 200, "c": 500}, {}, 0.5, 2.0, 1000) == {"a": 300, "b": 200, "c": 500}


def test_full_suspicion_means_the_floor() -> None:
    weights = integer_weights({"a": 100, "b": 100, "c": 100, "d": 100}, {"b": 1}, 0.5, 2.0, 1024)
    assert weights == {"a": 299, "b": 128, "c": 299, "d": 298}


def test_where_all_others_are_at_the_cap_suspects_rise() -> None:
    weights = integer_weights({"a": 100, "b": 100, "c": 100, "d": 100}, {"b": 1, "c": 1, "d": 1}, 0.5, 1.2, 1000)
    assert weights["a"] == 300
    assert min(weights.values()) == 233


def test_everybody_suspected_alike_is_as_nobody_suspected() -> None:
    base = {"a": 500, "b": 20, "c": 130, "d": 90}
    assert integer_weights(base, dict.fromkeys(base, 1), 0.5, 2.0, 1024) == integer_weights(base, {}, 0.5, 2.0, 1024)


@pytest.mark.parametrize(
    ("base", "suspicion", "floor", "cap", "total"),
    [
        ({}, {}, 0.5, 2.0, 1024),
        ({"a": 1, "b": 1, "c": 1}, {}, 1.0, 1.0, 1024),
        ({"a": 0, "b": 1}, {}, 0.5, 2.0, 1024),
        ({"a": 1, "b": 1}, {"a": 1.5}, 0.5, 2.0, 1024),
        ({"a": 1, "b": 1}, {}, 0.1, 0.9, 1024),
    ],
)
def test_impossible_demands_are_refused(
    base: dict[str, int], suspicion: dict[str, float], floor: float, cap: float, total: int
) -> None:
    with pytest.raises(InfeasibleWeights):
        integer_weights(base, suspicion, floor, cap, total)


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ({"a": 84, "b": 470, "c": 470}, "a is below the floor of 171"),
        ({"a": 171, "b": 171, "c": 683}, "c is above the cap of 682"),
        ({"a": 300, "b": 300, "c": 423}, "sum to 1023, not 1024"),
        ({}, "no silo"),
    ],
)
def test_wrong_weights_are_named(weights: dict[str, int], words: str) -> None:
    with pytest.raises(WrongWeights, match=words):
        verify_weights(weights, 500_000, 2_000_000, 1024)


def test_bounds_are_rounded_inwards() -> None:
    assert bounds(6, 500_000, 2_000_000, 1024) == (86, 341)
    assert bounds(3, 0, 1_000_000_000, 1024) == (0, 1024)


def poured(shares: list[Fraction], least: Fraction, ceilings: list[Fraction], total: int) -> list[Fraction]:
    """Water-filling by its definition: the scale is looked for between neighbouring kinks, one after the other."""

    def at(scale: Fraction) -> list[Fraction]:
        return [max(least, min(scale * share, most)) for share, most in zip(shares, ceilings, strict=True)]

    kinks = sorted(bound / share for share, most in zip(shares, ceilings, strict=True) for bound in (least, most))
    for low, high in pairwise([Fraction(0), *kinks]):
        if sum(at(high)) >= total:
            slope = sum(at(high)) - sum(at(low))
            return at(low + (total - sum(at(low))) / slope * (high - low) if slope else high)
    raise AssertionError("the ceilings do not reach the total")


@given(
    st.lists(st.fractions(Fraction(1, 50), 60, max_denominator=50), min_size=2, max_size=12),
    st.fractions(0, 1, max_denominator=9),
    st.fractions(1, 3, max_denominator=9),
)
def test_weights_are_those_of_water_filling_rounded_by_largest_remainder(
    shares: list[Fraction], floor: Fraction, cap: Fraction
) -> None:
    names, total = [f"s{place:02d}" for place in range(len(shares))], 1024
    least, most = bounds(len(shares), micro(floor), micro(cap), total)
    assume(least * len(shares) <= total <= most * len(shares))
    ideal = poured(shares, Fraction(least), [Fraction(most)] * len(shares), total)
    assert sum(ideal) == total
    expected = [int(value) for value in ideal]
    by_remainder = sorted(range(len(ideal)), key=lambda place: (expected[place] - ideal[place], place))
    for place in by_remainder[: total - sum(expected)]:
        expected[place] += 1
    weights = integer_weights(dict(zip(names, shares, strict=True)), {}, floor, cap, total)
    assert list(weights.values()) == expected
