"""Contract of every aggregation rule, and how policies that name one are refused."""

from __future__ import annotations

import numpy as np
import pytest

from coordinator.errors import BadPolicy
from coordinator.policy import policy_from
from defenses import aggregation, registry
from defenses.errors import DefenseError, NeedsPlaintext, TooFewSilos, UnknownDefense
from defenses.rule import Plain

each_rule = pytest.mark.parametrize("name", aggregation.names())
SIZES = ((1, 0), (2, 0), (5, 0), (7, 1), (12, 2), (20, 4))


def run(name: str, updates: np.ndarray, weights: np.ndarray, liars: int) -> np.ndarray:
    return aggregation.get(name)(updates, weights, liars, np.random.default_rng(5))


def rounds(name: str) -> list[tuple[np.ndarray, np.ndarray, int]]:
    """Updates, weights and liars that the rule takes: spread out, clustered and with one far away."""
    factor, rest = aggregation.get(name).fewest
    rng = np.random.default_rng(11)
    found = []
    for number, liars in SIZES:
        if number >= factor * liars + rest:
            updates = rng.normal(size=(number, 6))
            far = np.where(np.arange(number) == 0, 1e6, 1.0)[:, None]
            for shown in (updates, 5 + 0.01 * updates, updates * far):
                found.append((shown, rng.uniform(0.5, 2, number), liars))
    return found


@each_rule
def test_result_has_a_coordinate_each_and_is_finite(name: str) -> None:
    for updates, weights, liars in rounds(name):
        before = updates.copy()
        result = run(name, updates, weights, liars)
        assert result.shape == (6,)
        assert result.dtype == np.float64
        assert np.isfinite(result).all()
        assert (updates == before).all()


@each_rule
def test_order_of_silos_changes_nothing(name: str) -> None:
    for updates, weights, liars in rounds(name):
        order = np.random.default_rng(2).permutation(len(updates))
        shuffled = run(name, updates[order], weights[order], liars)
        assert shuffled == pytest.approx(run(name, updates, weights, liars), rel=1e-9, abs=1e-9)


@each_rule
def test_unit_of_the_updates_changes_nothing(name: str) -> None:
    for updates, weights, liars in rounds(name):
        doubled = run(name, 8 * updates, weights, liars)
        assert doubled == pytest.approx(8 * run(name, updates, weights, liars), rel=1e-9)


@each_rule
def test_unit_of_the_weights_changes_nothing(name: str) -> None:
    for updates, weights, liars in rounds(name):
        assert run(name, updates, 3 * weights, liars) == pytest.approx(run(name, updates, weights, liars))


@pytest.mark.parametrize("name", [name for name in aggregation.names() if aggregation.get(name).translates])
def test_moved_updates_move_the_result_alike(name: str) -> None:
    shift = np.arange(6.0)
    for updates, weights, liars in rounds(name):
        moved = run(name, updates + shift, weights, liars)
        assert moved == pytest.approx(run(name, updates, weights, liars) + shift, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("name", [name for name in aggregation.names() if aggregation.get(name).box])
def test_result_lies_between_least_and_greatest(name: str) -> None:
    for updates, weights, liars in rounds(name):
        result = run(name, updates, weights, liars)
        slack = 1e-9 * np.abs(updates).max()
        assert (result >= updates.min(axis=0) - slack).all()
        assert (result <= updates.max(axis=0) + slack).all()


@pytest.mark.parametrize("name", [name for name in aggregation.names() if aggregation.get(name).hull])
def test_result_is_a_mixture_of_the_updates(name: str) -> None:
    from scipy.optimize import nnls

    for updates, weights, liars in rounds(name):
        if np.abs(updates).max() > 100:
            continue
        result = run(name, updates, weights, liars)
        # Shares that are positive, give the result and sum to 1.
        system = np.vstack([updates.T, np.ones(len(updates))])
        _, left = nnls(system, np.append(result, 1.0))
        assert left < 1e-8


@each_rule
def test_single_silo_is_its_own_aggregate_or_refused(name: str) -> None:
    if aggregation.get(name).fewest[1] > 1:
        with pytest.raises(TooFewSilos):
            run(name, np.ones((1, 2)), np.ones(1), 0)
        return
    update = np.array([[3.0, -4.0]])
    assert run(name, update, np.ones(1), 0) == pytest.approx(update[0], rel=0.01)


@each_rule
def test_updates_that_are_all_alike_are_the_aggregate(name: str) -> None:
    update = np.array([1.0, -2.0, 0.5])
    result = run(name, np.tile(update, (7, 1)), np.ones(7), 1)
    # FLAME adds noise of a thousandth of the norm.
    assert result == pytest.approx(update, abs=0.01)
    assert run(name, np.zeros((7, 3)), np.ones(7), 1).tolist() == [0, 0, 0]


@each_rule
def test_one_liar_of_seven_moves_the_result_little(name: str) -> None:
    rng = np.random.default_rng(3)
    updates = rng.normal(2.0, 0.1, (7, 8))
    updates[4] = -1e7
    result = run(name, updates, np.ones(7), 1)
    assert np.abs(result - 2.0).max() < 1.5


@each_rule
def test_too_many_liars_are_refused(name: str) -> None:
    factor, rest = aggregation.get(name).fewest
    silos = factor * 2 + rest - 1
    with pytest.raises(TooFewSilos, match=f"{name} needs at least {silos + 1} silos against 2 liars, not {silos}"):
        run(name, np.zeros((silos, 2)), np.ones(silos), 2)


def test_bulyan_needs_four_f_plus_three() -> None:
    with pytest.raises(TooFewSilos, match="at least 7 silos"):
        run("bulyan", np.zeros((6, 2)), np.ones(6), 1)


@pytest.mark.parametrize(
    ("updates", "weights", "liars"),
    [
        (np.zeros((0, 2)), np.ones(0), 0),
        (np.zeros(3), np.ones(3), 0),
        (np.zeros((3, 2)), np.ones(2), 0),
        (np.full((3, 2), np.nan), np.ones(3), 0),
        (np.zeros((3, 2)), np.array([1.0, 0.0, 1.0]), 0),
        (np.zeros((3, 2)), np.ones(3), -1),
    ],
)
def test_unusable_arguments_are_refused(updates: np.ndarray, weights: np.ndarray, liars: int) -> None:
    with pytest.raises(DefenseError):
        run("median", updates, weights, liars)


def test_unknown_aggregation_rule_names_the_known_ones() -> None:
    with pytest.raises(UnknownDefense, match="arc, bulyan, centered-clipping"):
        aggregation.get("krum")


@each_rule
def test_policy_that_names_an_aggregation_rule_is_refused_with_the_reason(name: str) -> None:
    with pytest.raises(NeedsPlaintext, match=f"{name} changes or mixes single updates"):
        registry.get(name)
    with pytest.raises(BadPolicy, match="needs them in plaintext and cannot run under encryption"):
        policy_from({"defense": name})


def test_name_of_an_aggregation_rule_cannot_be_taken() -> None:
    median = aggregation.get("median")
    with pytest.raises(DefenseError, match="'median' is registered already"):
        aggregation.register(median)

    class Median(Plain):
        name = "median"

    with pytest.raises(DefenseError, match="'median' is an aggregation rule"):
        registry.register(Median())
