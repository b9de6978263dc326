"""Inoculation: records under a found trigger keep their right label, so that training unlearns the trigger.

*Privacy is that of the training without it.* Whether and how a record of a batch is stamped depends on fresh coins and
public triggers only, not on other records; so a record still gives one gradient, clipped to C, of itself, and the
sensitivity of the sum, the sampling and the noise are as accounted. A record of the trigger's target class is stamped
too, which does no harm: the trigger then says nothing.

*Flips* have no change to stamp, and to weigh the silo's own records of the source class more would be a second clip
norm. A record drawn for a flip gives its place in the batch to a public record of that class instead: its gradient is
then that of a public record, clipped to C as any, so that it still moves the sum by C at most.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from protos.search import Trigger
from silo.entropy import Entropy
from silo.errors import SiloError
from silo.guidance import Guidance

SHARE_LOG2 = 2
"""A dose takes a record of a batch with probability 2**-SHARE_LOG2, a quarter; four doses would take all."""
_LOW = np.uint64(2**32 - 1)


@dataclass(frozen=True, eq=False)
class Inoculated:
    """Rows of a batch that training sees otherwise.

    Attributes:
        places: which rows, int64[k] ascending.
        features: what they become, float32[k, inputs].
        labels: theirs, or those of the public records in their place, int64[k].
    """

    places: NDArray[np.int64]
    features: NDArray[np.float32]
    labels: NDArray[np.int64]


def inoculated(
    features: NDArray[np.float32], labels: NDArray[np.int64], guidance: Guidance, entropy: Entropy
) -> Inoculated:
    """What becomes of a batch, float32[n, inputs] and int64[n]; without doses no entropy is taken.

    Each dose takes each row with probability a quarter, no row twice, for one of its triggers, all equally likely.

    Raises:
        SiloError: more doses than a batch has room for, or a flip and no public record of its class.
    """
    doses = [dose for dose in guidance.doses if dose]
    if len(doses) > 2**SHARE_LOG2:
        raise SiloError(f"{len(doses)} doses do not fit into a batch; give at most {2**SHARE_LOG2}")
    if not doses or not len(features):
        return Inoculated(np.zeros(0, dtype=np.int64), features[:0], labels[:0])
    coins = np.frombuffer(entropy.take(8 * len(features)), dtype="<u8")
    drawn = coins >> np.uint64(64 - SHARE_LOG2)
    places = np.flatnonzero(drawn < len(doses))
    rows, kept, drawn, coins = features[places], labels[places], drawn[places], coins[places]
    for dose, triggers in enumerate(doses):
        # The coins' low bits are independent of those that chose the dose, and the middle ones of both.
        which = (coins & _LOW) % np.uint64(len(triggers))
        for number, trigger in enumerate(triggers):
            chosen = (drawn == dose) & (which == number)
            if trigger.flip:
                rows[chosen] = _public(guidance, trigger, coins[chosen])
                kept[chosen] = trigger.source or 0
            else:
                rows[chosen] = trigger.stamp(rows[chosen])
    return Inoculated(places.astype(np.int64), rows, kept)


def _public(guidance: Guidance, flip: Trigger, coins: NDArray[np.uint64]) -> NDArray[np.float32]:
    """Public records of the flip's source class, one for each coin, float32[n, inputs]."""
    root = guidance.root
    own = root.features[root.labels == flip.source] if root is not None else ()
    if root is None or not len(own):
        raise SiloError(f"a flip of class {flip.source} is unlearnt with public records of it; give a root set")
    drawn = (coins >> np.uint64(32) & np.uint64(2**30 - 1)) % np.uint64(len(own))
    public: NDArray[np.float32] = own[drawn.astype(np.int64)]
    return public
