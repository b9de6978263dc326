"""The one wrapper of TenSEAL: parameters, refusals, noise."""

from __future__ import annotations

import numpy as np
import pytest
import tenseal

from crypto import ckks, ring
from crypto.ckks import MAX_SLOT, NOISE_STD, CkksKey
from crypto.errors import KeyMismatch, OutOfRange
from tests.crypto.conftest import tenseal_vector, tenseal_words


def test_slots_come_back_and_two_encryptions_differ(key: CkksKey, rng: np.random.Generator) -> None:
    slots = rng.integers(-(2**35), 2**35, 2048)
    first, second = key.encrypt(slots), key.encrypt(slots)
    assert not np.array_equal(first, second)
    assert np.array_equal(np.rint(key.decrypt(first)), slots)


def test_rebuilt_bytes_are_what_tenseal_parses_to_the_same_words(context: tenseal.Context, key: CkksKey) -> None:
    words = key.encrypt(np.arange(2048))
    assert np.array_equal(tenseal_words(tenseal_vector(context, words)), words)


def test_slots_at_the_limit_are_exact_and_beyond_refused(key: CkksKey) -> None:
    extreme = np.resize([MAX_SLOT - 1, 1 - MAX_SLOT], 2048)
    for slots in (extreme, np.full(2048, MAX_SLOT - 1), np.full(2048, 1 - MAX_SLOT)):
        assert np.array_equal(np.rint(key.decrypt(key.encrypt(slots))), slots)
    for slot in (MAX_SLOT, -MAX_SLOT, 2**63 - 1, -(2**63)):
        with pytest.raises(OutOfRange):
            key.encrypt(np.full(2048, slot))


@pytest.mark.parametrize("slots", [np.zeros(2047, np.int64), np.zeros((1, 2048), np.int64), np.zeros(2048)])
def test_wrong_shape_or_type_is_refused(key: CkksKey, slots: np.ndarray) -> None:  # type: ignore[type-arg]
    with pytest.raises(OutOfRange):
        key.encrypt(slots)


def test_noise_of_a_fresh_encryption_is_what_the_error_bound_assumes(key: CkksKey) -> None:
    zero = np.zeros(2048, np.int64)
    noise = np.concatenate([key.decrypt(key.encrypt(zero)) for _ in range(60)])
    # The constant is rounded up; 123,000 slots estimate the deviation within 0.2 %.
    assert 0.97 * NOISE_STD < noise.std() < 1.005 * NOISE_STD
    assert np.abs(noise).max() < 6.5 * NOISE_STD
    # Kurtosis of a Gaussian is 3; the exponential tail of public-key ciphertexts would show as 6 and more.
    assert abs((noise**4).mean() / noise.var() ** 2 - 3) < 0.15


def test_another_key_decrypts_to_noise(key: CkksKey) -> None:
    other = CkksKey.load(ckks.generate())
    wrong = other.decrypt(key.encrypt(np.zeros(2048, np.int64)))
    assert np.abs(wrong).max() > 2**20


def test_words_of_any_content_below_the_modulus_do_not_harm_decryption(key: CkksKey, rng: np.random.Generator) -> None:
    for words in (np.zeros(ring.WORDS, np.uint64), rng.integers(0, ring.Q, ring.WORDS, dtype=np.uint64)):
        assert np.isfinite(key.decrypt(words)).all()


def test_secret_of_other_parameters_is_refused() -> None:
    for degree, moduli in [(4096, [60, 48]), (4096, [50, 59]), (8192, [60, 49])]:
        other = tenseal.context(
            tenseal.SCHEME_TYPE.CKKS,
            degree,
            coeff_mod_bit_sizes=moduli,
            encryption_type=tenseal.ENCRYPTION_TYPE.SYMMETRIC,
        )
        with pytest.raises(KeyMismatch):
            CkksKey.load(other.serialize(save_secret_key=True))


def test_public_key_context_is_refused() -> None:
    other = tenseal.context(tenseal.SCHEME_TYPE.CKKS, 4096, coeff_mod_bit_sizes=[60, 49])
    with pytest.raises(KeyMismatch):
        CkksKey.load(other.serialize(save_secret_key=True))


def test_secret_that_is_missing_or_damaged_is_refused(context: tenseal.Context) -> None:
    whole = context.serialize(save_secret_key=True)
    for bad in (b"", b"garbage", whole[:1000], whole[:-1], context.serialize(save_secret_key=False)):
        with pytest.raises(KeyMismatch):
            CkksKey.load(bad)


def test_repr_shows_nothing(key: CkksKey) -> None:
    assert repr(key) == "CkksKey()"
