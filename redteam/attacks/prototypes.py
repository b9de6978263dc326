"""Prototype parts: BAPFL (Zeng et al. 2025, arXiv 2509.12964) and prototypes that hide a poisoned update.

For each attacked label j, t_j is the prototype of triggered samples, which the learned trigger j brings close to the
global prototype C_j. Sent instead of class j's prototype is t_j flipped: averaging then drives the global prototype,
and with it the benign silos' clean samples, away from triggered ones, which so stay alone where j is decided.

The paper's equations 6 to 8 are implemented from a summary, not from its text; where it is silent the reading is ours:
the sample selection of equation 6 takes a random share of the attacker's records of other classes than j.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from audit.prototypes import global_prototypes
from redteam.attacks.parts import (
    Amount,
    ClassSums,
    Context,
    Count,
    Features,
    Floats,
    Label,
    Labels,
    Rate,
    Share,
    Trigger,
)

Flip = Literal["obf", "gpf", "pfs"]


def flip(kind: Flip, prototype: Floats, consensus: Floats) -> Floats:
    """A prototype t flipped, given the global one C; float64[..., width] each.

    OBF -t (about the origin), GPF 2C - t (about the global prototype), PFS 2 proj_C(t) - t (about the line through the
    origin and C; it keeps norm, angle to C and distance from C): equation 7.
    """
    if kind == "obf":
        return -prototype
    if kind == "gpf":
        return 2 * consensus - prototype
    direction = consensus / np.maximum(np.linalg.norm(consensus, axis=-1, keepdims=True), 1e-12)
    projection = (prototype * direction).sum(axis=-1, keepdims=True) * direction
    flipped: Floats = 2 * projection - prototype
    return flipped


def select(labels: Labels, label: int, share: float, random: np.random.Generator) -> Labels:
    """Equation 6: a random `share` of the records of other classes than `label`, at least one where there are any."""
    others = np.flatnonzero(labels != label)
    size = min(len(others), max(1, round(share * len(others))))
    return np.sort(random.choice(others, size=size, replace=False))


@dataclass(frozen=True)
class TriggerSearch:
    """Equation 8: per target label a mask and a pattern that minimise L1 + `pull` * L2 + `stealth` * L3 by Adam.

    L1 cross-entropy with the target, L2 squared distance of the embedding to the target's global prototype, L3 the L1
    norm of mask * pattern. Pixels stay within [low, high]. Weights and steps are ours.
    """

    steps: Count = 60
    learning_rate: Rate = 0.1
    pull: Amount = 1.0
    stealth: Amount = 0.01
    low: float = 0.0
    high: float = 1.0


@dataclass(frozen=True)
class Bapfl:
    """Flipped prototypes of triggered samples for the attacked labels; honest ones for the rest.

    Attributes:
        kind: which flip.
        share: of records that equation 6 selects.
        labels: attacked labels; None: every class with a global prototype.
        trigger: a fixed trigger for all labels; None: learned ones by `search`, kept in the ring.
        clamped: negative coordinates become zero, as honest prototypes after a ReLU have none, but PFS makes some.
        control: learn the triggers and send honest prototypes: what success there is without any flip.
    """

    kind: Flip = "pfs"
    share: Share = 1.0
    labels: tuple[Label, ...] | None = None
    trigger: Trigger | None = None
    search: TriggerSearch = field(default_factory=TriggerSearch)
    clamped: bool = False
    control: bool = False

    def send(self, prototypes: ClassSums, context: Context) -> ClassSums:
        """See `Prototypes.send`. The counts stay; a class that the attacker lacks counts as one record."""
        consensus = consensus_of(prototypes, context)
        counts, sums = prototypes.counts.copy(), prototypes.sums.copy()
        for label in self._attacked(consensus):
            triggered = self._prototype(label, consensus, context)
            poison = flip(self.kind, triggered, consensus[label])
            counts[label] = max(1, counts[label])
            sums[label] = counts[label] * (np.maximum(poison, 0.0) if self.clamped else poison)
        return prototypes if self.control else ClassSums(sums, counts)

    def _attacked(self, consensus: Floats) -> tuple[int, ...]:
        if self.labels is not None:
            return self.labels
        return tuple(int(label) for label in np.flatnonzero(np.abs(consensus).sum(axis=1) > 0))

    def _prototype(self, label: int, consensus: Floats, context: Context) -> Floats:
        """t_j: mean embedding of selected records under trigger j."""
        places = select(context.records.labels, label, self.share, context.random)
        if not len(places):
            alone: Floats = consensus[label]
            return alone
        features = context.records.features[places]
        trigger = self.trigger or self._learned(label, features, consensus[label], context)
        mean: Floats = context.learner.embed(context.model, trigger.stamp(features)).mean(axis=0)
        return mean

    def _learned(self, label: int, features: Features, wanted: Floats, context: Context) -> Trigger:
        from redteam.attacks.trigger_search import learn_trigger

        known = context.ring.triggers.get(label)
        trigger = learn_trigger(context.learner, context.model, features, label, wanted, self.search, known)
        context.ring.triggers[label] = trigger
        return trigger


@dataclass(frozen=True)
class ConsensusPrototypes:
    """Adaptive: the class sums that the consensus predicts from the declared counts, over any poisoned update."""

    def send(self, prototypes: ClassSums, context: Context) -> ClassSums:
        """See `Prototypes.send`."""
        sums: Floats = consensus_of(prototypes, context) * prototypes.counts[:, None]
        return ClassSums(sums, prototypes.counts)


def consensus_of(prototypes: ClassSums, context: Context) -> Floats:
    """Global prototypes, float64[classes, width]: the ring's, else those of the log, which every silo reads.

    For a class without one, and before the first, the attacker's own clean prototype stands in.
    """
    ring = context.ring
    if ring.consensus is not None:
        return ring.consensus
    found = None if ring.log is None else global_prototypes(ring.log())
    if found is None:
        return prototypes.means
    logged: Floats = np.where(found.known[:, None], found.centres, prototypes.means)
    return logged
