"""Exact arithmetic on ciphertext words: all that the coordinator does with a ciphertext, without any key or SEAL.

A CKKS ciphertext at one modulus is two polynomials of N = 4096 coefficients modulo the prime q; adding two
ciphertexts adds their words modulo q, whatever the representation (NTT or not). So folds and weighted sums need
integer additions only, and they are bit-identical to SEAL's own.

A chunk on the wire is 2 * 4096 little-endian 64-bit words, each below q: 65,536 bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from crypto.errors import BadCiphertext, OutOfRange

Words: TypeAlias = NDArray[np.uint64]
"""One chunk: shape [8192], uint64, every word below Q."""

Q = 1152921504606830593
"""The 60-bit prime that SEAL's `CoeffModulus.Create(4096, [60, 49])` gives for the data level."""
WORDS = 2 * 4096
CHUNK_BYTES = 8 * WORDS
_Q = np.uint64(Q)


def parse_chunk(data: bytes) -> Words:
    """The words of one chunk; raises BadCiphertext for a wrong size or a word that is not below q."""
    if len(data) != CHUNK_BYTES:
        raise BadCiphertext(f"a ciphertext chunk has {CHUNK_BYTES} bytes, not {len(data)}; fetch it again")
    chunk = np.frombuffer(data, dtype="<u8").astype(np.uint64)
    if bool((chunk >= _Q).any()):
        raise BadCiphertext("a ciphertext word is not below the modulus; it is of other parameters")
    return chunk


def to_bytes(chunk: Words) -> bytes:
    """The 65,536 bytes of a chunk on the wire."""
    return chunk.astype("<u8").tobytes()


def add(left: Words, right: Words) -> Words:
    """`left + right` modulo q, both below q."""
    total = left + right
    # Below q the subtraction wraps to nearly 2^64, so the smaller of the two is the residue; no branch, no long int.
    reduced: Words = np.minimum(total, total - _Q)
    return reduced


def subtract(left: Words, right: Words) -> Words:
    """`left - right` modulo q, both below q."""
    difference = left - right
    reduced: Words = np.minimum(difference, difference + _Q)
    return reduced


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
    count = 0
    for count, chunk in enumerate(chunks, start=1):
        if count > signs.shape[1]:
            break
        column = signs[:, count - 1]
        for row in np.flatnonzero(column):
            folded[row] = (add if column[row] > 0 else subtract)(folded[row], chunk)
    if count != signs.shape[1]:
        raise BadCiphertext(f"the ciphertext has not the {signs.shape[1]} chunks of this layout; fetch it again")
    return folded


def weighted_sum(ciphertexts: Sequence[Iterable[Words]], weights: Sequence[int]) -> Iterator[Words]:
    """Chunk by chunk the sum of `weights[i] * ciphertexts[i]` modulo q, by doubling and adding.

    Raises:
        OutOfRange: not one weight for each ciphertext, a negative weight, or none above zero.
        BadCiphertext: the ciphertexts differ in their number of chunks.
    """
    if len(ciphertexts) != len(weights) or any(weight < 0 for weight in weights) or sum(weights) == 0:
        raise OutOfRange("a weighted sum needs one weight for each ciphertext, none negative and one above zero")
    try:
        for chunks in zip(*ciphertexts, strict=True):
            yield _weighted_chunk(chunks, weights)
    except ValueError as error:
        raise BadCiphertext("the ciphertexts of the sum have not the same number of chunks") from error


def _weighted_chunk(chunks: Sequence[Words], weights: Sequence[int]) -> Words:
    # Horner's rule over bit planes: one doubling for each bit, one addition for each bit that is set.
    total = np.zeros(WORDS, dtype=np.uint64)
    for bit in reversed(range(max(weights).bit_length())):
        total = add(total, total)
        for chunk, weight in zip(chunks, weights, strict=True):
            if weight >> bit & 1:
                total = add(total, chunk)
    return total
