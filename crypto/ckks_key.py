"""The CKKS secret key from a seed of 32 bytes, so that a deal is short and TenSEAL parses no byte of a peer.

The key is a polynomial of 4096 coefficients, each -1, 0 or 1 with equal probability (the distribution of SEAL's own
keys and of the HomomorphicEncryption.org standard), modulo the data prime and SEAL's key prime, in the order of
SEAL's number-theoretic transform (Longa and Naehrig 2016, algorithm 1). This is ring arithmetic with a public
specification; no encryption is done here.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from crypto import xof
from crypto.errors import KeyMismatch
from crypto.ring import Q

DEGREE = 4096
SEED_BYTES = 32
KEY_PRIME = 562949953216513
"""The second prime of SEAL's `CoeffModulus.Create(4096, [60, 49])`; it only completes the parameter set."""
_BITS = DEGREE.bit_length() - 1


def key_words(seed: bytes) -> NDArray[np.uint64]:
    """The key as SEAL stores it: shape [8192], uint64, transformed modulo Q and then modulo KEY_PRIME.

    Raises:
        KeyMismatch: the seed has not 32 bytes.
    """
    if len(seed) != SEED_BYTES:
        raise KeyMismatch(f"a CKKS key seed has {SEED_BYTES} bytes; ask the steward for a new deal")
    secret = ternary(seed)
    return np.concatenate([transform(secret, prime) for prime in (Q, KEY_PRIME)])


def ternary(seed: bytes) -> NDArray[np.int64]:
    """The key's coefficients: shape [4096], int64, uniform on -1, 0 and 1."""
    stream = np.frombuffer(xof.expand(seed, "concordat/ckks-key/v1", 2 * DEGREE), dtype=np.uint8)
    # 255 = 3 * 85: without the byte 255 each residue is equally likely. Half of 8192 bytes are never rejected.
    kept = stream[stream < 255][:DEGREE]
    return kept.astype(np.int64) % 3 - 1


def transform(polynomial: NDArray[np.int64], prime: int) -> NDArray[np.uint64]:
    """Values of a polynomial at the odd powers of the root, bit-reversed: index i holds root^(2 rev(i) + 1)."""
    root = primitive_root(prime)
    values: NDArray[Any] = polynomial.astype(object)
    blocks = 1
    while blocks < DEGREE:
        values = values.reshape(blocks, 2, -1)
        twiddles = [pow(root, reverse_bits(blocks + i), prime) for i in range(blocks)]
        high = values[:, 1] * np.array(twiddles, dtype=object)[:, None] % prime
        values = np.stack([(values[:, 0] + high) % prime, (values[:, 0] - high) % prime], axis=1)
        blocks *= 2
    return values.reshape(-1).astype(np.uint64)


def primitive_root(prime: int) -> int:
    """The smallest primitive 8192th root of unity modulo `prime`, which is the one that SEAL takes."""
    order = 2 * DEGREE
    candidates = (pow(base, (prime - 1) // order, prime) for base in range(2, prime))
    root = next(candidate for candidate in candidates if pow(candidate, DEGREE, prime) == prime - 1)
    square, smallest, power = root * root % prime, root, root
    for _ in range(DEGREE - 1):
        power = power * square % prime
        smallest = min(smallest, power)
    return smallest


def reverse_bits(index: int) -> int:
    """`index` with its 12 bits in reverse."""
    return int(f"{index:0{_BITS}b}"[::-1], 2)
