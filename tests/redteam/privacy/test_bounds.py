"""Bounds on attackers, against closed forms and simulated guesses."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from protos.messages import Charge
from protos.task import MICRO
from redteam.privacy.bounds import Guesses, advantage_bound, clopper_pearson, epsilon_at_least, mechanism_bound


@pytest.mark.parametrize(("epsilon", "expected"), [(0.0, 0.0), (math.log(3), 0.5), (math.inf, 1.0), (1000.0, 1.0)])
def test_the_advantage_bound_has_its_known_values(epsilon: float, expected: float) -> None:
    assert advantage_bound(epsilon, 0.0) == pytest.approx(expected)


def test_delta_alone_is_the_advantage_that_it_is() -> None:
    assert advantage_bound(0.0, 0.25) == pytest.approx(0.25)


@pytest.mark.parametrize(("noise", "steps"), [(1.0, 1), (2.0, 3), (5.0, 10)])
def test_the_mechanism_bound_is_the_gaussians_total_variation_distance(noise: float, steps: int) -> None:
    exact = 2 * stats.norm.cdf(math.sqrt(steps) / noise / 2) - 1
    found = mechanism_bound([Charge("training", round(noise * MICRO), MICRO, steps)])
    assert exact <= found + 1e-9
    assert found == pytest.approx(exact, abs=5e-3)


def test_the_mechanism_bound_is_sharper_than_that_of_epsilon_and_delta() -> None:
    from audit.accounting import epsilon

    charge = Charge("training", MICRO, 100_000, 20)
    coarse = advantage_bound(epsilon((charge,), 10_000) / MICRO, 1e-5)
    assert 0 < mechanism_bound([charge]) < coarse


def test_clopper_pearson_covers_at_least_as_often_as_it_says() -> None:
    for chance in (0.01, 0.3, 0.9):
        law = stats.binom(40, chance)
        covered = sum(law.pmf(k) for k in range(41) if clopper_pearson(k, 40, 0.1)[0] <= chance
                      <= clopper_pearson(k, 40, 0.1)[1])  # fmt: skip
        assert covered >= 0.9


def test_the_proof_of_epsilon_never_exceeds_it_for_a_mechanism_at_its_bound() -> None:
    epsilon, delta, trials = 1.0, 0.01, 5_000
    # The best mechanism for the attacker: with δ it tells all, else randomised response with e^ε : 1.
    right = delta + (1 - delta) * math.exp(epsilon) / (1 + math.exp(epsilon))
    wrong = (1 - delta) / (1 + math.exp(epsilon))
    random = np.random.default_rng(0)
    counts = zip(random.binomial(trials, right, 200), random.binomial(trials, wrong, 200), strict=True)
    proofs = [epsilon_at_least(Guesses(hit, trials, miss, trials), delta, 0.01) for hit, miss in counts]
    assert sum(proof > epsilon for proof in proofs) <= 10
    assert np.median(proofs) > 0.85 * epsilon


def test_guessing_proves_nothing() -> None:
    assert epsilon_at_least(Guesses(50, 100, 50, 100), 0.0, 0.05) == 0.0


def test_perfect_guesses_prove_as_much_as_their_number_allows() -> None:
    for number in (20, 2_000):
        # Of n out of n, the exact lower limit that misses with probability a is a^(1/n).
        least = (0.05 / 4) ** (1 / number)
        proof = epsilon_at_least(Guesses(number, number, 0, number), 0.0, 0.05)
        assert proof == pytest.approx(math.log(least / (1 - least)))


def test_the_interval_holds_the_advantage_between_its_ends() -> None:
    guesses = Guesses(60, 100, 20, 100)
    low, high = guesses.interval()
    assert guesses.advantage == pytest.approx(0.4)
    assert 0.15 < low < 0.4 < high < 0.65
