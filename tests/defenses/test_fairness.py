"""q-FedAvg and agnostic federated learning: formulas against loops, bisection and finite differences."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from defenses.decide import decide
from defenses.fairness import Afl, QFedAvg, agnostic_mixture, q_factors, q_fedavg_step, simplex_projection
from defenses.registry import registered
from protos.task import MICRO
from tests.defenses.naive import by_hand

LOSSES = st.lists(st.floats(0.01, 5), min_size=1, max_size=8)


def bisected(vector: list[float]) -> list[float]:
    """Projection on the simplex: the threshold t with sum max(0, v - t) = 1, by halving."""
    low, high = min(vector) - 2, max(vector)
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if math.fsum(max(0.0, v - middle) for v in vector) > 1 else (low, middle)
    return [max(0.0, v - low) for v in vector]


@given(LOSSES, st.floats(0, 4))
def test_q_factors_are_the_gradient_of_the_fair_objective(losses: list[float], q: float) -> None:
    # d/dF of F^(q+1) / (q+1), by central differences.
    slopes = [((f + 1e-5) ** (q + 1) - (f - 1e-5) ** (q + 1)) / (q + 1) / 2e-5 for f in losses]
    expected = [slope / max(slopes) for slope in slopes]
    assert q_factors(np.array(losses), q) == pytest.approx(expected, abs=1e-4)


@given(LOSSES, st.floats(0, 3), st.integers(0, 2**32 - 1))
def test_q_fedavg_step_sums_over_silos(losses: list[float], q: float, seed: int) -> None:
    updates = np.random.default_rng(seed).normal(size=(len(losses), 3))
    top, bottom = [0.0] * 3, 0.0
    for loss, update in zip(losses, updates.tolist(), strict=True):
        moved = [10.0 * value for value in update]
        top = [sum_ + loss**q * value for sum_, value in zip(top, moved, strict=True)]
        bottom += q * loss ** (q - 1) * sum(value * value for value in moved) + 10.0 * loss**q
    expected = [value / bottom for value in top]
    assert q_fedavg_step(updates, np.array(losses), q, 10.0) == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_q_of_zero_is_the_plain_mean() -> None:
    updates = np.array([[1.0, 2.0], [3.0, 6.0]])
    assert q_fedavg_step(updates, np.array([0.3, 2.0]), 0.0, 5.0) == pytest.approx([2, 4])


@given(st.lists(st.floats(-3, 3), min_size=1, max_size=9))
def test_projection_on_the_simplex(vector: list[float]) -> None:
    assert simplex_projection(np.array(vector)) == pytest.approx(bisected(vector), abs=1e-9)


@given(st.lists(st.lists(st.floats(0, 5), min_size=4, max_size=4), max_size=6), st.floats(0.01, 1))
def test_agnostic_mixture_climbs_and_projects(rounds: list[list[float]], rate: float) -> None:
    mixture = [0.25] * 4
    for losses in rounds:
        mixture = bisected([share + rate * loss for share, loss in zip(mixture, losses, strict=True)])
    assert agnostic_mixture(np.array(rounds).reshape(-1, 4), rate) == pytest.approx(mixture, abs=1e-9)


def test_agnostic_mixture_by_hand() -> None:
    # (1/2, 1/2) + (0, 0.4), less 0.2 each; then again; then the first is at 0.
    assert agnostic_mixture(np.array([[0, 0.4]]), 1.0) == pytest.approx([0.3, 0.7])
    assert agnostic_mixture(np.array([[0, 0.4]] * 3), 1.0) == pytest.approx([0, 1])


def weights_under(rule: QFedAvg | Afl, counts: tuple[int, int, int] = (100, 100, 100)) -> dict[str, int]:
    setting, shown = by_hand([1], [2], [3])
    shown = [replace(one, count=count) for one, count in zip(shown, counts, strict=True)]
    with registered(rule):
        return {one.silo: one.weight for one in decide(setting, shown, rule.name, {})}


def test_silo_with_twice_the_loss_weighs_twice_as_much_under_q_fedavg() -> None:
    rounds: list[Mapping[str, float]] = [{"a": 9.0}, {"a": 0.2, "b": 0.1, "c": 0.1}]
    assert weights_under(QFedAvg(lambda _: rounds)) == {"a": 512, "b": 256, "c": 256}
    assert weights_under(QFedAvg(lambda _: rounds, q=0)) == weights_under(QFedAvg(lambda _: []))
    # A silo without a loss gets the mean, 0.2.
    assert weights_under(QFedAvg(lambda _: [{"a": 0.3, "b": 0.1}])) == {"a": 512, "b": 171, "c": 341}


def test_q_fedavg_weighs_by_count_times_loss() -> None:
    rounds: list[Mapping[str, float]] = [{"a": 0.2, "b": 0.1, "c": 0.1}]
    # 100 * 2 to 200 * 1 to 300 * 1, in sevenths of 1,024; of two equal remainders a's is rounded up.
    assert weights_under(QFedAvg(lambda _: rounds), (100, 200, 300)) == {"a": 293, "b": 292, "c": 439}
    assert weights_under(QFedAvg(lambda _: []), (100, 200, 300)) == {"a": 171, "b": 341, "c": 512}


def test_counts_have_no_part_in_afl() -> None:
    # Shares of 1/3 + 0.1, 1/3 and 1/3, less 1/30 each: 0.4, 0.3, 0.3.
    rounds: list[Mapping[str, float]] = [{"a": 1.0}]
    assert weights_under(Afl(lambda _: rounds), (100, 200, 300)) == {"a": 410, "b": 307, "c": 307}


def test_worst_silo_takes_all_under_afl() -> None:
    rounds: list[Mapping[str, float]] = [{"a": 0.9, "b": 0.1, "c": 0.1, "gone": 5.0}] * 20
    assert weights_under(Afl(lambda _: rounds)) == {"a": 1024, "b": 0, "c": 0}
    assert sorted(weights_under(Afl(lambda _: [])).values()) == [341, 341, 342]


def test_lost_silo_of_low_loss_is_not_excluded() -> None:
    setting, shown = by_hand([1], [2])
    scored = QFedAvg(lambda _: [{"a": 1.0, "b": 0.0}], q=3).score(setting, shown)
    assert [one.value("weight") for one in scored] == [MICRO, 1]
