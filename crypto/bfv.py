"""The secure sum by BFV instead of CKKS: integers as coefficients of the message, behind the same interface.

A chunk encrypts the polynomial `2^23 m(X) + e(X)` whose coefficients m are the 4096 slots (Brakerski 2012; Fan and
Vercauteren 2012; the scale is a power of two instead of q/t). Seed, words, sizes, folds and sums are those of
`crypto.ckks`, so the coordinator does not see which of the two it adds. SEAL encrypts a zero, and the message is added
in the transformed form that ciphertexts have: no encryption code of ours.

Why one would want it: an error is bounded, not only rarely large. A coefficient of SEAL's noise is at most 21, and
nothing is rounded at encoding. So a sum with total weight W is off by at most 21 W / 2^23, 0.0026 for W = 1024: wrong
decoding and false alarms of a sum have probability zero. And folds show a shift of a slot ninety times as small as with
CKKS. What it lacks: helper processes for large models.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from crypto import ring
from crypto.ckks import CkksKey, Transform
from crypto.packing import SLOTS
from crypto.scheme import BFV_SCHEME
from crypto.secure_sum import SiloSum, deal

SCALE_LOG2 = 23
LARGEST_NOISE = 21
"""Of one coefficient: SEAL's centred binomial is the difference of two sums of 21 bits."""
NOISE_STD = (LARGEST_NOISE / 2) ** 0.5 * 2.0**-SCALE_LOG2
"""Of one slot of a fresh encryption; `ckks.MAX_SLOT` times the scale is 2^58, a quarter of q."""

_ROUNDING = 2.0**-24
"""Slots come back as float64. In a fold of n chunks they are below 2^28 sqrt(n) but for a negligible chance, so that
half a unit of the last place is below this times sqrt(n)."""


class BfvKey(CkksKey):
    """The secret key of an epoch. A slot is a coefficient of the message; the rest is as in `CkksKey`."""

    noise_std = NOISE_STD + _ROUNDING / 9

    def __init__(self, seed: bytes, context: Any, secret: Any) -> None:
        super().__init__(seed, context, secret)
        self._transform = Transform()

    def start_helpers(self) -> None:
        """Nothing: the helper processes are of CKKS."""

    def _encrypt(self, slots: NDArray[np.float64]) -> bytes:
        # Exact for integers below 2^35: a power of two in float64, and 2^58 in int64.
        message = np.rint(np.ldexp(slots, SCALE_LOG2)).astype(np.int64) % ring.Q
        with self._lock:
            self._encode(np.zeros(SLOTS))
            seed, zero = self._sealed()
            words = ring.add(
                np.frombuffer(zero, dtype="<u8").astype(np.uint64), self._transform.forward(message.astype(np.uint64))
            )
        return seed + words.astype("<u8", copy=False).tobytes()

    def _decode(self) -> NDArray[np.float64]:
        words = np.frombuffer(self._opened(), dtype="<u8").astype(np.uint64)
        coefficients = self._transform.inverse(words).astype(np.int64)
        centred = np.where(coefficients > ring.Q // 2, coefficients - ring.Q, coefficients)
        whole = (centred + (1 << (SCALE_LOG2 - 1))) >> SCALE_LOG2
        # In two steps, so that the fraction of a small slot keeps all its bits.
        slots: NDArray[np.float64] = whole + np.ldexp((centred - (whole << SCALE_LOG2)).astype(np.float64), -SCALE_LOG2)
        return slots


class BfvSum(SiloSum):
    """`SumKeys` of packed BFV."""

    scheme = BFV_SCHEME
    _load = staticmethod(BfvKey.load)


class PackedBfv:
    """`SumScheme` of packed symmetric BFV."""

    name = BFV_SCHEME

    def deal(self, federation: str, epoch: int) -> bytes:
        """See `crypto.secure_sum.deal`."""
        return deal(federation, epoch, BFV_SCHEME)

    def join(self, secret: bytes) -> BfvSum:
        """The keys of a member; raises KeyMismatch."""
        return BfvSum(secret)
