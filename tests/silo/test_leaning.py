from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special

from silo.leaning import leaning

EVEN = np.full(4, 0.25)


@given(st.integers(0, 2**32 - 1), st.floats(0.0, 8.0))
def test_what_is_left_says_every_class_as_often_as_it_is_there(seed: int, spread: float) -> None:
    rng = np.random.default_rng(seed)
    scores = 2 * rng.standard_normal((60, 4)) + spread * rng.standard_normal(4)
    shares = rng.dirichlet(np.full(4, 3.0))
    said = special.softmax(scores - leaning(scores, shares), axis=1).mean(axis=0)
    assert said == pytest.approx(shares, abs=1e-3)


def test_the_shares_of_the_training_records_are_what_the_exact_posterior_leans_to() -> None:
    """Two unit Gaussians, one nine times as frequent: the log of the odds is what their posterior holds too much."""
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.normal(-1, 1, 40_000), rng.normal(1, 1, 40_000)])
    scores = np.stack([-((values + 1) ** 2) / 2 + np.log(0.9), -((values - 1) ** 2) / 2 + np.log(0.1)], axis=1)
    lean = leaning(scores, np.full(2, 0.5))
    assert lean[0] - lean[1] == pytest.approx(np.log(9), abs=0.03)


def test_a_constant_added_to_a_class_is_taken_off_again() -> None:
    scores = np.random.default_rng(1).standard_normal((50, 4))
    pushed = scores + np.array([0.0, 7.0, 0.0, -3.0])
    left, right = (special.softmax(one - leaning(one, EVEN), axis=1) for one in (pushed, scores))
    assert left == pytest.approx(right, abs=1e-3)


def test_a_class_without_records_keeps_its_score() -> None:
    scores = np.random.default_rng(2).standard_normal((50, 3))
    assert leaning(scores, np.array([0.5, 0.0, 0.5]))[1] == 0


def test_scores_without_bounds_give_numbers() -> None:
    scores = np.full((5, 3), 1e30)
    scores[:, 0] = -1e30
    assert np.isfinite(leaning(scores, np.full(3, 1 / 3))).all()
