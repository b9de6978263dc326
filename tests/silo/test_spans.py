"""Vectors beside what others span, held against another solver and the conditions that make them what they are."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import optimize

from silo.spans import beside, joined, opposed, unit

RANDOM = np.random.default_rng(3)


def vectors(count: int, size: int = 30) -> list[np.ndarray]:
    return list(RANDOM.standard_normal((count, size)) * 10.0 ** RANDOM.integers(-3, 4, (count, 1)))


@pytest.mark.parametrize("count", [1, 4, 12])
def test_what_is_left_off_a_cone_is_pushed_by_no_mix_of_it_and_is_the_nearest_such(count: int) -> None:
    for vector in vectors(10):
        parts = vectors(count)
        left = opposed(vector, parts)
        matrix = np.stack([unit(part) for part in parts], axis=1)
        assert (left @ matrix).max() < 1e-9
        oracle = unit(vector) - matrix @ optimize.lsq_linear(matrix, unit(vector), bounds=(0, np.inf), tol=1e-14).x
        assert left == pytest.approx(unit(oracle), abs=1e-6)


def test_what_no_part_pushes_stays_and_what_they_make_up_is_gone() -> None:
    vector, *parts = vectors(4)
    against = [part if part @ vector < 0 else -part for part in parts]
    assert opposed(vector, against) == pytest.approx(unit(vector), abs=1e-12)
    assert not opposed(sum(unit(part) for part in parts), parts).any()
    assert opposed(vector, [np.zeros(30)]) == pytest.approx(unit(vector))


def test_parts_that_repeat_or_nearly_do_change_nothing() -> None:
    vector, *parts = vectors(5)
    twice = [*parts, *(3 * part for part in parts), parts[0] * (1 + 1e-13)]
    assert opposed(vector, twice) == pytest.approx(opposed(vector, parts), abs=1e-9)


def test_beside_a_basis_is_orthogonal_to_it_and_a_joined_basis_spans_both() -> None:
    basis, more, vector = np.linalg.qr(np.stack(vectors(3), axis=1))[0], vectors(4), vectors(1)[0]
    whole = joined(basis, [*more, basis[:, 0], np.zeros(30)])
    assert whole.shape == (30, 7)
    assert whole.T @ whole == pytest.approx(np.eye(7), abs=1e-12)
    assert np.abs(beside(vector, whole) @ whole).max() < 1e-12
    assert not beside(whole @ np.arange(7.0), whole).any()
