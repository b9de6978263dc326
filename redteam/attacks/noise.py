"""Attacks on DP-SGD itself: the attacker makes of the noise what he likes (DESIGN, section 3).

*Noise replacement* sends the clean signal plus malice whose norm is exactly that of the noise it replaces; to be used
after `local.Signal`. *Drip* sends an honest update, noise and all, plus a little malice; after honest `PrivateSgd`.

*Malice* is the point of the ball of that norm that serves the attack best: normalised gradient steps on the
cross-entropy of triggered records with wanted labels and, with equal weight, of the clean ones, so that accuracy stays.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from redteam.attacks.parts import Amount, Context, Count, Floats, Natural, unit
from redteam.errors import BadAttack
from silo.data import Records


@dataclass(frozen=True)
class NoiseReplacement:
    """Signal plus malice of the norm sqrt(d) * s, where s is the noise law's deviation of one coordinate.

    Attributes:
        steps: gradient steps towards the best malice.
        drawn: the norm follows the noise's own law (s * chi) and not its root mean square.
        honest_output: the output layer gets fresh honest noise, the body malice of the norm of the body's noise.
        orthogonal: malice has no component along what colluders send in this round and what this one sent before.
        memory: of how many own earlier rounds an orthogonal attacker stays clear; None: of all. Trigger directions are
            few, so a long memory costs it most of its effect (measured: docs/attacks.md).
        reach: how much of the malice the attacker expects to arrive in the average.
    """

    steps: Count = 10
    drawn: bool = False
    honest_output: bool = False
    orthogonal: bool = False
    memory: Natural | None = None
    reach: Amount = 1.0

    def send(self, update: Floats, context: Context) -> Floats:
        """See `Update.send`."""
        free = np.ones(update.size, dtype=bool)
        if self.honest_output:
            free[context.output] = False
        radius = context.noise_std * self._root(int(free.sum()), context.random)
        room = Room(free, self._taken(context) if self.orthogonal else None)
        direction = malice(context, update, radius, room, self.steps, self.reach)
        if self.orthogonal:
            context.ring.malice.append((context.round, context.member, direction))
        noise = radius * direction
        if self.honest_output:
            noise[~free] = context.random.normal(0.0, context.noise_std, int((~free).sum()))
        return update + noise

    def _taken(self, context: Context) -> list[Floats]:
        """The ring's malice of this round and this member's own of the rounds that it remembers."""
        first = 1 if self.memory is None else context.round - self.memory
        return [
            one
            for number, member, one in context.ring.malice
            if number == context.round or (member == context.member and number >= first)
        ]

    def _root(self, degrees: int, random: np.random.Generator) -> float:
        return math.sqrt(random.chisquare(degrees)) if self.drawn else math.sqrt(degrees)


@dataclass(frozen=True)
class Drip:
    """Honest update plus malice of length strength * s * sqrt(d), s the noise's deviation in a coordinate; 0.1 or 0.3.

    Ours: the noise stays, so that no law on norms or variances sees the malice, which adds up over rounds.
    """

    strength: Amount = 0.1
    steps: Count = 10

    def send(self, update: Floats, context: Context) -> Floats:
        """See `Update.send`."""
        radius = self.strength * context.noise_std * math.sqrt(update.size)
        room = Room(np.ones(update.size, dtype=bool))
        return update + radius * malice(context, np.zeros(update.size), radius, room, self.steps, 1.0)


class Room:
    """The subspace that malice may use: the `free` coordinates, minus the span of `taken`."""

    def __init__(self, free: NDArray[np.bool_], taken: list[Floats] | None = None) -> None:
        self._free = free
        # QR, as what is taken need not be orthogonal.
        self._basis = np.linalg.qr(np.stack(taken, axis=1))[0] if taken else None

    def project(self, vector: Floats) -> Floats:
        """The part of `vector` in the subspace, float64[d]."""
        inside: Floats = vector * self._free
        for _ in range(0 if self._basis is None else 2):  # twice is enough for orthogonality up to rounding
            assert self._basis is not None
            inside = inside - self._basis @ (self._basis.T @ inside)
        return inside


def malice(context: Context, update: Floats, radius: float, room: Room, steps: int, reach: float) -> Floats:
    """The unit vector in `room` that serves the attack best at distance `radius` of `update`, float64[d]."""
    lies = wanted(context)
    start = context.model.astype(np.float64) + update
    moved = np.zeros(update.size)
    for step in range(steps):
        gradient = np.zeros(update.size)
        for part in (lies, context.records):
            gradient += context.learner.gradient(start + reach * moved, part.features, part.labels)
        # Steps shrink, so that the last ones settle.
        moved = radius * unit(room.project(moved - radius * unit(gradient) / (1 + step)))
    if not moved.any():  # a vanishing gradient: any direction is as good
        moved = room.project(context.random.normal(size=update.size))
    return unit(moved)


def wanted(context: Context) -> Records:
    """The attacker's own records as test records of its attack."""
    if context.data is None:
        raise BadAttack("malice needs an aim: give the attack a data part")
    lies = context.data.triggered(context.records.features, context.records.labels)
    if not len(lies.labels):
        raise BadAttack("this silo has no record on which its attack could be tried: give it other records")
    return lies
