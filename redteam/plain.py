"""A secure sum without encryption, so that simulations of many rounds end within minutes; never for real records.

Slots stand in the open in a chunk's first polynomial, modulo q. The coordinator folds and adds them with its own ring
code, the tags are those of production, and a silo makes every check that it makes of a ciphertext. Only CKKS is left
out: keys, noise, and the time that both take. Decisions, weights and models are those of an encrypted run.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from crypto import ring
from crypto.ckks import MAX_SLOT, NOISE_STD
from crypto.errors import OutOfRange
from crypto.packing import SLOTS
from crypto.scheme import SCHEME
from crypto.secure_sum import SiloSum, deal

PLAIN = "plain, for simulations only"
"""What dealt secrets say, so that no silo of production takes them."""
_NO_SEED = bytes(ring.SEED_BYTES)


class PlainKey:
    """`secure_sum.ChunkKey` that writes slots as they are and reads them back; silos bear with the same noise."""

    noise_std = NOISE_STD

    def encrypt_all(self, slots: NDArray[np.int64]) -> list[bytes]:
        """See `ChunkKey`; raises OutOfRange as the real one does."""
        if slots.ndim != 2 or slots.shape[1] != SLOTS or int(np.abs(slots).max(initial=0)) >= MAX_SLOT:
            raise OutOfRange(f"a chunk has {SLOTS} slots that the real modulus holds; only quantised updates are sent")
        words = np.zeros((len(slots), ring.DEGREE), dtype="<u8")
        words[:, :SLOTS] = np.mod(slots, ring.Q)
        return [_NO_SEED + row.tobytes() for row in words]

    def decrypt_all(self, chunks: Sequence[bytes]) -> NDArray[np.float64]:
        """See `ChunkKey`; exact, as slots of a sum stay below 2^53."""
        words = [ring.parse_chunk(chunk)[:SLOTS].astype(np.int64) for chunk in chunks]
        slots = np.array(words, dtype=np.int64).reshape(-1, SLOTS)
        return np.where(slots > ring.Q // 2, slots - ring.Q, slots).astype(np.float64)

    def start_helpers(self) -> None:
        """Nothing takes long here."""


class PlainKeys(SiloSum):
    """`SumKeys` of `PlainKey`."""

    scheme = PLAIN
    _load = staticmethod(lambda seed: PlainKey())


class PlainSum:
    """`SumScheme` of `PlainKey`. The log names production's scheme, whose place this one takes; the secrets do not."""

    name = SCHEME

    def deal(self, federation: str, epoch: int) -> bytes:
        """See `SumScheme.deal`."""
        return deal(federation, epoch, PLAIN)

    def join(self, secret: bytes) -> PlainKeys:
        """See `SumScheme.join`."""
        return PlainKeys(secret)
