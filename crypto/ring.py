"""Exact arithmetic on ciphertext words: all that the coordinator does with a ciphertext, without any key or SEAL.

A CKKS ciphertext at one modulus is two polynomials of N = 4096 coefficients modulo the prime q; adding two
ciphertexts adds their words modulo q, whatever the representation (NTT or not). So folds and weighted sums need
integer additions only, and they are bit-identical to SEAL's own.

On the wire a *fresh* chunk is a 32-byte seed and the first polynomial, 4096 little-endian 64-bit words, each below q:
32,800 bytes. The second polynomial is uniform and public, and is expanded from the seed (`uniform`). A *full* chunk,
which folds and sums are made of, has the words of both polynomials: 65,536 bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TypeAlias

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from numpy.typing import NDArray

from crypto.errors import BadCiphertext, OutOfRange

Words: TypeAlias = NDArray[np.uint64]
"""One chunk: shape [8192], uint64, every word below Q."""

Q = 1152921504606830593
"""The 60-bit prime that SEAL's `CoeffModulus.Create(4096, [60, 49])` gives for the data level."""
DEGREE = 4096
WORDS = 2 * DEGREE
CHUNK_BYTES = 8 * WORDS
SEED_BYTES = 32
FRESH_BYTES = SEED_BYTES + 8 * DEGREE

_Q = np.uint64(Q)
_BITS = np.uint64(60)
_LOW = np.uint64(2**60 - 1)
_FACTOR = np.uint64(2**60 - Q)
"""16383: 2^60 modulo q."""
_LAZY = 14
"""Words below q that may be added to one below 2^60 + 2^18 before it is reduced, without leaving 64 bits."""
_MAX_WEIGHT = 2**20
# RFC 8439's block counter 0, then its nonce: the seed is used for nothing else, the nonce names the purpose.
_COUNTER_AND_NONCE = bytes(4) + b"concordat/c1"
_SPARE = 8


def uniform(seed: bytes) -> NDArray[np.uint64]:
    """The public second polynomial of a fresh chunk: shape [4096], uint64, uniform below q.

    ChaCha20 (RFC 8439) under the seed as key, from block 0 on, with the nonce "concordat/c1"; the stream is read as
    little-endian 64-bit words, of which the low 60 bits count; a word at or above q (2^-46 of them) is skipped.
    """
    stream = Cipher(ChaCha20(seed, _COUNTER_AND_NONCE), None).encryptor().update(bytes(8 * (DEGREE + _SPARE)))
    return below_q(np.frombuffer(stream, dtype="<u8"))


