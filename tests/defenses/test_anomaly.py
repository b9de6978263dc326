"""FLSec and FLAB against naive readings of their descriptions: two means by trying every partition."""

from __future__ import annotations

import math
import statistics
from dataclasses import replace
from fractions import Fraction
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from defenses.anomaly import AnomalyBias, Flab, FlSec, most_anomalous, two_means_edge
from defenses.errors import MissingEvidence
from defenses.evidence import Exhibit, Setting, rules_of
from defenses.rule import Defense
from protos.task import MICRO
from tests.defenses.naive import SMALL, by_hand, exhibits

SEEDS = pytest.mark.parametrize("seed", range(4))


def removed_by(rule: Defense, setting: Setting, shown: list[Exhibit]) -> set[str]:
    return {one.silo for one in rule.opine(rule.score(setting, shown), rules_of(setting)) if one.excluded}


def biases(*pairs: tuple[int, int]) -> list[AnomalyBias]:
    return [AnomalyBias(label, degree) for label, degree in pairs]


def with_bias(setting: Setting, row: list[int]) -> list[int]:
    """An output layer with nothing but biases."""
    return [0] * (setting.classes * setting.embedding) + row


@SEEDS
def test_flsec_removes_the_longest_output_layers(seed: int) -> None:
    setting, shown = exhibits(seed, 10)
    lengths = {one.silo: math.sqrt(sum(int(value) ** 2 for value in one.output)) for one in shown}
    assert removed_by(FlSec(), setting, shown) == set(sorted(lengths, key=lengths.__getitem__)[6:])
    scores = [one.value("grad-score") for one in FlSec().score(setting, shown)]
    per_step = setting.step / setting.learning_rate / setting.steps
    assert scores == pytest.approx([length * per_step * MICRO for length in lengths.values()], abs=1)


def test_flsec_by_hand() -> None:
    setting, shown = by_hand([3, 4], [0, 1], [6, 8], [0, 2])
    assert removed_by(FlSec(Fraction(1, 2)), setting, shown) == {"a", "c"}
    assert removed_by(FlSec(Fraction(99, 100)), setting, shown) == {"c"}


@pytest.mark.parametrize("number", range(2, 12))
def test_flsec_always_removes_somebody_and_never_everybody(number: int) -> None:
    setting, shown = exhibits(0, number)
    for share in (Fraction(1, 100), Fraction(3, 5), Fraction(1)):
        assert 1 <= len(removed_by(FlSec(share), setting, shown)) < number


@given(st.lists(st.integers(0, 30), min_size=2, max_size=9))
def test_two_means_are_as_good_as_any_partition(values: list[int]) -> None:
    edge = two_means_edge(values)
    if edge is None:
        assert len(set(values)) == 1
        return

    def spread(group: list[int]) -> float:
        return sum((value - statistics.fmean(group)) ** 2 for value in group) if group else 0.0

    best = min(
        spread([values[i] for i in chosen]) + spread([values[i] for i in range(len(values)) if i not in chosen])
        for size in range(len(values))
        for chosen in combinations(range(len(values)), size)
    )
    found = spread([v for v in values if v >= edge]) + spread([v for v in values if v < edge])
    assert found == pytest.approx(best, abs=1e-9)
    assert edge in values


@SEEDS
def test_flab_reads_class_and_height_of_the_greatest_bias(seed: int) -> None:
    setting, shown = exhibits(seed, 9, SMALL)
    for one, scored in zip(shown, Flab().score(setting, shown), strict=True):
        bias = [int(value) * setting.step for value in one.output[-4:]]
        assert scored.value("bias-class") == bias.index(max(bias)) * MICRO
        assert scored.value("bias-degree") == pytest.approx((max(bias) - statistics.fmean(bias)) * MICRO, abs=1)


def naive_accused(pairs: list[tuple[int, int]]) -> int:
    cluster = sorted(pairs, key=lambda pair: pair[1])
    while True:
        labels = [label for label, _ in cluster]
        mode = max(set(labels), key=labels.count)
        if labels.count(mode) > len(labels) / 2:
            return mode
        degrees = [degree for _, degree in cluster]
        splits = [cut for cut in range(1, len(cluster)) if degrees[cut] > degrees[cut - 1]]
        costs = {
            cut: statistics.pvariance(degrees[:cut]) * cut + statistics.pvariance(degrees[cut:]) * (len(degrees) - cut)
            for cut in splits
        }
        cluster = cluster[min(costs, key=costs.__getitem__) :]


@pytest.mark.parametrize("seed", range(15))
def test_flab_narrows_the_higher_cluster_until_one_class_prevails(seed: int) -> None:
    rng = np.random.default_rng(seed)
    number = int(rng.integers(1, 25))
    degrees = rng.choice(10**6, number, replace=False)
    pairs = [(int(label), int(degree)) for label, degree in zip(rng.integers(0, 6, number), degrees, strict=True)]
    assert most_anomalous(biases(*pairs)) == naive_accused(pairs)


def test_flab_by_hand() -> None:
    # No class has more than half of five; degrees split into {1, 2, 3} and {50, 60}, of which two bear class 7.
    assert most_anomalous(biases((0, 1), (1, 2), (2, 3), (7, 50), (7, 60))) == 7
    setting, _ = by_hand([0])
    setting, shown = by_hand(
        *(with_bias(setting, [0] * label + [height] + [0] * (9 - label)) for label, height in
          ((0, 1), (1, 2), (2, 3), (7, 50), (7, 60), (7, 1)))
    )  # fmt: skip
    setting = replace(setting, output_size=330)
    # The last bears the class too, however faintly.
    assert removed_by(Flab(), setting, shown) == {"d", "e", "f"}


def test_flab_stands_against_a_majority_of_attackers() -> None:
    attackers = [(3, 90 + height) for height in range(8)]
    assert most_anomalous(biases(*attackers, (0, 5), (1, 7))) == 3


@SEEDS
def test_flab_removes_somebody_without_any_attack(seed: int) -> None:
    setting, shown = exhibits(seed, 12)
    assert 1 <= len(removed_by(Flab(), setting, shown)) < 12


def test_flab_removes_nobody_where_all_bear_one_class() -> None:
    setting, _ = by_hand([0])
    setting, shown = by_hand(*(with_bias(setting, [height] + [0] * 9) for height in (1, 5, 90)))
    assert removed_by(Flab(), setting, shown) == set()


@pytest.mark.parametrize("rule", [Flab(), FlSec()])
def test_unopened_output_layer_is_said(rule: Defense) -> None:
    setting, shown = exhibits(0, 4, replace(SMALL, output_size=0))
    with pytest.raises(MissingEvidence, match="reads the exact output layer, which this task does not open"):
        rule.score(setting, shown)


def test_output_layer_without_bias_is_said() -> None:
    setting, shown = by_hand([1, 2], [3, 4])
    with pytest.raises(MissingEvidence, match="biases"):
        Flab().score(setting, shown)
