"""Krum, Multi-Krum, geometric median and MoNNA against loops written from the papers."""

from __future__ import annotations

import math

import numpy as np
import pytest

from defenses.decide import decide
from defenses.errors import MissingEvidence, TooFewSilos
from defenses.evidence import Exhibit, Setting, rules_of
from defenses.geometric import GeometricMedian, Krum, Monna, MultiKrum, tolerated, weiszfeld_weights
from defenses.rule import Defense
from protos.task import MICRO
from tests.defenses.naive import Vector, apart, by_hand, exhibits, silo, vector

SEEDS = pytest.mark.parametrize("seed", range(4))


def naive_krum(vectors: list[Vector], liars: int) -> list[float]:
    """For each vector the squared distances to its n - f - 2 closest others, summed."""
    scores = []
    for i, mine in enumerate(vectors):
        far = sorted(apart(mine, theirs) for j, theirs in enumerate(vectors) if j != i)
        scores.append(math.fsum(far[: len(vectors) - liars - 2]))
    return scores


def naive_weiszfeld(vectors: list[Vector], masses: list[int]) -> list[float]:
    weights = [mass / sum(masses) for mass in masses]
    for _ in range(4):
        centre = [math.fsum(w * v[k] for w, v in zip(weights, vectors, strict=True)) for k in range(len(vectors[0]))]
        raw = [mass / max(1e-5, math.sqrt(apart(v, centre))) for mass, v in zip(masses, vectors, strict=True)]
        weights = [one / math.fsum(raw) for one in raw]
    return weights


def kept_by(rule: Defense, setting: Setting, shown: list[Exhibit]) -> set[str]:
    return {one.silo for one in rule.opine(rule.score(setting, shown), rules_of(setting)) if not one.excluded}


@SEEDS
@pytest.mark.parametrize(("number", "liars"), [(5, 1), (9, 3), (12, 2)])
def test_krum_sums_squared_distances_to_the_nearest_others(seed: int, number: int, liars: int) -> None:
    setting, shown = exhibits(seed, number)
    scores = naive_krum([vector(setting, one) for one in shown], liars)
    recorded = [one.value("krum") for one in MultiKrum(liars).score(setting, shown)]
    assert recorded == pytest.approx([score * MICRO for score in scores], abs=1)
    ranked = sorted(range(number), key=scores.__getitem__)
    assert kept_by(Krum(liars), setting, shown) == {silo(ranked[0])}
    assert kept_by(MultiKrum(liars), setting, shown) == {silo(place) for place in ranked[: number - liars]}


def test_krum_by_hand() -> None:
    setting, shown = by_hand([0], [1], [3], [4], [100])
    scored = Krum(1).score(setting, shown)
    # Two nearest others, squared: 1+9, 1+4, 4+1, 1+9, 96²+97².
    assert [one.value("krum") for one in scored] == [score * MICRO for score in (10, 5, 5, 10, 18625)]
    assert kept_by(Krum(1), setting, shown) == {"b"}
    assert kept_by(MultiKrum(1), setting, shown) == {"a", "b", "c", "d"}


def test_krum_by_default_assumes_what_its_theorem_allows() -> None:
    for silos in range(3, 30):
        assert 2 * tolerated(silos) + 2 < silos <= 2 * tolerated(silos) + 4
    setting, shown = exhibits(0, 9)
    assert len(kept_by(MultiKrum(), setting, shown)) == 6


def test_krum_refuses_more_liars_than_its_theorem_allows() -> None:
    setting, shown = exhibits(0, 6)
    with pytest.raises(TooFewSilos, match="multi-krum-f2 needs at least 7 silos, 6 take part"):
        MultiKrum(2).score(setting, shown)


