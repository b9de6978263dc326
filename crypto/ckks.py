"""Symmetric CKKS at one 60-bit modulus; the only module that imports TenSEAL (its copy of SEAL).

A slot of CKKS is a complex number. We lay integers into real and imaginary parts alike, and call each part a slot.

What travels. SEAL encrypts a chunk to (c0, c1) with c0 = -c1 s + m + e and c1 uniform. We draw a seed, expand it to
another uniform polynomial a (`ring.uniform`), and publish the seed and c0 + (c1 - a) s = -a s + m + e, which is SEAL's
own decryption of the ciphertext (c0, c1 - a). Message and noise are unchanged, to the bit; the chunk is an encryption
under the public randomness a instead of c1, and c1 never leaves. That a comes from a public 32-byte seed is the usual
assumption of seeded ciphertexts (a stream cipher's output under a random public key behaves like a uniform
polynomial; so do SEAL's own seeded form and ML-KEM's matrix, FIPS 203). Seeds must not repeat: two chunks under one a
show the difference of their messages. So each is 32 fresh bytes of the operating system.

Words come back wrapped in the one fixed SEAL header that these parameters have, and the key is rebuilt from a seed in
the same way, so no header or compressed byte of a peer ever reaches a foreign parser. SEAL's Python interface reads
and writes files only; they are anonymous memory of this process.
"""

from __future__ import annotations

import os
import struct
import threading
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import zstandard
from numpy.typing import NDArray
from tenseal import sealapi

from crypto import helpers, ring
from crypto.ckks_key import DEGREE, SEED_BYTES, key_words
from crypto.errors import BadCiphertext, KeyMismatch, OutOfRange
from crypto.packing import SLOTS

SCALE_LOG2 = 22
MAX_SLOT = 2**35
"""The largest sum has slots below 2^35 too. At scale 2^22 they keep every coefficient, a mean over the complex slots
of Re(z times a root of unity), below sqrt(2) * 2^57. SEAL encodes up to 2^58, and half of q is 2^59."""
NOISE_STD = 3.54e-5
"""Of one slot (one part) of a fresh encryption. SEAL's noise is a centred binomial of variance 21/2 per coefficient; a
part adds 4096 of them along a cosine or a sine, so the variance is 2048 * (10.5 + 1/4 for rounding the encoding) /
2^44, rounded up. Sums of bounded signs are sub-Gaussian with this very variance (Hoeffding 1963)."""

_MODULI_BITS = (60, 49)
_ANY_PLAIN_MODULUS = 2**37
_SEAL_HEADER = bytes.fromhex("5ea1100403")
_ZSTD = b"\x02\x00\x00"
_PLAIN = b"\x00\x00\x00"
# parms_id (the hash of N and q), NTT flag, 2 polynomials, N, 1 modulus, scale 2^22, correction 1, header of the words.
_PARMS_ID = bytes.fromhex("6afd21c68eaea2fa8274edfa3723ade74760cc4465d33aa4aa8ca90de97960fe")
_HEAD = _PARMS_ID + bytes.fromhex(
    "01020000000000000000100000000000000100000000000000000000000000504101000000000000005ea1100403000000180001000000000"
    "00020000000000000"
)
# parms_id, N, scale, header of the words.
_PLAIN_HEAD = _PARMS_ID + bytes.fromhex(
    "001000000000000000000000000050415ea110040300000018800000000000000010000000000000"
)
# Of a BFV ciphertext, after parms_id and NTT flag: 2 polynomials, N, 1 modulus, scale 1, correction 1, header of words.
_BFV_TAIL = bytes.fromhex(
    "020000000000000000100000000000000100000000000000000000000000f03f01000000000000005ea11004030000001800010000000000"
    "0020000000000000"
)
_KEY_HEAD = bytes.fromhex(
    "2824edc5a634bcce1179e0c219f216b5742d7b94555ba053ff1cfc3a48b2d1490020000000000000000000000000f03f5ea1100403000000"
    "18000100000000000020000000000000"
)
_FORM = "this TenSEAL has other parameters or formats; install a supported version"


def generate() -> bytes:
    """A fresh key as a 32-byte seed of the operating system's randomness, to be kept secret."""
    return os.urandom(SEED_BYTES)