def below_q(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The first 4096 residues in a uniform stream of words, by rejection; shape [4096], uint64.

    Raises:
        BadCiphertext: so many are skipped (probability below 2^-300) that none are left.
    """
    candidates = words & _LOW
    if bool((candidates[:DEGREE] >= _Q).any()):
        candidates = candidates[candidates < _Q]
    if candidates.size < DEGREE:
        raise BadCiphertext("this seed gives too few words; encrypt again")
    return candidates[:DEGREE]


def parse_fresh(data: bytes) -> Words:
    """The words of a fresh chunk; raises BadCiphertext for a wrong size or a word that is not below q."""
    if len(data) != FRESH_BYTES:
        raise BadCiphertext(f"a fresh ciphertext chunk has {FRESH_BYTES} bytes, not {len(data)}; fetch it again")
    chunk = np.empty(WORDS, dtype=np.uint64)
    chunk[:DEGREE] = np.frombuffer(data, dtype="<u8", offset=SEED_BYTES)
    _check_words(chunk[:DEGREE])
    chunk[DEGREE:] = uniform(data[:SEED_BYTES])
    return chunk


def parse_chunk(data: bytes) -> Words:
    """The words of a full chunk; raises BadCiphertext for a wrong size or a word that is not below q."""
    if len(data) != CHUNK_BYTES:
        raise BadCiphertext(f"a ciphertext chunk has {CHUNK_BYTES} bytes, not {len(data)}; fetch it again")
    chunk = np.frombuffer(data, dtype="<u8").astype(np.uint64)
    _check_words(chunk)
    return chunk


def to_bytes(chunk: Words) -> bytes:
    """The 65,536 bytes of a full chunk on the wire."""
    return chunk.astype("<u8", copy=False).tobytes()


def add(left: Words, right: Words) -> Words:
    """`left + right` modulo q, both below q."""
    return _subtracted_once(left + right)


def subtract(left: Words, right: Words) -> Words:
    """`left - right` modulo q, both below q."""
    return _subtracted_once(left + (_Q - right))


def fold(chunks: Iterable[Words], signs: NDArray[np.int8]) -> NDArray[np.uint64]:
    """Signed sums of chunks, one for each row of `signs`, reading each chunk once.

    Args:
        chunks: as many chunks as `signs` has columns.
        signs: shape [rows, chunks], int8, values -1, 0 and 1.

    Returns:
        shape [rows, 8192], uint64, below q.

    Raises:
        BadCiphertext: there are more or fewer chunks than columns.
    """
    if signs.ndim != 2 or not bool(np.isin(signs, (-1, 0, 1)).all()):
        raise OutOfRange("signs are a matrix of -1, 0 and 1")
    folded = np.zeros((signs.shape[0], WORDS), dtype=np.uint64)
    pending = np.zeros(signs.shape[0], dtype=np.int64)
    count = 0
    for count, chunk in enumerate(chunks, start=1):
        if count > signs.shape[1]:
            break
        column = signs[:, count - 1]
        negated = _Q - chunk
        for row in np.flatnonzero(column):
            if pending[row] == _LAZY:
                folded[row], pending[row] = _reduced(folded[row]), 0
            folded[row] += chunk if column[row] > 0 else negated
            pending[row] += 1
    if count != signs.shape[1]:
        raise BadCiphertext(f"the ciphertext has not the {signs.shape[1]} chunks of this layout; fetch it again")
    for words in folded:
        words[:] = _subtracted_once(_reduced(words))
    return folded


def weighted_sum(ciphertexts: Sequence[Iterable[Words]], weights: Sequence[int]) -> Iterator[Words]:
    """Chunk by chunk the sum of `weights[i] * ciphertexts[i]` modulo q, holding one chunk of the sum at a time.

    Raises:
        OutOfRange: not one weight for each ciphertext, a negative weight, none above zero, or more than 2^20 in all.
        BadCiphertext: the ciphertexts differ in their number of chunks.
    """
    if len(ciphertexts) != len(weights) or any(weight < 0 for weight in weights) or sum(weights) == 0:
        raise OutOfRange("a weighted sum needs one weight for each ciphertext, none negative and one above zero")
    if sum(weights) > _MAX_WEIGHT:
        raise OutOfRange(f"the weights of a sum add up to at most {_MAX_WEIGHT}")
    streams = [iter(ciphertext) for ciphertext in ciphertexts]
    while (total := _weighted_chunk(streams, weights)) is not None:
        yield total


def _weighted_chunk(streams: Sequence[Iterator[Words]], weights: Sequence[int]) -> Words | None:
    # The sum modulo 2^64 in `total`, and in `high` the sum of the upper halves, from which the quotient by q follows.
    total, high = np.zeros(WORDS, dtype=np.uint64), np.zeros(WORDS, dtype=np.uint64)
    scratch = np.empty(WORDS, dtype=np.uint64)
    ended = 0
    for stream, weight in zip(streams, weights, strict=True):
        chunk = next(stream, None)
        if chunk is None:
            ended += 1
            continue
        np.multiply(chunk, np.uint64(weight), out=scratch)
        total += scratch
        np.right_shift(chunk, np.uint64(32), out=scratch)
        scratch *= np.uint64(weight)
        high += scratch
    if ended:
        if ended < len(streams):
            raise BadCiphertext("the ciphertexts of the sum have not the same number of chunks")
        return None
    # With S the true sum, H = `high` and W the total weight: 0 <= S - H 2^32 < W 2^32. For k = H >> 28 then
    # 0 <= S - k q < 2^60 + W 2^32 + k 2^14, which is below 2 q for W <= 2^20.
    high >>= np.uint64(28)
    high *= _Q
    total -= high
    return _subtracted_once(total)


def _reduced(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The same residues modulo q, below 2^60 + 2^18, of any 64-bit words."""
    reduced: NDArray[np.uint64] = (words & _LOW) + (words >> _BITS) * _FACTOR
    return reduced


def _subtracted_once(words: NDArray[np.uint64]) -> Words:
    # Below q the subtraction wraps to nearly 2^64, so the smaller of the two is the residue; no branch, no long int.
    reduced: Words = np.minimum(words, words - _Q)
    return reduced


def _check_words(words: NDArray[np.uint64]) -> None:
    if int(words.max()) >= Q:
        raise BadCiphertext("a ciphertext word is not below the modulus; it is of other parameters")
