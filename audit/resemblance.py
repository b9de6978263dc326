"""Which triggers are the same, or of one kind, in integers: so silos, coordinator and auditors agree on it."""

from __future__ import annotations

import numpy as np

from protos.search import Trigger

SAME, UNLEARNT = 90, 70
"""Least cosine of two masks, in hundredths: of searches that ended in the same trigger, and of triggers of which
unlearning one unlearns the other. On MNIST and digits what was taught comes back with 0.7 to 0.99 after a few searches,
what nobody taught with 0.3 to 0.5; over the latter, inoculation makes no honest silo negative."""
LARGE, SMALL = 4, 16
"""A trigger is large where its mask sums to more than a LARGEth of the inputs, small where to no more than a SMALLth:
taught ones mostly to 0.01 to 0.18, and the two for which honest silos stood out in rounds of a model that hardly saw to
0.19 and 0.20."""
ALIKE = 1.5
"""A mask of at most this many times one's own is of the same kind: searches on other hardware end a little apart."""


def nearly(one: Trigger, other: Trigger, percent: int) -> bool:
    """Same target and source, masks of that cosine or more, patterns within a fifth under them; in integers."""
    if (one.target, one.source, len(one.mask)) != (other.target, other.source, len(other.mask)):
        return False
    mine, theirs = (np.frombuffer(trigger.mask, dtype=np.uint8).astype(np.int64) for trigger in (one, other))
    bright, dark = (np.frombuffer(trigger.pattern, dtype=np.uint8).astype(np.int64) for trigger in (one, other))
    both = np.minimum(mine, theirs)
    along = 10_000 * int(mine @ theirs) ** 2 >= percent**2 * int(mine @ mine) * int(theirs @ theirs)
    return along and 5 * int(both @ np.abs(bright - dark)) <= 255 * int(both.sum())


def of_a_kind(trigger: Trigger, own: Trigger) -> bool:
    """Whether one's own trigger bears out a reported one: it moves the same, and under no much smaller mask."""
    return about(trigger) == about(own) and sum(trigger.mask) <= ALIKE * sum(own.mask)


def about(trigger: Trigger) -> tuple[int, int | None, bool]:
    """What a trigger moves, and where to."""
    return trigger.target, trigger.source, trigger.flip


def large(trigger: Trigger) -> bool:
    """Whether a trigger covers so much of the input that what is left says little of its class.

    Models have such triggers by nature, and who owns the target's class teaches them by honest data.
    """
    return not trigger.flip and LARGE * sum(trigger.mask) > 255 * len(trigger.mask)


def small(trigger: Trigger) -> bool:
    """Whether a trigger covers so little of the input that honest data hardly teach it, whatever the model."""
    return not trigger.flip and SMALL * sum(trigger.mask) <= 255 * len(trigger.mask)
