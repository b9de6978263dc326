"""The public linear map R that is drawn after commitment: signed folds of the body, then the output layer as it is.

R is a matrix over *chunks*: the same rows fold ciphertext (`ring.fold`), tags (`crypto.tags`) and fields (here), so
what a silo says in the clear can be checked against what it encrypted. A fold is a count-sketch whose buckets are the
columns (Charikar, Chen and Farach-Colton 2002).
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crypto import xof
from crypto.errors import CheckFailed, OutOfRange
from crypto.packing import FIELDS_PER_CHUNK, Packing

_TRACE_MEMBERS = 8


def seed_of(nonce_hex: str, commitments: bytes) -> bytes:
    """The round's seed: SHA-256(nonce || canonical list of commitments); 32 bytes."""
    return hashlib.sha256(bytes.fromhex(nonce_hex) + commitments).digest()


def signs(seed: bytes, folds: int, chunks: int) -> NDArray[np.int8]:
    """Signs of the body chunks in each fold: shape [folds, chunks], int8, all ±1."""
    bits = xof.words(seed, "concordat/signs/v1", folds * chunks) & np.uint64(1)
    return (1 - 2 * bits.astype(np.int8)).reshape(folds, chunks)


def rows(fold_signs: NDArray[np.int8], packing: Packing) -> NDArray[np.int8]:
    """The matrix R over all chunks: folds of the body, then each output chunk by itself.

    Args:
        fold_signs: shape [F, body_chunks], from `signs`.

    Returns:
        shape [F + output_chunks, chunks], int8.
    """
    if fold_signs.ndim != 2 or fold_signs.shape[1] != packing.body_chunks:
        raise OutOfRange(f"signs are needed for the {packing.body_chunks} chunks of the body")
    folds = fold_signs.shape[0]
    matrix = np.zeros((folds + packing.output_chunks, packing.chunks), dtype=np.int8)
    matrix[:folds, : packing.body_chunks] = fold_signs
    matrix[folds:, packing.body_chunks :] = np.eye(packing.output_chunks, dtype=np.int8)
    return matrix


def trace_signs(seed: bytes, folds: int, chunks: int) -> NDArray[np.int8]:
    """Rows that trace a failed sum: signs on random subsets of *all* chunks; shape [folds, chunks], int8.

    A silo may lay halves on an even number of chunks: with every chunk in every fold they add up to whole numbers
    under all signs, and its tags can carry the half of an odd number modulo p. In a subset that takes each chunk with
    probability 1/2, the number of halves is odd with probability 1/2, whichever chunks the silo chose; so it escapes
    `folds` rows with about 2^-folds. Rows of fewer than eight members are drawn again, lest a row shows more than an
    eighth of what a fold shows. Fewer than sixteen chunks are all taken (a packing has at least sixteen).
    """
    return np.stack([_trace_row(seed, row, chunks) for row in range(folds)])


def checkers(seed: bytes, subject: str, silos: tuple[str, ...], count: int = 3) -> tuple[str, ...]:
    """The silos that check `subject`: `count` others drawn by the seed (all others where there are fewer)."""
    others = sorted(set(silos) - {subject})
    order = xof.permutation(xof.expand(seed, f"concordat/checkers/v1/{subject}", 32), len(others))
    return tuple(others[index] for index in order[:count])


def sketch(
    fields: NDArray[Any], packing: Packing, fold_signs: NDArray[np.int8]
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """What a silo says in the clear about its update.

    Args:
        fields: shape [chunks, 8192], integers, from `Packing.to_fields`: an update within ±127 or a sum of them.
        fold_signs: shape [F, body_chunks].

    Returns:
        folds, shape [F, width], int32; exact output layer, shape [output_size], int32 (empty without one).
    """
    if fold_signs.ndim != 2 or fold_signs.shape[1] != packing.body_chunks:
        raise OutOfRange(f"signs are needed for the {packing.body_chunks} chunks of the body")
    # 2048 chunks of a sum of total weight 1032 stay below 2^28.
    folds = np.zeros((fold_signs.shape[0], packing.width), dtype=np.int32)
    # Row by row, as ciphertexts are folded: a product of integer matrices takes ten times as long.
    for column, held in zip(fold_signs.T.tolist(), fields[: packing.body_chunks, : packing.width], strict=True):
        row = held.astype(np.int32)
        for fold, sign in zip(folds, column, strict=True):
            if sign > 0:
                fold += row
            elif sign < 0:
                fold -= row
    output = fields[packing.body_chunks :].reshape(-1)[: packing.output_size]
    return folds, output.astype(np.int32)


def blur(packing: Packing) -> NDArray[np.float64]:
    """By how much more noise each coordinate shows in a sketch than it has in the update, float64[d].

    That is sqrt(K/F) under the folds of K chunks to F, and 1 in the exact output layer.
    """
    factors = np.full(packing.size, np.sqrt(packing.body_chunks / packing.folds))
    factors[packing.output] = 1.0
    return factors


def split(folded_fields: NDArray[np.int64], packing: Packing) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """The sketch in folded fields (shape [F + output_chunks, 8192], in the order of `rows`)."""
    folds = folded_fields.shape[0] - packing.output_chunks
    output = folded_fields[folds:].reshape(-1)[: packing.output_size]
    return folded_fields[:folds, : packing.width].astype(np.int32), output.astype(np.int32)


def join(folds: NDArray[np.int32], output: NDArray[np.int32], packing: Packing) -> NDArray[np.int64]:
    """Inverse of `split`: the folded fields that a sketch claims, int64[F + output_chunks, 8192]."""
    fields = np.zeros((folds.shape[0] + packing.output_chunks, FIELDS_PER_CHUNK), dtype=np.int64)
    fields[: folds.shape[0], : packing.width] = folds
    fields[folds.shape[0] :].reshape(-1)[: packing.output_size] = output
    return fields


def to_bytes(folds: NDArray[np.int32], output: NDArray[np.int32]) -> tuple[bytes, bytes]:
    """Little-endian `<i4` bytes of folds (row after row) and output, as an `Opening` carries them."""
    return folds.astype("<i4").tobytes(), output.astype("<i4").tobytes()


def from_bytes(
    folds: bytes, output: bytes, packing: Packing, count: int
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Inverse of `to_bytes` for `count` folds; raises CheckFailed("sketch") for wrong lengths."""
    if len(folds) != 4 * count * packing.width or len(output) != 4 * packing.output_size:
        raise CheckFailed("sketch")
    table = np.frombuffer(folds, dtype="<i4").astype(np.int32).reshape(count, packing.width)
    return table, np.frombuffer(output, dtype="<i4").astype(np.int32)


def _trace_row(seed: bytes, row: int, chunks: int) -> NDArray[np.int8]:
    attempt = 0
    while True:
        draw = xof.words(seed, f"concordat/trace/v1/{row}/{attempt}", chunks)
        member = (draw & np.uint64(1)).astype(np.int8) if chunks >= 2 * _TRACE_MEMBERS else np.ones(chunks, np.int8)
        if chunks < 2 * _TRACE_MEMBERS or int(member.sum()) >= _TRACE_MEMBERS:
            return member * (1 - (draw & np.uint64(2)).astype(np.int8))
        attempt += 1
