"""TenSEAL's own objects over the same key and words, as an oracle: bytes in TenSEAL's and SEAL's formats, both ways."""

from __future__ import annotations

import struct

import tenseal
import zstandard

from crypto import ckks, ring
from crypto.ckks_key import key_words

# The parameters (CKKS, N, the two primes, no plain modulus) as SEAL writes them.
_PARAMETERS = bytes.fromhex(
    "02001000000000000002000000000000005ea1100403000000180000000000000001c0ffffffffff0f5ea110040300000018000000000000"
    "0001e0fcffffff01005ea110040300000018000000000000000000000000000000"
)
# TenSEAL's flags with no scale yet (it is set after loading), and its mark of symmetric encryption.
_NO_SCALE = b"\x12\x0b\x10\x07\x19" + struct.pack("<d", -1.0)
_SYMMETRIC = b"\x20\x01"
_SIZES = bytes.fromhex("0a028010")
_SCALE = b"\x19" + struct.pack("<d", 2.0**ckks.SCALE_LOG2)
_MAGIC = bytes.fromhex("5ea110")


def context_of(seed: bytes) -> tenseal.Context:
    """TenSEAL's own object for a key."""
    key = _field(1, _seal(ckks._KEY_HEAD + key_words(seed).astype("<u8").tobytes()))
    made = tenseal.context_from(_field(1, _seal(_PARAMETERS)) + _NO_SCALE + _field(3, key) + _SYMMETRIC)
    made.global_scale = 2.0**ckks.SCALE_LOG2
    return made


def tenseal_vector(context: tenseal.Context, words: ring.Words) -> tenseal.CKKSVector:
    """Words as TenSEAL's own object."""
    blob = _SIZES + _field(2, _seal(ckks._HEAD + ring.to_bytes(words))) + _SCALE
    return tenseal.ckks_vector_from(context, blob)


def tenseal_words(vector: tenseal.CKKSVector) -> ring.Words:
    """The words inside TenSEAL's own object."""
    data = vector.serialize()
    start = data.index(_MAGIC)
    (size,) = struct.unpack("<Q", data[start + 8 : start + 16])
    body = zstandard.ZstdDecompressor().decompress(data[start + 16 : start + size], max_output_size=1 << 20)
    assert body[: -ring.CHUNK_BYTES] == ckks._HEAD
    return ring.parse_chunk(body[-ring.CHUNK_BYTES :])


def last_words(serialized: bytes) -> bytes:
    """The last 65,536 bytes of words in TenSEAL's serialisation, whatever the parameters."""
    start = serialized.index(_MAGIC)
    (size,) = struct.unpack("<Q", serialized[start + 8 : start + 16])
    body = zstandard.ZstdDecompressor().decompress(serialized[start + 16 : start + size], max_output_size=1 << 21)
    return body[-ring.CHUNK_BYTES :]


def _seal(inner: bytes) -> bytes:
    return bytes.fromhex("5ea1100403000000") + struct.pack("<Q", 16 + len(inner)) + inner


def _field(number: int, data: bytes) -> bytes:
    return bytes([number << 3 | 2]) + _varint(len(data)) + data


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])
