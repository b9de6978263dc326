"""Inoculation: records stamped with a found trigger keep their right label, so that training unlearns the trigger.

*Privacy is that of the training without it.* Whether and how a record of a batch is stamped depends on fresh coins and
public triggers only, not on other records; so a record still gives one gradient, clipped to C, of itself, and the
sensitivity of the sum, the sampling and the noise are as accounted.

A record of the trigger's target class is stamped too, which does no harm: the trigger then says nothing. Against flips
nothing is done but honest training: there is no change to unlearn, and weighing the source class more would be a second
clip norm.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from protos.search import Trigger
from silo.entropy import Entropy

SHARE_LOG2 = 2
"""A record of a batch is stamped with probability 2**-SHARE_LOG2, a quarter."""


def inoculated(
    features: NDArray[np.float32], triggers: Sequence[Trigger], entropy: Entropy
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Which rows of a batch are stamped, and what they become: int64[k] ascending, and float32[k, inputs].

    Each row is stamped with probability a quarter, by one of the triggers that are no flips, all equally likely.
    Without such triggers no entropy is taken.
    """
    stamps = [trigger for trigger in triggers if not trigger.flip]
    if not stamps or not len(features):
        return np.zeros(0, dtype=np.int64), features[:0]
    coins = np.frombuffer(entropy.take(8 * len(features)), dtype="<u8")
    places = np.flatnonzero(coins >> np.uint64(64 - SHARE_LOG2) == 0)
    # The coins' low bits are independent of those that chose the row.
    which = (coins[places] & np.uint64(0xFFFFFFFF)) % np.uint64(len(stamps))
    rows = features[places]
    for number, trigger in enumerate(stamps):
        rows[which == number] = trigger.stamp(rows[which == number])
    return places.astype(np.int64), rows
