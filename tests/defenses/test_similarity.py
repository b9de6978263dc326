"""FLTrust, FLAME's filter, FoolsGold and prototype similarity against loops written from the papers."""

from __future__ import annotations

import math
import statistics
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest

from defenses.decide import decide
from defenses.evidence import Exhibit, Setting, rules_of
from defenses.registry import registered
from defenses.similarity import (
    FlameFilter,
    FlTrust,
    FoolsGold,
    PrototypeSimilarity,
    foolsgold_weights,
    majority_cluster,
    median_similarities,
)
from protos.task import MICRO, PROTOTYPE_GRID
from tests.defenses.naive import SMALL, Vector, by_hand, cosine, dot, exhibits, vector

SEEDS = pytest.mark.parametrize("seed", range(4))


def weights_of(rule: FlTrust | FoolsGold | PrototypeSimilarity, setting: Setting, shown: list[Exhibit]) -> list[float]:
    return [(one.value("weight") or 0) / MICRO for one in rule.score(setting, shown)]


@SEEDS
def test_fltrust_weighs_by_clipped_cosine_over_norm(seed: int) -> None:
    setting, shown = exhibits(seed, 7, common=0.2)
    *shown, root = shown
    trusted = vector(setting, root)
    expected = []
    for mine in (vector(setting, one) for one in shown):
        trust = max(0.0, dot(mine, trusted) / math.sqrt(dot(mine, mine) * dot(trusted, trusted)))
        expected.append(trust * math.sqrt(dot(trusted, trusted)) / math.sqrt(dot(mine, mine)))
    assert weights_of(FlTrust(lambda _: root), setting, shown) == pytest.approx(expected, abs=1e-6)


def test_fltrust_by_hand() -> None:
    setting, (*shown, root) = by_hand([2, 0], [3, 4], [-1, 0], [0, 0], [1, 0])
    rule = FlTrust(lambda _: root)
    assert [one.value("trust") for one in rule.score(setting, shown)] == [MICRO, 600_000, 0, 0]
    assert weights_of(rule, setting, shown) == [0.5, 0.12, 0, 0]
    opinions = rule.opine(rule.score(setting, shown), rules_of(setting))
    assert [one.excluded for one in opinions] == [False, False, True, True]


def final_weights(rule: FlTrust | FoolsGold, setting: Setting, shown: list[Exhibit]) -> list[int]:
    with registered(rule) if isinstance(rule, FlTrust) else nullcontext():
        return [one.weight for one in decide(setting, shown, rule.name, {})]


def test_counts_have_no_part_in_fltrust() -> None:
    setting, (*shown, root) = by_hand([2, 0], [4, 0], [4, 0], [1, 0])
    shown = [replace(one, count=count) for one, count in zip(shown, (100, 200, 300), strict=True)]
    assert final_weights(FlTrust(lambda _: root), setting, shown) == [512, 256, 256]


def naive_majority(vectors: list[Vector]) -> set[int]:
    """Single linkage: the first component of more than half of the points as the threshold grows."""
    number = len(vectors)
    gaps = {(i, j): 1 - cosine(vectors[i], vectors[j]) for i in range(number) for j in range(i)}
    groups = [{place} for place in range(number)]
    for one, other in sorted(gaps, key=gaps.__getitem__):
        mine = next(group for group in groups if one in group)
        theirs = next(group for group in groups if other in group)
        if mine is not theirs:
            groups = [group for group in groups if group is not mine and group is not theirs] + [mine | theirs]
        if len(groups[-1]) > number // 2:
            break
    return groups[-1]


@pytest.mark.parametrize("seed", range(12))
def test_flame_keeps_the_majority_component_of_single_linkage(seed: int) -> None:
    setting, shown = exhibits(seed, 3 + seed % 10, common=0.5 * (seed % 3))
    kept = naive_majority([vector(setting, one) for one in shown])
    admitted = [one.value("admitted") for one in FlameFilter().score(setting, shown)]
    assert admitted == [MICRO * (place in kept) for place in range(len(shown))]


def test_flame_by_hand() -> None:
    setting, shown = by_hand([10, 1], [10, 2], [10, 3], [-10, 1], [0, -10])
    rule = FlameFilter()
    opinions = rule.opine(rule.score(setting, shown), rules_of(setting))
    assert [one.excluded for one in opinions] == [False, False, False, True, True]


def test_flame_looks_at_directions_only() -> None:
    setting, shown = by_hand([10, 1], [10, 2], [10, 3], [9000, 1800])
    assert [one.value("admitted") for one in FlameFilter().score(setting, shown)] == [0, MICRO, MICRO, MICRO]


def test_updates_that_are_all_alike_are_all_in_the_cluster() -> None:
    for number in range(1, 9):
        assert majority_cluster(np.zeros((number, number))).all()
        assert majority_cluster(1 - np.eye(number)).all()