class CkksKey:
    """The secret key of an epoch: encrypts and decrypts chunks. Neither `repr` nor any message shows it."""

    noise_std = NOISE_STD

    def __init__(self, seed: bytes, context: Any, secret: Any) -> None:
        self._seed, self._context, self._lock = seed, context, threading.Lock()
        self._helpers: list[helpers.Helper] = []
        self._helping = threading.Lock()
        self._inbox, self._outbox = _Scratch(), _Scratch()
        self._encoder, self._evaluator = sealapi.CKKSEncoder(context), sealapi.Evaluator(context)
        self._encryptor, self._decryptor = sealapi.Encryptor(context, secret), sealapi.Decryptor(context, secret)
        self._cipher, self._other, self._plain = (
            sealapi.Ciphertext(context), sealapi.Ciphertext(context), sealapi.Plaintext(),
        )  # fmt: skip

    @classmethod
    def load(cls, secret: bytes) -> CkksKey:
        """The key of what `generate` made.

        Raises:
            KeyMismatch: it is no such secret, or the TenSEAL that is installed has other parameters or formats.
        """
        words = key_words(secret).astype("<u8").tobytes()
        try:
            context, key, scratch = _context(), sealapi.SecretKey(), _Scratch()
            scratch.write(_seal(_KEY_HEAD + words))
            key.load(context, scratch.path)
            scratch.write(bytes(2 * len(words)))
            made = cls(secret, context, key)
            trial = made.decrypt(ring.parse_fresh(made.encrypt(np.full(SLOTS, MAX_SLOT - 1))))
        except (ValueError, RuntimeError, struct.error, zstandard.ZstdError):
            raise KeyMismatch(_FORM) from None
        if not bool((np.rint(trial) == MAX_SLOT - 1).all()):
            raise KeyMismatch(_FORM)
        return made

    def encrypt(self, slots: NDArray[np.int64]) -> bytes:
        """Encrypt one chunk under fresh noise and a fresh seed of the operating system.

        Args:
            slots: shape [4096], int64, each below 2^35 in size.

        Returns:
            a fresh chunk, 32,800 bytes (`ring.parse_fresh`).

        Raises:
            OutOfRange: wrong shape or type, or a slot that the modulus does not hold.
        """
        if slots.shape != (SLOTS,) or not np.issubdtype(slots.dtype, np.integer):
            raise OutOfRange(f"a chunk has {SLOTS} integer slots, not {slots.dtype}{list(slots.shape)}")
        if int(slots.min()) <= -MAX_SLOT or int(slots.max()) >= MAX_SLOT:
            raise OutOfRange("a slot does not fit the modulus; only quantised updates are encrypted")
        return self._encrypt(slots.astype(np.float64))

    def decrypt(self, words: ring.Words) -> NDArray[np.float64]:
        """Slots of one chunk: shape [4096], float64, with noise (`NOISE_STD` for a fresh encryption).

        What it returns is not to be trusted, and not to leave the silo, before the tags are checked.

        Raises:
            BadCiphertext: the library does not take the words; the opening or sum that they are of is rejected.
        """
        return self._decrypt(ring.to_bytes(words))

    def encrypt_all(self, slots: NDArray[np.int64]) -> list[bytes]:
        """Encrypt chunks (shape [n, 4096], see `encrypt`), many of them in several processes."""
        rows = [np.ascontiguousarray(row, dtype="<i8").tobytes() for row in slots]
        return self._map(helpers.ENCRYPT, rows, ring.FRESH_BYTES, self.encrypt_bytes)

    def decrypt_all(self, chunks: Sequence[bytes]) -> NDArray[np.float64]:
        """Slots of full chunks: shape [n, 4096], see `decrypt`; raises BadCiphertext before anything is decrypted."""
        for chunk in chunks:
            ring.parse_chunk(chunk)
        rows = self._map(helpers.DECRYPT, chunks, 8 * SLOTS, self.decrypt_bytes)
        return np.frombuffer(b"".join(rows), dtype="<f8").reshape(-1, SLOTS)

    def encrypt_bytes(self, slots: bytes) -> bytes:
        """`encrypt` of 4096 little-endian 64-bit integers."""
        return self.encrypt(np.frombuffer(slots, dtype="<i8"))

    def decrypt_bytes(self, chunk: bytes) -> bytes:
        """`decrypt` of a full chunk that was parsed before, to 4096 little-endian 64-bit floats."""
        return self._decrypt(chunk).astype("<f8", copy=False).tobytes()

    def start_helpers(self) -> None:
        """Have further processes do a part of `encrypt_all` and `decrypt_all` from when they are ready."""
        with self._helping:
            self._helpers = self._helpers or helpers.start(self._seed)

    def _map(self, kind: bytes, inputs: Sequence[bytes], size: int, own: Callable[[bytes], bytes]) -> list[bytes]:
        with self._helping:
            return helpers.run(self._helpers, kind, inputs, size, own)

    def _encrypt(self, slots: NDArray[np.float64]) -> bytes:
        with self._lock:
            self._encode(slots)
            seed, words = self._sealed()
            return seed + words

    def _encode(self, slots: NDArray[np.float64]) -> None:
        self._encoder.encode(slots.view(np.complex128).tolist(), 2.0**SCALE_LOG2, self._plain)

    def _sealed(self) -> tuple[bytes, bytes]:
        """Seed and first polynomial of an encryption of `_plain`, which is overwritten; the lock is held."""
        seed = os.urandom(ring.SEED_BYTES)
        public = bytes(8 * DEGREE) + ring.uniform(seed).astype("<u8", copy=False).tobytes()
        self._encryptor.encrypt_symmetric(self._plain, self._cipher)
        self._load(self._other, public)
        self._evaluator.sub_inplace(self._cipher, self._other)
        self._decryptor.decrypt(self._cipher, self._plain)
        return seed, self._opened()

    def _opened(self) -> bytes:
        """The words of `_plain`; the lock is held."""
        self._plain.save(self._outbox.path)
        return _plain_words(self._outbox.read())

    def _decode(self) -> NDArray[np.float64]:
        return np.array(self._encoder.decode_complex(self._plain), dtype=np.complex128).view(np.float64)

    def _decrypt(self, words: bytes) -> NDArray[np.float64]:
        try:
            with self._lock:
                self._load(self._cipher, words)
                self._decryptor.decrypt(self._cipher, self._plain)
                slots = self._decode()
        except (ValueError, RuntimeError):
            raise BadCiphertext("the library does not read this ciphertext; reject it") from None
        if slots.shape != (SLOTS,) or not bool(np.isfinite(slots).all()):
            raise BadCiphertext("the library read no slots in this ciphertext; reject it")
        return slots

    def _load(self, target: Any, words: bytes) -> None:
        self._inbox.write(_seal(_HEAD + words))
        target.load(self._context, self._inbox.path)

    def __repr__(self) -> str:
        return "CkksKey()"


