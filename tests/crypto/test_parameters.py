"""The security level is checked by SEAL itself, on the very bytes that our keys are built from."""

from __future__ import annotations

import math

import numpy as np
import pytest
from tenseal import sealapi

from crypto import ckks, ring
from crypto.ckks import MAX_SLOT, NOISE_STD, SCALE_LOG2, CkksKey
from crypto.ckks_key import DEGREE, KEY_PRIME, ternary
from crypto.errors import KeyMismatch
from crypto.packing import FIELD_BITS, FIELDS, LEVELS, MAX_MULTIPLE

TC128, TC192 = sealapi.SEC_LEVEL_TYPE.TC128, sealapi.SEC_LEVEL_TYPE.TC192


def accepted(moduli: list[int], level: sealapi.SEC_LEVEL_TYPE) -> bool:
    parameters = sealapi.EncryptionParameters(sealapi.SCHEME_TYPE.CKKS)
    parameters.set_poly_modulus_degree(DEGREE)
    parameters.set_coeff_modulus(sealapi.CoeffModulus.Create(DEGREE, moduli))
    return bool(sealapi.SEALContext(parameters, True, level).parameters_set())


def test_all_moduli_are_within_128_bits_of_the_standard_and_what_is_seen_within_192() -> None:
    bits = [ring.Q.bit_length(), KEY_PRIME.bit_length()]
    assert bits == [60, 49]
    assert sum(bits) <= sealapi.CoeffModulus.MaxBitCount(DEGREE, TC128) == 109
    # Ciphertexts are modulo Q alone; the other prime is used by no evaluation key, since there is none.
    assert bits[0] <= sealapi.CoeffModulus.MaxBitCount(DEGREE, TC192) == 75
    assert accepted([60, 49], TC128)
    assert not accepted([60, 50], TC128)


@pytest.mark.parametrize("bits", [50, 55, 60])
def test_key_of_moduli_beyond_the_standard_is_refused(monkeypatch: pytest.MonkeyPatch, bits: int) -> None:
    CkksKey.load(bytes(32))
    monkeypatch.setattr(ckks, "_MODULI_BITS", (60, bits))
    with pytest.raises(KeyMismatch):
        CkksKey.load(bytes(32))


def test_secret_is_ternary_and_uniform() -> None:
    coefficients = np.concatenate([ternary(bytes([index]) * 32) for index in range(40)])
    counts = np.array([(coefficients == value).sum() for value in (-1, 0, 1)])
    assert counts.sum() == 40 * DEGREE
    # Chi-square with two degrees of freedom; the seeds are fixed, so it holds or not once and for all.
    expected = counts.sum() / 3
    assert ((counts - expected) ** 2 / expected).sum() < 13.8


def test_error_constant_is_that_of_the_noise_law() -> None:
    variance = DEGREE / 2 * (21 / 2 + 1 / 4) / 2.0 ** (2 * SCALE_LOG2)
    assert math.sqrt(variance) <= NOISE_STD < 1.001 * math.sqrt(variance)


@pytest.mark.parametrize(("error", "most"), [(1 / 2, -100), (3 / 8, -40)])
def test_wrong_rounding_in_a_round_of_11_million_parameters_is_below_2_to_the_minus_40(error: float, most: int) -> None:
    """For the most uneven weights that there are: everything on one silo."""
    slots = 11_000_000 / FIELDS
    deviations = error / (NOISE_STD * MAX_MULTIPLE)
    assert math.log2(2 * slots) - deviations**2 / 2 / math.log(2) < most


def test_largest_sum_neither_leaves_its_field_nor_wraps_the_modulus() -> None:
    most = LEVELS * MAX_MULTIPLE
    assert most < 2 ** (FIELD_BITS - 1)
    slot = most * (1 + 2**FIELD_BITS)
    # A coefficient is the mean over 2048 complex slots of Re(z times a root of unity), at most |z|, times the scale.
    assert slot < MAX_SLOT
    assert math.sqrt(2) * MAX_SLOT * 2**SCALE_LOG2 < ring.Q / 4
