"""Membership inference finds members where there is no privacy, and stays within the bound where there is."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import pytest
from scipy import stats

from audit.accounting import task_charges
from redteam.privacy import membership
from redteam.privacy.bounds import advantage_bound, mechanism_bound
from redteam.privacy.membership import Found, Shadows
from redteam.privacy.settings import Design, task_at
from tests.redteam.privacy.digits import digits
from tests.silo.entropy import SeededEntropy

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore:Full backward hook")]

LINEAR = Design((64, 10), rounds=4, steps=40, learning_rate=2.0)
SURE = 1e-4


@cache
def found(epsilon: float, design: Design = LINEAR, models: int = 16) -> Found:
    task, model = task_at(epsilon, design)
    features, labels = digits()
    pool = features[:160], labels[:160]
    return membership.infer(task, model, pool, models, np.random.default_rng(1), SeededEntropy(0))


def test_without_privacy_members_of_a_linear_model_are_found() -> None:
    guesses = found(math.inf).guesses
    assert guesses.interval(SURE)[0] > 0.3
    assert found(math.inf).true_positive_rate(0.01)[1] > 0.1


def test_without_privacy_members_of_a_network_are_found() -> None:
    design = Design((64, 32, 10), rounds=2, steps=40, learning_rate=1.5)
    assert found(math.inf, design, models=8).guesses.interval(SURE)[0] > 0.15


@pytest.mark.parametrize("epsilon", [8.0, 3.0, 1.0, 0.5])
def test_with_privacy_the_advantage_stays_within_both_bounds(epsilon: float) -> None:
    low, high = found(epsilon).guesses.interval(SURE)
    sharp = mechanism_bound(task_charges(task_at(epsilon, LINEAR)[0]))
    assert sharp <= advantage_bound(epsilon, LINEAR.delta)
    assert low <= sharp
    assert high < found(math.inf).guesses.interval(SURE)[0], "privacy must cost the attacker something"


def test_likelihood_ratios_are_those_of_the_normals_that_made_the_scores() -> None:
    random = np.random.default_rng(0)
    inside = random.random((4_000, 3)) < 0.5
    centres = np.where(inside, [1.0, 2.0, 0.0], [0.0, 0.0, 0.0])
    shadows = Shadows(centres + np.where(inside, 0.5, 1.0) * random.normal(size=inside.shape), inside)
    score = np.array([0.3, 1.0, -0.5])
    exact = stats.norm.logpdf(score, [1.0, 2.0, 0.0], 0.5) - stats.norm.logpdf(score, 0.0, 1.0)
    assert membership.likelihood_ratios(shadows, score) == pytest.approx(exact, abs=0.15)


def test_log_odds_are_those_of_the_softmax() -> None:
    task, _ = task_at(math.inf, LINEAR)
    model = np.random.default_rng(0).normal(size=task.layout.size).astype(np.float32)
    features, labels = digits()[0][:20], digits()[1][:20]
    scores = features.astype(np.float64) @ model[:640].reshape(10, 64).T + model[640:]
    shares = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    right = shares[np.arange(20), labels]
    assert membership.log_odds(task, model, features, labels) == pytest.approx(np.log(right / (1 - right)), rel=1e-4)


def test_scores_that_say_nothing_give_no_advantage() -> None:
    random = np.random.default_rng(2)
    inside = np.argsort(random.random((16, 400)), axis=0) < 8
    shadows = Shadows(random.normal(size=inside.shape), inside)
    ratios = [membership.likelihood_ratios(membership._without(shadows, one), shadows.scores[one]) for one in range(16)]
    low, high = Found(np.concatenate(ratios), inside.ravel()).guesses.interval(SURE)
    assert low < 0 < high


def test_the_true_positive_rate_is_read_at_or_below_the_false_positive_rate() -> None:
    ratios = np.concatenate([np.arange(100.0), np.arange(100.0) + 50])
    rate, low, high = Found(ratios, np.arange(200) >= 100).true_positive_rate(0.1)
    # Ten of the others lie above 89; of the members, 50 to 149, sixty do.
    assert rate == pytest.approx(0.6)
    assert low < 0.6 < high