class Transform:
    """SEAL's number-theoretic transform modulo q, in the order that CKKS ciphertexts have; not for several threads."""

    def __init__(self) -> None:
        # A BFV context of the same ring; its plain modulus plays no part in transforms.
        context = _context(sealapi.SCHEME_TYPE.BFV)
        self._context, self._evaluator, self._cipher = context, sealapi.Evaluator(context), sealapi.Ciphertext(context)
        self._scratch = _Scratch()
        self._parms_id = struct.pack("<4Q", *context.first_parms_id())

    def forward(self, coefficients: NDArray[np.uint64]) -> NDArray[np.uint64]:
        """From coefficients modulo q to the words of a ciphertext's polynomial; shape [4096], uint64, below q."""
        return self._run(coefficients, b"\0", self._evaluator.transform_to_ntt_inplace)

    def inverse(self, words: NDArray[np.uint64]) -> NDArray[np.uint64]:
        """Inverse of `forward`."""
        return self._run(words, b"\1", self._evaluator.transform_from_ntt_inplace)

    def _run(self, words: NDArray[np.uint64], form: bytes, transform: Callable[[Any], None]) -> NDArray[np.uint64]:
        # The second polynomial must not be zero: SEAL refuses transparent ciphertexts.
        both = np.concatenate([words, np.ones(DEGREE, dtype=np.uint64)]).astype("<u8", copy=False).tobytes()
        self._scratch.write(_seal(self._parms_id + form + _BFV_TAIL + both))
        self._cipher.load(self._context, self._scratch.path)
        transform(self._cipher)
        self._cipher.save(self._scratch.path)
        saved = self._scratch.read()
        (size,) = struct.unpack("<Q", saved[8:16])
        most = len(self._parms_id + form + _BFV_TAIL + both)
        body = zstandard.ZstdDecompressor().decompress(saved[16:size], max_output_size=most)
        if len(body) != most:
            raise KeyMismatch(_FORM)
        return np.frombuffer(body, dtype="<u8", count=DEGREE, offset=most - len(both)).astype(np.uint64)


class _Scratch:
    """A file in anonymous memory, with a path for SEAL to open."""

    def __init__(self) -> None:
        self._descriptor = os.memfd_create("concordat-ckks")
        self.path = f"/proc/self/fd/{self._descriptor}"
        weakref.finalize(self, os.close, self._descriptor)

    def write(self, data: bytes) -> None:
        os.pwrite(self._descriptor, data, 0)

    def read(self) -> bytes:
        return os.pread(self._descriptor, 2 * ring.CHUNK_BYTES, 0)


def _context(scheme: Any = sealapi.SCHEME_TYPE.CKKS) -> Any:
    parameters = sealapi.EncryptionParameters(scheme)
    parameters.set_poly_modulus_degree(DEGREE)
    parameters.set_coeff_modulus(sealapi.CoeffModulus.Create(DEGREE, list(_MODULI_BITS)))
    if scheme == sealapi.SCHEME_TYPE.BFV:
        parameters.set_plain_modulus(_ANY_PLAIN_MODULUS)
    # SEAL itself refuses parameters below 128 bits of security by the HomomorphicEncryption.org table.
    return sealapi.SEALContext(parameters, True, sealapi.SEC_LEVEL_TYPE.TC128)


def _seal(inner: bytes) -> bytes:
    return _SEAL_HEADER + _PLAIN + struct.pack("<Q", 16 + len(inner)) + inner


def _plain_words(saved: bytes) -> bytes:
    # Only output of our own SEAL comes here: one object in a zstd frame.
    (size,) = struct.unpack("<Q", saved[8:16])
    if saved[:8] != _SEAL_HEADER + _ZSTD:
        raise KeyMismatch(_FORM)
    body = zstandard.ZstdDecompressor().decompress(saved[16:size], max_output_size=len(_PLAIN_HEAD) + 8 * DEGREE)
    if len(body) != len(_PLAIN_HEAD) + 8 * DEGREE or body[: len(_PLAIN_HEAD)] != _PLAIN_HEAD:
        raise KeyMismatch(_FORM)
    return body[len(_PLAIN_HEAD) :]
