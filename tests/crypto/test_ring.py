"""Word arithmetic against big integers and, bit for bit, against TenSEAL."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import tenseal
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from hypothesis import given, settings
from hypothesis import strategies as st
from tenseal import sealapi

from crypto import ckks, ring
from crypto.errors import BadCiphertext, OutOfRange
from tests.crypto.oracle import tenseal_vector, tenseal_words


def _stream(seed: bytes, count: int) -> list[int]:
    """The definition, block by block: every block's counter is set by hand."""
    data = b""
    for block in range(-(-count // 8)):
        counter = block.to_bytes(4, "little") + b"concordat/c1"
        data += Cipher(ChaCha20(seed, counter), None).encryptor().update(bytes(64))
    return [int.from_bytes(data[8 * i : 8 * i + 8], "little") % 2**60 for i in range(count)]


def random_chunk(rng: np.random.Generator) -> ring.Words:
    chunk = rng.integers(0, ring.Q, ring.WORDS, dtype=np.uint64)
    chunk[:3] = 0, ring.Q - 1, 1
    return chunk


def fresh(key: ckks.CkksKey, rng: np.random.Generator) -> ring.Words:
    return ring.parse_fresh(key.encrypt(rng.integers(-(2**25), 2**25, 4096)))


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


def test_fresh_chunk_is_the_first_half_and_the_seed_of_the_second(rng: np.random.Generator) -> None:
    half, seed = random_chunk(rng)[:4096], bytes(range(32))
    words = ring.parse_fresh(seed + half.astype("<u8").tobytes())
    assert np.array_equal(words[:4096], half)
    assert np.array_equal(words[4096:], ring.uniform(seed))


def test_expansion_is_chacha20_of_rfc_8439_masked_to_60_bits() -> None:
    for vector in json.loads((Path(__file__).parents[1] / "vectors" / "uniform.json").read_text()):
        seed = bytes.fromhex(vector["seed"])
        words = ring.uniform(seed)
        assert [hex(word) for word in words[:4].tolist()] == vector["first"]
        assert hashlib.sha256(words.astype("<u8").tobytes()).hexdigest() == vector["sha256"]
        assert words.tolist() == [word for word in _stream(seed, 4100) if word < ring.Q][:4096]


def test_words_at_or_above_the_modulus_are_skipped() -> None:
    stream = np.arange(4104, dtype=np.uint64)
    assert ring.below_q(stream).tolist() == list(range(4096))
    stream[[0, 7, 4100]] = ring.Q, 2**60 - 1, 2**64 - 1
    # The upper four bits do not count: 2^63 + 5 is 5.
    stream[9] = 2**63 + 5
    expected = [*range(1, 7), 8, 5, *range(10, 4098)]
    assert ring.below_q(stream).tolist() == expected
    with pytest.raises(BadCiphertext):
        ring.below_q(np.full(4104, 2**60 - 1, dtype=np.uint64))


def test_expansion_is_uniform() -> None:
    words = np.concatenate([ring.uniform(bytes([i]) * 32) for i in range(50)])
    assert len(set(words.tolist())) == words.size
    bins = np.bincount((words >> np.uint64(56)).astype(np.int64), minlength=16)
    # 204,800 draws in 16 bins: standard deviation 110.
    assert np.abs(bins - words.size / 16).max() < 6 * 110
    for bit in range(60):
        assert abs((words >> np.uint64(bit) & np.uint64(1)).mean() - 0.5) < 6 * 0.5 / words.size**0.5


@pytest.mark.parametrize("size", [0, 31, ring.FRESH_BYTES - 1, ring.FRESH_BYTES + 1, ring.CHUNK_BYTES])
def test_fresh_chunk_of_another_size_is_refused(size: int) -> None:
    with pytest.raises(BadCiphertext, match="bytes"):
        ring.parse_fresh(bytes(size))


def test_fresh_chunk_with_a_word_that_is_not_below_the_modulus_is_refused() -> None:
    data = bytes(ring.FRESH_BYTES - 8) + ring.Q.to_bytes(8, "little")
    with pytest.raises(BadCiphertext, match="modulus"):
        ring.parse_fresh(data)


def test_fold_and_sum_of_many_extreme_words_are_exact() -> None:
    chunk = np.full(ring.WORDS, ring.Q - 1, dtype=np.uint64)
    chunk[1::2] = 0
    count = 100
    folded = ring.fold([chunk] * count, np.stack([np.ones(count), -np.ones(count)]).astype(np.int8))
    assert folded[0, :2].tolist() == [-count % ring.Q, 0]
    assert folded[1, :2].tolist() == [count, 0]
    for weight in (1, 2**10, 2**20 // count):
        (total,) = ring.weighted_sum([[chunk]] * count, [weight] * count)
        assert total[:2].tolist() == [-count * weight % ring.Q, 0]


@given(words=st.lists(st.integers(0, ring.Q - 1), min_size=1, max_size=8), data=st.data())
@settings(max_examples=60, deadline=None)
def test_any_words_and_weights_add_up_like_integers(words: list[int], data: st.DataObject) -> None:
    most = 2**20 // len(words)
    weights = data.draw(st.lists(st.integers(0, most), min_size=len(words), max_size=len(words)).filter(any))
    parts = [[np.full(ring.WORDS, word, dtype=np.uint64)] for word in words]
    (total,) = ring.weighted_sum(parts, weights)
    assert set(total.tolist()) == {sum(w * x for w, x in zip(weights, words, strict=True)) % ring.Q}


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


@pytest.mark.parametrize("weights", [[1], [1, -1], [0, 0], [], [2**20, 1]])
def test_sum_without_proper_weights_is_refused(weights: list[int]) -> None:
    chunk = np.zeros(ring.WORDS, np.uint64)
    with pytest.raises(OutOfRange):
        list(ring.weighted_sum([[chunk], [chunk]], weights))
