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
from silo.errors import SiloError

SHARE_LOG2 = 2
"""A dose stamps a record of a batch with probability 2**-SHARE_LOG2, a quarter; four doses would stamp all."""


def inoculated(
    features: NDArray[np.float32], doses: Sequence[Sequence[Trigger]], entropy: Entropy
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Which rows of a batch are stamped, and what they become: int64[k] ascending, and float32[k, inputs].

    Each dose stamps each row with probability a quarter, no row twice, by one of its triggers that are no flips, all
    equally likely. Without such triggers no entropy is taken.

    Raises:
        SiloError: more doses than a batch has room for.
    """
    stamps = [kept for dose in doses if (kept := [trigger for trigger in dose if not trigger.flip])]
    if len(stamps) > 2**SHARE_LOG2:
        raise SiloError(f"{len(stamps)} doses do not fit into a batch; give at most {2**SHARE_LOG2}")
    if not stamps or not len(features):
        return np.zeros(0, dtype=np.int64), features[:0]
    coins = np.frombuffer(entropy.take(8 * len(features)), dtype="<u8")
    drawn = coins >> np.uint64(64 - SHARE_LOG2)
    places = np.flatnonzero(drawn < len(stamps))
    rows = features[places]
    for dose, triggers in enumerate(stamps):
        # The coins' low bits are independent of those that chose the dose.
        which = (coins[places] & np.uint64(0xFFFFFFFF)) % np.uint64(len(triggers))
        for number, trigger in enumerate(triggers):
            chosen = (drawn[places] == dose) & (which == number)
            rows[chosen] = trigger.stamp(rows[chosen])
    return places.astype(np.int64), rows