@SEEDS
@pytest.mark.parametrize("number", [2, 7])
def test_geometric_median_weighs_as_four_steps_of_weiszfeld(seed: int, number: int) -> None:
    setting, shown = exhibits(seed, number)
    weights = naive_weiszfeld([vector(setting, one) for one in shown], [one.count for one in shown])
    recorded = [one.value("weight") for one in GeometricMedian().score(setting, shown)]
    assert recorded == pytest.approx([weight / max(weights) * MICRO for weight in weights], abs=1)


def test_geometric_median_by_hand() -> None:
    weights = weiszfeld_weights(np.array([[0.0], [0.0], [3.0]]), np.ones(3))
    # z = 1, 3/5, 1/3, 3/17: from the last, distances 3/17 and 48/17 stand as 16 to 1.
    assert weights == pytest.approx([16 / 33, 16 / 33, 1 / 33])


def test_silo_at_the_centre_counts_as_a_hundred_thousandth_away() -> None:
    # All four centres are 0. The mass of whoever is there or nearer than 1e-5 is divided by 1e-5, the others' by 1.
    weights = weiszfeld_weights(np.array([[-1.0], [0.0], [1.0]]), np.array([2.0, 6.0, 2.0]))
    assert weights == pytest.approx([2 / 600_004, 600_000 / 600_004, 2 / 600_004])
    weights = weiszfeld_weights(np.array([[-1.0], [-4e-6], [4e-6], [1.0]]), np.ones(4))
    assert weights == pytest.approx([1 / 200_002, 100_000 / 200_002, 100_000 / 200_002, 1 / 200_002])
    # Just outside, the distance itself counts.
    weights = weiszfeld_weights(np.array([[-1.0], [-2e-5], [2e-5], [1.0]]), np.ones(4))
    assert weights == pytest.approx([1 / 100_002, 50_000 / 100_002, 50_000 / 100_002, 1 / 100_002])
    setting, shown = by_hand([-1], [0], [1])
    assert [one.value("weight") for one in GeometricMedian().score(setting, shown)] == [10, MICRO, 10]


def test_distant_silo_weighs_less_in_the_geometric_median_and_is_not_left_out() -> None:
    setting, shown = by_hand([0, 1], [1, 0], [0, 0], [1, 1], [9000, 0])
    weights = {one.silo: one.weight for one in decide(setting, shown, "geometric-median", {})}
    assert weights["e"] == 1
    assert min(weight for name, weight in weights.items() if name != "e") > 240
    assert {one.verdict for one in decide(setting, shown, "geometric-median", {})} == {"retained"}


@SEEDS
def test_monna_keeps_the_nearest_to_the_pivot(seed: int) -> None:
    setting, shown = exhibits(seed, 8)
    pivot = vector(setting, shown[3])
    far = [apart(vector(setting, one), pivot) for one in shown]
    nearest = sorted(range(8), key=far.__getitem__)[:6]
    assert kept_by(Monna(silo(3), liars=2), setting, shown) == {silo(place) for place in nearest}
    assert kept_by(Monna(lambda _: shown[3], liars=2), setting, shown[:3] + shown[4:]) == {
        silo(place) for place in sorted((p for p in range(8) if p != 3), key=far.__getitem__)[:5]
    }


def test_monna_by_hand() -> None:
    setting, shown = by_hand([0], [1], [2], [-9])
    assert kept_by(Monna("a", liars=1), setting, shown) == {"a", "b", "c"}
    assert kept_by(Monna("d", liars=1), setting, shown) == {"d", "a", "b"}


@pytest.mark.parametrize(("silos", "kept"), [(1, 1), (5, 5), (6, 5), (10, 9), (11, 9), (15, 13), (16, 13)])
def test_monna_by_default_assumes_fewer_liars_than_a_fifth(silos: int, kept: int) -> None:
    setting, shown = exhibits(0, silos)
    assert len(kept_by(Monna(silo(0)), setting, shown)) == kept


def test_monna_without_its_pivot_says_so() -> None:
    setting, shown = by_hand([0], [1])
    with pytest.raises(MissingEvidence, match="trusts z, which is not in this round"):
        Monna("z").score(setting, shown)
