"""Portable expansion of seeds: the same bytes, words and permutations on every machine.

The extendable-output function is SHAKE-256 (FIPS 202) over a length-prefixed label and seed, so that two labels or
seeds never collide. A longer output begins with the shorter one: use another label for another purpose.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray


def expand(seed: bytes, label: str, length: int) -> bytes:
    """`length` bytes of SHAKE-256(len(label) || label || len(seed) || seed), lengths as 4 little-endian bytes."""
    name = label.encode("utf-8")
    prefix = len(name).to_bytes(4, "little") + name + len(seed).to_bytes(4, "little")
    return hashlib.shake_256(prefix + seed).digest(length)


def words(seed: bytes, label: str, count: int) -> NDArray[np.uint64]:
    """`count` uniform 64-bit words, little-endian in the stream; shape [count], uint64."""
    return np.frombuffer(expand(seed, label, 8 * count), dtype="<u8").astype(np.uint64)


def permutation(seed: bytes, size: int) -> NDArray[np.int32]:
    """A uniform permutation of 0..size-1: the order that sorts `size` random words; shape [size], int32.

    Ties are harmless: the sort is stable, so every machine breaks them alike, and they happen with probability below
    size^2 / 2^65. The permutation is public; nothing rests on that bias.
    """
    keys = np.frombuffer(expand(seed, "concordat/permutation/v1", 8 * size), dtype="<u8")
    highest = keys.view(np.uint8)[7::8] >> 4
    order, start = np.empty(size, dtype=np.int32), 0
    # A sixteenth of the words at a time: argsort's indices have 8 bytes each, as many as the words themselves.
    for part in range(16):
        members = np.flatnonzero(highest == part)
        order[start : start + members.size] = members[np.argsort(keys[members], kind="stable")]
        start += members.size
    return order
