"""Stochastic rounding and the one formula of the new model."""

from __future__ import annotations

import hashlib
import os
import struct
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crypto.errors import OutOfRange
from crypto.quantise import apply_aggregate, model_bytes, model_digest, model_from_bytes, quantise, randomness_needed


def test_whole_multiples_are_kept_whatever_the_randomness() -> None:
    values = np.arange(-127.0, 128.0)
    for randomness in (bytes(8 * 255), b"\xff" * 8 * 255, os.urandom(8 * 255)):
        assert np.array_equal(quantise(values * 2.0**-6, -6, randomness), values)


@settings(max_examples=50)
@given(st.lists(st.floats(-1e30, 1e30), min_size=1, max_size=20), st.integers(-20, 20))
def test_rounding_goes_to_a_neighbour_and_stays_in_range(values: list[float], step: int) -> None:
    rounded = quantise(np.array(values), step, os.urandom(randomness_needed(len(values))))
    assert rounded.dtype == np.int16
    for value, result in zip(values, rounded.tolist(), strict=True):
        exact = max(Fraction(-127), min(Fraction(127), Fraction(value) / Fraction(2) ** step))
        assert abs(result - exact) < 1
        assert -127 <= result <= 127


def test_rounding_is_unbiased() -> None:
    size = 40_000
    rounded = quantise(np.full(size, 0.3 - 5), 0, os.urandom(randomness_needed(size)))
    assert set(rounded.tolist()) == {-5, -4}
    # 7 standard errors of a coin of 0.3: a wrong alarm in 10^11 runs.
    assert abs(rounded.mean() + 4.7) < 7 * (0.3 * 0.7 / size) ** 0.5


def test_draws_decide_each_coordinate() -> None:
    low, high = struct.pack("<Q", 2**62 - 2**11), struct.pack("<Q", 2**62)
    assert quantise(np.full(2, 0.25), 0, low + high).tolist() == [1, 0]


@pytest.mark.parametrize(
    "update",
    [
        np.array([np.nan]),
        np.array([np.inf]),
        np.array([-np.inf]),
        np.zeros((1, 1)),
        np.zeros(1, np.float32),
        np.zeros(2),
    ],
)
def test_nan_infinity_wrong_shape_and_type_are_refused(update: np.ndarray) -> None:  # type: ignore[type-arg]
    with pytest.raises(OutOfRange):
        quantise(update, -6, bytes(8))


def test_new_model_is_the_formula_with_one_cast(rng: np.random.Generator) -> None:
    model = rng.normal(size=50).astype(np.float32)
    aggregate = rng.integers(-127 * 1024, 127 * 1024, 50)
    new = apply_aggregate(model, aggregate, -6, 1024)
    assert new.dtype == np.float32
    for old, step, result in zip(model.tolist(), aggregate.tolist(), new.tolist(), strict=True):
        # Both terms are exact in float64 here, so the only roundings are that of the sum and the cast.
        assert result == struct.unpack("<f", struct.pack("<f", old + step / 2**16))[0]


def test_new_model_that_is_not_finite_is_refused() -> None:
    with pytest.raises(OutOfRange, match="finite"):
        apply_aggregate(np.full(1, 3e38, np.float32), np.full(1, 127 * 1024), 120, 1024)
    with pytest.raises(OutOfRange):
        apply_aggregate(np.zeros(2, np.float32), np.zeros(3, np.int64), -6, 1024)


def test_model_bytes_are_little_endian_floats_and_come_back() -> None:
    model = np.array([1.5, -2.25], dtype=np.float32)
    data = struct.pack("<2f", 1.5, -2.25)
    assert model_bytes(model) == data
    assert model_digest(model) == hashlib.sha256(data).hexdigest()
    assert np.array_equal(model_from_bytes(data, 2), model)


@pytest.mark.parametrize(
    "data", [b"", bytes(7), bytes(12), struct.pack("<2f", 0, np.nan), struct.pack("<2f", np.inf, 0)]
)
def test_model_of_wrong_length_or_not_finite_is_refused(data: bytes) -> None:
    with pytest.raises(OutOfRange):
        model_from_bytes(data, 2)
