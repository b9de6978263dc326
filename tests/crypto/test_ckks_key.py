"""The seeded key against keys that TenSEAL makes and against the definition of the transform."""

from __future__ import annotations

import re

import numpy as np
import pytest
import tenseal
import zstandard

from crypto import ckks
from crypto.ckks_key import DEGREE, KEY_PRIME, key_words, primitive_root, reverse_bits, ternary
from crypto.errors import KeyMismatch
from crypto.ring import Q

PRIMES = (Q, KEY_PRIME)
SOME = (0, 1, 2, 77, 2048, 4095)


def inverse(values: list[int], index: int, prime: int) -> int:
    """Coefficient `index` of the polynomial with these transformed values, by the definition, in -1, 0, 1 if small."""
    root = pow(primitive_root(prime), -1, prime)
    total = sum(v * pow(root, (2 * reverse_bits(i) + 1) * index, prime) for i, v in enumerate(values))
    coefficient = total * pow(DEGREE, -1, prime) % prime
    return coefficient - prime if coefficient > prime // 2 else coefficient


def stored_key() -> tuple[bytes, np.ndarray]:  # type: ignore[type-arg]
    """Head and words of a key that TenSEAL made."""
    context = tenseal.context(
        tenseal.SCHEME_TYPE.CKKS,
        DEGREE,
        coeff_mod_bit_sizes=[60, 49],
        encryption_type=tenseal.ENCRYPTION_TYPE.SYMMETRIC,
    )
    data = context.serialize(save_secret_key=True)
    # SEAL's header (magic, length 16, version, zstd, size), then zstd's own magic: compressed words hold the first
    # three bytes by chance once in 250 keys.
    *_, found = re.finditer(rb"\x5e\xa1\x10.{13}(?=\x28\xb5\x2f\xfd)", data, re.DOTALL)
    start = found.start()
    size = int.from_bytes(data[start + 8 : start + 16], "little")
    raw = zstandard.ZstdDecompressor().decompress(data[start + 16 : start + size], max_output_size=1 << 20)
    return raw[: -8 * 2 * DEGREE], np.frombuffer(raw[-8 * 2 * DEGREE :], dtype="<u8")


def test_keys_that_tenseal_makes_are_ternary_in_our_transform() -> None:
    head, words = stored_key()
    assert head == ckks._KEY_HEAD
    for index in SOME:
        found = {inverse(words[k * DEGREE : (k + 1) * DEGREE].tolist(), index, prime) for k, prime in enumerate(PRIMES)}
        assert len(found) == 1, "both primes hold the same key"
        assert found <= {-1, 0, 1}


def test_words_are_the_transform_of_the_ternary_key() -> None:
    seed = bytes(range(32))
    words, secret = key_words(seed), ternary(seed)
    assert words.shape == (2 * DEGREE,)
    for k, prime in enumerate(PRIMES):
        values = words[k * DEGREE : (k + 1) * DEGREE].tolist()
        assert [inverse(values, index, prime) for index in SOME] == secret[list(SOME)].tolist()


def test_coefficients_are_uniform_on_three_values_and_depend_on_the_seed() -> None:
    first, second = ternary(bytes(32)), ternary(b"\x01" * 32)
    assert first.shape == (DEGREE,)
    counts = np.unique(first, return_counts=True)
    assert counts[0].tolist() == [-1, 0, 1]
    # 4096 draws of 1/3: standard deviation 30.
    assert np.abs(counts[1] - DEGREE / 3).max() < 6 * 30
    assert 0.2 < (first == second).mean() < 0.5


def test_seed_of_wrong_length_is_refused() -> None:
    with pytest.raises(KeyMismatch):
        key_words(bytes(31))
