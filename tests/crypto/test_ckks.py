"""The one wrapper of TenSEAL: parameters, refusals, noise."""

from __future__ import annotations

import numpy as np
import pytest
import tenseal

from crypto import ckks, ring
from crypto.ckks import MAX_SLOT, NOISE_STD, CkksKey
from crypto.errors import KeyMismatch, OutOfRange
from tests.crypto.conftest import encrypt_reals
from tests.crypto.oracle import tenseal_vector, tenseal_words


def fresh(key: CkksKey, slots: np.ndarray) -> ring.Words:  # type: ignore[type-arg]
    return ring.parse_fresh(key.encrypt(slots))


def test_slots_come_back_and_two_encryptions_differ(key: CkksKey, rng: np.random.Generator) -> None:
    slots = rng.integers(-(2**35), 2**35, 4096)
    first, second = fresh(key, slots), fresh(key, slots)
    assert not np.isin(first, second).any()
    assert np.array_equal(np.rint(key.decrypt(first)), slots)


def test_rebuilt_bytes_are_what_tenseal_parses_to_the_same_words(context: tenseal.Context, key: CkksKey) -> None:
    words = fresh(key, np.arange(4096))
    assert np.array_equal(tenseal_words(tenseal_vector(context, words)), words)


def test_tenseal_itself_decrypts_a_fresh_chunk_and_ours_what_tenseal_encrypts(
    context: tenseal.Context, key: CkksKey, rng: np.random.Generator
) -> None:
    slots = rng.integers(-(2**35), 2**35, 4096)
    # TenSEAL sees the real parts only, and encrypts without imaginary ones.
    assert np.array_equal(np.rint(tenseal_vector(context, fresh(key, slots)).decrypt()), slots[0::2])
    theirs = np.rint(key.decrypt(tenseal_words(tenseal.ckks_vector(context, slots[0::2].astype(float).tolist()))))
    assert np.array_equal(theirs[0::2], slots[0::2])
    assert not theirs[1::2].any()


def test_second_half_is_the_public_expansion_of_a_seed_that_never_repeats(key: CkksKey) -> None:
    chunks = [key.encrypt(np.zeros(4096, np.int64)) for _ in range(20)]
    seeds = {chunk[:32] for chunk in chunks}
    assert len(seeds) == 20
    for chunk in chunks:
        assert np.array_equal(ring.parse_fresh(chunk)[4096:], ring.uniform(chunk[:32]))


def test_changing_the_public_half_changes_neither_message_nor_noise(
    key: CkksKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, loaded = [], key._evaluator.sub_inplace

    class Recorder:
        """Decrypts what SEAL made before the public half is exchanged."""

        def sub_inplace(self, cipher: object, other: object) -> None:
            plain = ckks.sealapi.Plaintext()
            key._decryptor.decrypt(cipher, plain)
            before.append(np.array(key._encoder.decode_complex(plain)).view(np.float64))
            loaded(cipher, other)

    monkeypatch.setattr(key, "_evaluator", Recorder())
    after = key.decrypt(fresh(key, np.arange(4096)))
    assert np.array_equal(before[0], after)


def test_slots_at_the_limit_are_exact_and_beyond_refused(key: CkksKey) -> None:
    extreme = np.resize([MAX_SLOT - 1, 1 - MAX_SLOT], 4096)
    for slots in (extreme, np.full(4096, MAX_SLOT - 1), np.full(4096, 1 - MAX_SLOT)):
        assert np.array_equal(np.rint(key.decrypt(fresh(key, slots))), slots)
    for slot in (MAX_SLOT, -MAX_SLOT, 2**63 - 1, -(2**63)):
        with pytest.raises(OutOfRange):
            key.encrypt(np.full(4096, slot))


def test_parts_that_line_up_with_one_root_of_unity_are_still_encoded_and_exact(key: CkksKey) -> None:
    # In SEAL's order of slots (powers of 3) these signs line up with the root's power N/4: the largest coefficient.
    aligned = np.resize([1, 1, -1, 1], 4096) * (MAX_SLOT - 1)
    assert np.array_equal(np.rint(key.decrypt(fresh(key, aligned))), aligned)
    # Were they sqrt(2) as large, SEAL would refuse them: the bound on coefficients is reached, not only obeyed.
    larger = np.rint(1.41 * aligned)
    assert np.array_equal(np.rint(key.decrypt(ring.parse_fresh(encrypt_reals(key, larger)))), larger)
    with pytest.raises(ValueError, match="too large"):
        encrypt_reals(key, 1.42 * aligned)


@pytest.mark.parametrize("slots", [np.zeros(4095, np.int64), np.zeros((1, 4096), np.int64), np.zeros(4096)])
def test_wrong_shape_or_type_is_refused(key: CkksKey, slots: np.ndarray) -> None:  # type: ignore[type-arg]
    with pytest.raises(OutOfRange):
        key.encrypt(slots)


def test_noise_of_a_fresh_encryption_is_what_the_error_bound_assumes(key: CkksKey) -> None:
    zero = np.zeros(4096, np.int64)
    noise = np.concatenate([key.decrypt(fresh(key, zero)) for _ in range(60)])
    # The constant is rounded up; 123,000 slots estimate the deviation within 0.2 %.
    assert 0.97 * NOISE_STD < noise.std() < 1.005 * NOISE_STD
    assert np.abs(noise).max() < 6.5 * NOISE_STD
    # Kurtosis of a Gaussian is 3; the exponential tail of public-key ciphertexts would show as 6 and more.
    assert abs((noise**4).mean() / noise.var() ** 2 - 3) < 0.15


def test_another_key_decrypts_to_noise(key: CkksKey) -> None:
    other = CkksKey.load(ckks.generate())
    wrong = other.decrypt(fresh(key, np.zeros(4096, np.int64)))
    assert np.abs(wrong).max() > 2**20


def test_words_of_any_content_below_the_modulus_do_not_harm_decryption(key: CkksKey, rng: np.random.Generator) -> None:
    for words in (np.zeros(ring.WORDS, np.uint64), rng.integers(0, ring.Q, ring.WORDS, dtype=np.uint64)):
        assert np.isfinite(key.decrypt(words)).all()


@pytest.mark.parametrize("size", [0, 31, 33, 62_000])
def test_secret_of_another_length_is_refused(size: int) -> None:
    with pytest.raises(KeyMismatch):
        CkksKey.load(bytes(size))


def test_tenseal_of_another_form_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_KEY_HEAD", "_HEAD", "_PLAIN_HEAD", "_SEAL_HEADER"):
        with monkeypatch.context() as patch:
            patch.setattr(ckks, name, getattr(ckks, name)[:-1] + b"\xff")
            with pytest.raises(KeyMismatch):
                CkksKey.load(bytes(32))


def test_key_is_symmetric_and_has_no_public_half(context: tenseal.Context) -> None:
    assert context.is_private()
    assert not context.is_public()
    with pytest.raises(ValueError, match="symmetric"):
        context.has_public_key()


def test_repr_shows_nothing(key: CkksKey) -> None:
    assert repr(key) == "CkksKey()"
