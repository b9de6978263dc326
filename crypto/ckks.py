"""Symmetric CKKS on 2048 slots at one 60-bit modulus; the only module that imports TenSEAL.

Encryptions leave as raw words (see `crypto.ring`). Words come back wrapped in the one fixed SEAL header that these
parameters have, and the key is rebuilt from a seed in the same way, so no header, protobuf or compressed byte of a
peer ever reaches a foreign parser.
"""

from __future__ import annotations

import os
import struct
from typing import Any

import numpy as np
import tenseal
import zstandard
from numpy.typing import NDArray

from crypto import ring
from crypto.ckks_key import SEED_BYTES, key_words
from crypto.errors import BadCiphertext, KeyMismatch, OutOfRange
from crypto.packing import SLOTS

SCALE_LOG2 = 22
MAX_SLOT = 2**36
"""At scale 2^22 a slot below 2^36 keeps every coefficient below 2^58, a quarter of q."""
NOISE_STD = 3.54e-5
"""Of one slot of a fresh encryption. SEAL's noise is a centred binomial of variance 21/2 per coefficient; a slot adds
4096 of them along a cosine, so the variance is 2048 * (10.5 + 1/4 for rounding the encoding) / 2^44, rounded up. Sums
of bounded signs are sub-Gaussian with this very variance (Hoeffding 1963)."""

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
# The parameters (CKKS, N, the two primes, no plain modulus) as SEAL writes them, and the head of a secret key.
_PARAMETERS = bytes.fromhex(
    "02001000000000000002000000000000005ea1100403000000180000000000000001c0ffffffffff0f5ea110040300000018000000000000"
    "0001e0fcffffff01005ea110040300000018000000000000000000000000000000"
)
_KEY_HEAD = bytes.fromhex(
    "2824edc5a634bcce1179e0c219f216b5742d7b94555ba053ff1cfc3a48b2d1490020000000000000000000000000f03f5ea1100403000000"
    "18000100000000000020000000000000"
)
# TenSEAL's flags with no scale yet (it is set after loading), and its mark of symmetric encryption.
_NO_SCALE = b"\x12\x0b\x10\x07\x19" + struct.pack("<d", -1.0)
_SYMMETRIC = b"\x20\x01"
_SCALE = b"\x19" + struct.pack("<d", 2.0**SCALE_LOG2)


def generate() -> bytes:
    """A fresh key as a 32-byte seed of the operating system's randomness, to be kept secret."""
    return os.urandom(SEED_BYTES)


class CkksKey:
    """The secret key of an epoch: encrypts and decrypts chunks. Neither `repr` nor any message shows it."""

    def __init__(self, context: Any) -> None:
        self._context = context

    @classmethod
    def load(cls, secret: bytes) -> CkksKey:
        """The key of what `generate` made.

        Raises:
            KeyMismatch: it is no such secret, or the TenSEAL that is installed has other parameters or formats.
        """
        blob = _build_context(key_words(secret))
        try:
            context = tenseal.context_from(blob)
            context.global_scale = 2.0**SCALE_LOG2
            head, _ = _parse(tenseal.ckks_vector(context, [0.0] * SLOTS).serialize())
        except (ValueError, RuntimeError):
            raise KeyMismatch("this TenSEAL reads keys of another form; install a supported version") from None
        if head != _HEAD:
            raise KeyMismatch("this TenSEAL encrypts with other parameters; install a supported version")
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

        Raises:
            BadCiphertext: the library does not take the words; the opening or sum that they are of is rejected.
        """
        try:
            vector = tenseal.ckks_vector_from(self._context, _build(ring.to_bytes(words)))
            slots = np.array(vector.decrypt(), dtype=np.float64)
        except (ValueError, RuntimeError):
            raise BadCiphertext("the library does not read this ciphertext; reject it") from None
        if slots.shape != (SLOTS,) or not bool(np.isfinite(slots).all()):
            raise BadCiphertext("the library read no slots in this ciphertext; reject it")
        return slots

    def __repr__(self) -> str:
        return "CkksKey()"


def _build_context(words: NDArray[np.uint64]) -> bytes:
    key = _field(1, _seal(_KEY_HEAD + words.astype("<u8").tobytes()))
    return _field(1, _seal(_PARAMETERS)) + _NO_SCALE + _field(3, key) + _SYMMETRIC


def _build(words: bytes) -> bytes:
    return _SIZES + _field(2, _seal(_HEAD + words)) + _SCALE


def _seal(inner: bytes) -> bytes:
    return _SEAL_HEADER + _PLAIN + struct.pack("<Q", 16 + len(inner)) + inner


def _field(number: int, data: bytes) -> bytes:
    return bytes([number << 3 | 2]) + _varint(len(data)) + data


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
