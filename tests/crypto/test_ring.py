"""Word arithmetic against big integers and, bit for bit, against TenSEAL."""

from __future__ import annotations

import numpy as np
import pytest
import tenseal
from tenseal import sealapi

from crypto import ckks, ring
from crypto.errors import BadCiphertext, OutOfRange
from tests.crypto.conftest import tenseal_vector, tenseal_words


def random_chunk(rng: np.random.Generator) -> ring.Words:
    chunk = rng.integers(0, ring.Q, ring.WORDS, dtype=np.uint64)
    chunk[:3] = 0, ring.Q - 1, 1
    return chunk


def fresh(key: ckks.CkksKey, rng: np.random.Generator) -> ring.Words:
    return key.encrypt(rng.integers(-(2**25), 2**25, 2048))


def test_modulus_is_the_one_that_seal_chooses() -> None:
    assert sealapi.CoeffModulus.Create(4096, [60, 49])[0].value() == ring.Q


def test_add_and_subtract_are_exact_modulo_q(rng: np.random.Generator) -> None:
    a, b = random_chunk(rng), random_chunk(rng)[::-1].copy()
    a[-3:], b[:3] = (ring.Q - 1, 0, ring.Q - 1), (ring.Q - 1, ring.Q - 1, 0)
    pairs = list(zip(a.tolist(), b.tolist(), strict=True))
    assert ring.add(a, b).tolist() == [(x + y) % ring.Q for x, y in pairs]
    assert ring.subtract(a, b).tolist() == [(x - y) % ring.Q for x, y in pairs]


def test_add_and_subtract_are_bit_identical_to_tenseal(
    context: tenseal.Context, key: ckks.CkksKey, rng: np.random.Generator
) -> None:
    a, b = fresh(key, rng), fresh(key, rng)
    left, right = tenseal_vector(context, a), tenseal_vector(context, b)
    assert np.array_equal(ring.add(a, b), tenseal_words(left + right))
    assert np.array_equal(ring.subtract(a, b), tenseal_words(left - right))


def test_weighted_sum_is_bit_identical_to_tenseal(
    context: tenseal.Context, key: ckks.CkksKey, rng: np.random.Generator
) -> None:
    chunks, weights = [fresh(key, rng) for _ in range(3)], [5, 0, 12]
    total = None
    for words, weight in zip(chunks, weights, strict=True):
        for _ in range(weight):
            vector = tenseal_vector(context, words)
            total = vector if total is None else total + vector
    (ours,) = ring.weighted_sum([[words] for words in chunks], weights)
    assert total is not None
    assert np.array_equal(ours, tenseal_words(total))


def test_weighted_sum_is_the_integer_one_chunk_by_chunk(rng: np.random.Generator) -> None:
    parts = [[random_chunk(rng) for _ in range(2)] for _ in range(4)]
    weights = [1024, 0, 1, 333]
    for k, total in enumerate(ring.weighted_sum([iter(part) for part in parts], weights)):
        expected = sum(w * part[k].astype(object) for part, w in zip(parts, weights, strict=True)) % ring.Q
        assert total.tolist() == expected.tolist()


def test_fold_is_the_signed_sum_of_integers(rng: np.random.Generator) -> None:
    chunks = [random_chunk(rng) for _ in range(5)]
    signs = rng.integers(-1, 2, (3, 5)).astype(np.int8)
    folded = ring.fold(iter(chunks), signs)
    for row, words in zip(signs, folded, strict=True):
        expected = sum(int(sign) * chunk.astype(object) for sign, chunk in zip(row, chunks, strict=True)) % ring.Q
        assert words.tolist() == expected.tolist()


def test_chunk_bytes_come_back_and_are_little_endian(rng: np.random.Generator) -> None:
    chunk = random_chunk(rng)
    data = ring.to_bytes(chunk)
    assert int.from_bytes(data[24:32], "little") == int(chunk[3])
    assert np.array_equal(ring.parse_chunk(data), chunk)


@pytest.mark.parametrize("size", [0, 1, ring.CHUNK_BYTES - 1, ring.CHUNK_BYTES + 8])
def test_empty_truncated_and_long_chunks_are_refused(size: int) -> None:
    with pytest.raises(BadCiphertext, match="bytes"):
        ring.parse_chunk(bytes(size))


@pytest.mark.parametrize("word", [ring.Q, ring.Q + 1, 2**64 - 1])
def test_word_that_is_not_below_the_modulus_is_refused(word: int) -> None:
    data = bytes(ring.CHUNK_BYTES - 8) + word.to_bytes(8, "little")
    with pytest.raises(BadCiphertext, match="modulus"):
        ring.parse_chunk(data)


@pytest.mark.parametrize("count", [0, 2, 4])
def test_fold_of_too_few_or_too_many_chunks_is_refused(count: int) -> None:
    with pytest.raises(BadCiphertext):
        ring.fold([np.zeros(ring.WORDS, np.uint64)] * count, np.ones((2, 3), np.int8))


def test_signs_beyond_one_are_refused() -> None:
    with pytest.raises(OutOfRange):
        ring.fold([np.zeros(ring.WORDS, np.uint64)], np.full((1, 1), 2, np.int8))


def test_sum_of_ciphertexts_of_different_length_is_refused() -> None:
    chunk = np.zeros(ring.WORDS, np.uint64)
    with pytest.raises(BadCiphertext):
        list(ring.weighted_sum([[chunk], [chunk, chunk]], [1, 1]))


@pytest.mark.parametrize("weights", [[1], [1, -1], [0, 0], []])
def test_sum_without_proper_weights_is_refused(weights: list[int]) -> None:
    chunk = np.zeros(ring.WORDS, np.uint64)
    with pytest.raises(OutOfRange):
        list(ring.weighted_sum([[chunk], [chunk]], weights))