def naive_foolsgold(vectors: list[Vector]) -> list[float]:
    """The paper's algorithm 1, line by line."""
    number = len(vectors)
    similar = [[cosine(one, other) for other in vectors] for one in vectors]
    closest = [max([0.0] + [similar[i][j] for j in range(number) if j != i]) for i in range(number)]
    alphas = []
    for i in range(number):
        row = [0.0]
        for j in range(number):
            if j != i:
                row.append(similar[i][j] * closest[i] / closest[j] if closest[j] > closest[i] else similar[i][j])
        alphas.append(min(1.0, max(0.0, 1 - max(row))))
    found = []
    for alpha in alphas:
        share = alpha / max(alphas)
        share = 0.99 if share == 1 else share
        found.append(0.0 if share == 0 else min(1.0, max(0.0, math.log(share / (1 - share)) + 0.5)))
    return found


@SEEDS
@pytest.mark.parametrize("common", [0.0, 0.7, 2.0])
def test_foolsgold_weighs_by_the_output_layer(seed: int, common: float) -> None:
    setting, shown = exhibits(seed, 8, common=common)
    shown[2] = replace(shown[2], output=shown[5].output + np.arange(setting.output_size) % 3)
    expected = naive_foolsgold([[float(value) for value in one.output] for one in shown])
    assert weights_of(FoolsGold(), setting, shown) == pytest.approx(expected, abs=1e-6)
    assert expected[2] < 0.5
    assert max(expected) == 1


@SEEDS
def test_foolsgold_reads_the_sketch_where_no_output_layer_is_opened(seed: int) -> None:
    setting, shown = exhibits(seed, 6, replace(SMALL, output_size=0), common=0.7)
    expected = naive_foolsgold([vector(setting, one) for one in shown])
    assert weights_of(FoolsGold(), setting, shown) == pytest.approx(expected, abs=1e-6)


def test_foolsgold_by_hand() -> None:
    setting, shown = by_hand([1, 0], [1, 0], [0, 5])
    assert weights_of(FoolsGold(), setting, shown) == [0, 0, 1]
    cosines = np.array([[1, 0.5, 0], [0.5, 1, 0], [0, 0, 1]])
    # a = 1/2, 1/2, 1; of the greatest 1/2, 1/2, 0.99; logits 0.5, 0.5, more than 1.
    assert foolsgold_weights(cosines) == pytest.approx([0.5, 0.5, 1])


def test_foolsgold_weighs_by_count_times_factor() -> None:
    setting, shown = by_hand([1, 1, 0, 0], [1, 0, 1, 0], [0, 0, 0, 1])
    shown = [replace(one, count=count) for one, count in zip(shown, (100, 200, 300), strict=True)]
    # Cosines and factors as by hand above: 100 * 1/2 to 200 * 1/2 to 300, of 1,024, largest remainders first.
    assert final_weights(FoolsGold(), setting, shown) == [114, 227, 683]


def test_sybils_that_only_the_past_shows_are_found_with_a_memory() -> None:
    setting, shown = by_hand([1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0])
    past = {silo: np.array([0.0, 0, 0, 90]) for silo in "ab"}
    assert weights_of(FoolsGold(), setting, shown) == [1, 1, 1]
    assert weights_of(FoolsGold(lambda _: past), setting, shown) == [0, 0, 1]


def test_round_of_one_and_the_same_update_is_void_under_foolsgold() -> None:
    setting, shown = by_hand([1, 2], [1, 2], [1, 2])
    assert [(one.verdict, one.weight) for one in decide(setting, shown, "foolsgold", {})] == [("excluded", 0)] * 3


@SEEDS
def test_prototypes_are_compared_with_the_median_over_silos(seed: int) -> None:
    setting, shown = exhibits(seed, 7)
    shown[4] = replace(shown[4], prototypes=-shown[4].prototypes)
    means = [
        [(row / PROTOTYPE_GRID / n).tolist() for row, n in zip(one.prototypes, one.classes, strict=True)]
        for one in shown
    ]
    expected = []
    for mine in means:
        found = []
        for label in range(setting.classes):
            median = [statistics.median(one[label][k] for one in means) for k in range(setting.embedding)]
            found.append(cosine(mine[label], median))
        expected.append(max(0.1, math.fsum(found) / len(found)))
    assert weights_of(PrototypeSimilarity(), setting, shown) == pytest.approx(expected, abs=1e-6)
    assert expected[4] == 0.1


def test_prototype_similarity_by_hand() -> None:
    values = np.array([[[2.0, 0], [0, 1]], [[1.0, 0], [0, 3]], [[3.0, 4], [9, 9]]])
    known = np.array([[True, True], [True, True], [True, False]])
    # Medians (2, 0) and (0, 2): cosines 1, 1; 1, 1; 3/5.
    assert median_similarities(values, known) == pytest.approx([1, 1, 0.6])


def test_silo_without_a_known_class_gets_the_floor_and_a_round_without_prototypes_weighs_alike() -> None:
    setting, shown = exhibits(1, 5)
    shown[0] = replace(shown[0], classes=np.ones(setting.classes, dtype=np.int64))
    assert weights_of(PrototypeSimilarity(0.25), setting, shown)[0] == 0.25
    bare = [replace(one, prototypes=None) for one in shown]
    assert weights_of(PrototypeSimilarity(), setting, bare) == [1] * 5
