"""Symmetric CKKS on 2048 slots at one 60-bit modulus; the only module that imports TenSEAL.

Encryptions leave as raw words (see `crypto.ring`); words come back wrapped in the one fixed SEAL header that these
parameters have, so no header, protobuf or compressed byte of a peer ever reaches a foreign parser. The secret context
itself is parsed by TenSEAL: it comes sealed from the steward whose fingerprint the operator approved.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import tenseal
import zstandard
from numpy.typing import NDArray

from crypto import ring
from crypto.errors import KeyMismatch, OutOfRange
from crypto.packing import SLOTS

SCALE_LOG2 = 22
MAX_SLOT = 2**36
"""At scale 2^22 a slot below 2^36 keeps every coefficient below 2^58, a quarter of q."""
NOISE_STD = 3.54e-5
"""Of one slot of a fresh encryption. SEAL's noise is a centred binomial of variance 21/2 per coefficient; a slot adds
4096 of them along a cosine, so the variance is 2048 * (10.5 + 1/4 for rounding the encoding) / 2^44, rounded up. Sums
of bounded signs are sub-Gaussian with this very variance (Hoeffding 1963)."""

_DEGREE = 4096
_MODULI = (60, 49)
_MAGIC = bytes.fromhex("5ea110")
_SEAL_HEADER = bytes.fromhex("5ea1100403")
_ZSTD = b"\x02\x00\x00"
_PLAIN = b"\x00\x00\x00"
# parms_id (the hash of N and q), NTT flag, 2 polynomials, N, 1 modulus, scale 2^22, correction 1, header of the words.
_HEAD = bytes.fromhex(
    "6afd21c68eaea2fa8274edfa3723ade74760cc4465d33aa4aa8ca90de97960fe01020000000000000000100000000000000100000000"
    "000000000000000000504101000000000000005ea110040300000018000100000000000020000000000000"
)
_SIZES = bytes.fromhex("0a028010")
_SCALE = b"\x19" + struct.pack("<d", 2.0**SCALE_LOG2)


def generate() -> bytes:
    """A fresh secret context from the operating system's randomness; about 62 kB, to be kept secret."""
    context = tenseal.context(
        tenseal.SCHEME_TYPE.CKKS,
        _DEGREE,
        coeff_mod_bit_sizes=list(_MODULI),
        encryption_type=tenseal.ENCRYPTION_TYPE.SYMMETRIC,
    )
    return bytes(
        context.serialize(save_secret_key=True, save_public_key=False, save_galois_keys=False, save_relin_keys=False)
    )


class CkksKey:
    """The secret key of an epoch: encrypts and decrypts chunks. Neither `repr` nor any message shows it."""

    def __init__(self, context: Any) -> None:
        self._context = context

    @classmethod
    def load(cls, secret: bytes) -> CkksKey:
        """Load what `generate` made.

        Raises:
            KeyMismatch: it is no secret context, or one of other parameters.
        """
        try:
            context = tenseal.context_from(secret)
            context.global_scale = 2.0**SCALE_LOG2
            head, _ = _parse(tenseal.ckks_vector(context, [0.0] * SLOTS).serialize())
            private = context.is_private()
        except (ValueError, RuntimeError, TypeError) as error:
            raise KeyMismatch("this is no CKKS secret of ours; ask the steward for a new deal") from error
        if head != _HEAD or not private:
            raise KeyMismatch("this CKKS secret has other parameters; ask the steward for a new deal")
        return cls(context)

    def encrypt(self, slots: NDArray[np.int64]) -> ring.Words:
        """Encrypt one chunk under fresh noise of the operating system.

        Args:
            slots: shape [2048], int64, each below 2^36 in size.

        Returns:
            shape [8192], uint64, below q.

        Raises:
            OutOfRange: wrong shape or type, or a slot that the modulus does not hold.
        """
        if slots.shape != (SLOTS,) or not np.issubdtype(slots.dtype, np.integer):
            raise OutOfRange(f"a chunk has {SLOTS} integer slots, not {slots.dtype}{list(slots.shape)}")
        if bool((slots <= -MAX_SLOT).any() or (slots >= MAX_SLOT).any()):
            raise OutOfRange("a slot does not fit the modulus; only quantised updates are encrypted")
        vector = tenseal.ckks_vector(self._context, slots.astype(np.float64).tolist())
        head, words = _parse(vector.serialize())
        if head != _HEAD:
            raise KeyMismatch("TenSEAL encrypted with other parameters; install a supported version")
        return ring.parse_chunk(words)

    def decrypt(self, words: ring.Words) -> NDArray[np.float64]:
        """Slots of one chunk: shape [2048], float64, with noise (`NOISE_STD` for a fresh encryption).

        What it returns is not to be trusted, and not to leave the silo, before the tags are checked.
        """
        vector = tenseal.ckks_vector_from(self._context, _build(ring.to_bytes(words)))
        return np.array(vector.decrypt(), dtype=np.float64)

    def __repr__(self) -> str:
        return "CkksKey()"


def _build(words: bytes) -> bytes:
    inner = _HEAD + words
    seal = _SEAL_HEADER + _PLAIN + struct.pack("<Q", 16 + len(inner)) + inner
    return _SIZES + b"\x12" + _varint(len(seal)) + seal + _SCALE


def _parse(serialized: bytes) -> tuple[bytes, bytes]:
    # Only output of our own TenSEAL comes here: protobuf field 2 holds one SEAL object in a zstd frame.
    start = serialized.find(_MAGIC)
    header = serialized[start : start + 16]
    if start < 0 or header[:8] != _SEAL_HEADER + _ZSTD:
        raise KeyMismatch("TenSEAL writes ciphertexts in a form that is not supported; install a supported version")
    (size,) = struct.unpack("<Q", header[8:])
    frame = serialized[start + 16 : start + size]
    body = zstandard.ZstdDecompressor().decompress(frame, max_output_size=len(_HEAD) + 2 * ring.CHUNK_BYTES)
    return body[: -ring.CHUNK_BYTES], body[-ring.CHUNK_BYTES :]


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])
