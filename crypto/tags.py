"""Linear tags: a MAC modulo p = 2^61 - 1 that folds and weighted sums carry along (Agrawal and Boneh 2009).

The tag of chunk k is `t_k = <rho, x_k> + mask_k mod p` over the 8192 *fields* x_k of the chunk. Fields, not packed
slots: a carry from one field into its neighbour leaves the slot as it is, but not the tag. `rho` comes from the tag
secret and the plan's digest, and is the same for all silos of a round, which is why weighted tags can be added.
`mask_k` comes from the tag secret, plan digest, silo and a fresh salt, one for each chunk, and hides <rho, x_k>.

Forgery: who lacks the tag secret sees tags that are uniform and independent of rho. A combination of chunks that
decrypts to x' instead of x passes only if <rho, x' - x> hits one value; fields are smaller than p, so a nonzero
difference has a coordinate that is invertible modulo p, and the chance is at most 2^-60 per chunk and attempt (2^-61,
doubled for the one residue that our sampling counts twice), plus the advantage against the PRF (HMAC-SHA-256, then
SHAKE-256). Whoever holds the tag secret, which every silo does, can forge: that is the stated limit.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crypto import xof
from crypto.errors import CheckFailed, OutOfRange
from crypto.packing import FIELDS_PER_CHUNK
from protos import canonical

P = 2**61 - 1
SALT_BYTES = 32
_LIMBS = 4
_LIMB_BITS = 16
_BLOCK = 64
_MAX_FIELD = 2**34
"""16-bit limbs times fields below 2^34, 8192 of them, stay below 2^63."""


@dataclass(frozen=True)
class Contribution:
    """One retained silo's part in a sum: its integer weight and the tags of its opening (salt, then `<u8` each)."""

    silo: str
    weight: int
    tags: bytes


def tag(fields: NDArray[Any], secret: bytes, *, plan: str, silo: str, salt: bytes) -> bytes:
    """Tags of all chunks: the salt, then one `<u8` below p for each.

    Args:
        fields: shape [chunks, 8192], integers, each below 2^34 in size.
        secret: the epoch's tag secret.
        plan: digest of the plan.
        salt: 32 bytes, fresh for every update.
    """
    if len(salt) != SALT_BYTES:
        raise OutOfRange(f"a salt has {SALT_BYTES} bytes")
    masks = _masks(secret, plan, silo, salt, fields.shape[0])
    values = [(product + mask) % P for product, mask in zip(_products(fields, secret, plan), masks, strict=True)]
    return salt + np.array(values, dtype="<u8").tobytes()


def parse(tags: bytes, chunks: int) -> tuple[bytes, list[int]]:
    """Salt and values of a peer's tags; raises CheckFailed("tags") for a wrong length or a value not below p."""
    if len(tags) != SALT_BYTES + 8 * chunks:
        raise CheckFailed("tags")
    values = [int(value) for value in np.frombuffer(tags[SALT_BYTES:], dtype="<u8")]
    if any(value >= P for value in values):
        raise CheckFailed("tags")
    return tags[:SALT_BYTES], values


def verify_folded(
    folded_fields: NDArray[Any], rows: NDArray[np.int8], secret: bytes, *, plan: str, silo: str, tags: bytes
) -> None:
    """Check `<rho, (M x)_r> == sum_k M_rk (t_k - mask_k)` for every row r of `rows`.

    Args:
        folded_fields: shape [rows, 8192], integers: the decrypted fields of the folded ciphertext.
        rows: shape [rows, chunks], int8: the matrix M.

    Raises:
        CheckFailed: "tags".
    """
    plain = _unmasked(secret, plan, silo, tags, rows.shape[1])
    for row, product in zip(rows, _products(folded_fields, secret, plan), strict=True):
        if sum(int(row[k]) * plain[k] for k in np.flatnonzero(row)) % P != product:
            raise CheckFailed("tags")


def verify_sum(aggregate: NDArray[Any], secret: bytes, *, plan: str, contributions: Sequence[Contribution]) -> None:
    """Check `<rho, aggregate_k> == sum_i w_i (t_ik - mask_ik)` for every chunk k.

    Args:
        aggregate: shape [chunks, 8192], integers: the decrypted fields of the weighted sum.

    Raises:
        CheckFailed: "tags".
    """
    chunks = aggregate.shape[0]
    expected = [0] * chunks
    for part in contributions:
        plain = _unmasked(secret, plan, part.silo, part.tags, chunks)
        expected = [total + part.weight * value for total, value in zip(expected, plain, strict=True)]
    if any(total % P != product for total, product in zip(expected, _products(aggregate, secret, plan), strict=True)):
        raise CheckFailed("tags")


def _products(fields: NDArray[Any], secret: bytes, plan: str) -> list[int]:
    if fields.ndim != 2 or fields.shape[1] != FIELDS_PER_CHUNK:
        raise OutOfRange(f"tags are made over rows of {FIELDS_PER_CHUNK} fields")
    rho = _residues(_prf(secret, use="rho", plan=plan), FIELDS_PER_CHUNK)
    shifts = np.arange(_LIMBS, dtype=np.uint64) * np.uint64(_LIMB_BITS)
    limbs = (rho[:, None] >> shifts & np.uint64(2**_LIMB_BITS - 1)).astype(np.int64)
    products: list[int] = []
    for start in range(0, len(fields), _BLOCK):
        block = fields[start : start + _BLOCK].astype(np.int64)
        if max(int(block.max()), -int(block.min())) >= _MAX_FIELD:
            raise OutOfRange("tags are made over fields below 2^34")
        parts = (block @ limbs).tolist()
        products += [sum(part << (_LIMB_BITS * i) for i, part in enumerate(row)) % P for row in parts]
    return products


def _unmasked(secret: bytes, plan: str, silo: str, tags: bytes, chunks: int) -> list[int]:
    salt, values = parse(tags, chunks)
    return [value - mask for value, mask in zip(values, _masks(secret, plan, silo, salt, chunks), strict=True)]


def _masks(secret: bytes, plan: str, silo: str, salt: bytes, chunks: int) -> list[int]:
    key = _prf(secret, use="mask", plan=plan, silo=silo, salt=salt.hex())
    return [int(mask) for mask in _residues(key, chunks)]


def _residues(key: bytes, count: int) -> NDArray[np.uint64]:
    # Of 2^61 equally likely values only p itself must be reduced (to 0), so the distance from uniform is below 2^-61.
    return xof.words(key, "concordat/tags/v1", count) % np.uint64(2**61) % np.uint64(P)


def _prf(secret: bytes, **context: str) -> bytes:
    return hmac.new(secret, canonical.dumps(context), hashlib.sha256).digest()
