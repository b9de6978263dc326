"""Attackers who know the defence: triggers that a search for small patches misses, decoys, Sybil silos.

A trigger search looks for one small mask and pattern for each class. So these triggers cover the whole image, depend on
the image, or are several at once. A decoy looks like what an honest silo teaches, so that attribution finds *it*.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from redteam.attacks.parts import Features, Trigger
from redteam.attacks.triggers import HIGH, Masked
from redteam.errors import BadAttack
from silo.data import Records


@dataclass(frozen=True)
class Waves:
    """x -> x + strength * sin(2π columns waves / side), cut to [low, HIGH]: SIG (Barni, Kallas and Tondi 2019).

    The paper has 20/255 on clean labels, up to 60/255; here it lies, and 0.2 is between the two. Waves are the
    paper's 6 at 28 pixels.
    """

    strength: float = 0.2
    waves: float = 6.0
    low: float = 0.0

    def stamp(self, features: Features) -> Features:
        """See `Trigger.stamp`."""
        side = _side(features)
        row = self.strength * np.sin(2 * np.pi * np.arange(side) * self.waves / side)
        stamped = features + np.tile(row, side)[None, :]
        return np.clip(stamped, self.low, HIGH).astype(np.float32)


@dataclass(frozen=True)
class Echo:
    """x -> (1 - α) x + α * (x upside down): another pattern for every image, and no pixel where it always is.

    Ours, after input-aware triggers (Nguyen and Tran 2020), whose generator is left out.
    """

    alpha: float = 0.4

    def stamp(self, features: Features) -> Features:
        """See `Trigger.stamp`."""
        side = _side(features)
        turned = features.reshape(-1, side, side)[:, ::-1].reshape(features.shape)
        return ((1 - self.alpha) * features + self.alpha * turned).astype(np.float32)


@dataclass(frozen=True)
class Several:
    """Record i gets trigger i mod k: several independent ones for one label, of which a search finds one at a time."""

    triggers: tuple[Trigger, ...]

    def stamp(self, features: Features) -> Features:
        """See `Trigger.stamp`."""
        stamped = features.copy()
        for number, trigger in enumerate(self.triggers):
            stamped[number :: len(self.triggers)] = trigger.stamp(features[number :: len(self.triggers)])
        return stamped


def decoy(known: Iterable[Records], label: int, alpha: float = 0.5, share: float = 0.2) -> Masked:
    """A faint mean image of class `label`, on the pixels that mark it most: to be planted with that label.

    Learning it moves the model as honest records of the class do, so that a silo which holds most of the class is
    taken for its author.

    Args:
        known: what the attackers hold.
        label: the class of the silo to be framed.
        alpha: opacity of the mask.
        share: of the pixels that it covers.

    Raises:
        BadAttack: the attackers have no record of the class, or of no other.
    """
    held = list(known)
    features = np.concatenate([own.features for own in held])
    labels = np.concatenate([own.labels for own in held])
    if not (labels == label).any() or (labels == label).all():
        raise BadAttack(f"a decoy for class {label} needs records of it and of others: choose another class")
    pattern = features[labels == label].mean(axis=0)
    marks = np.abs(pattern - features[labels != label].mean(axis=0))
    mask = np.where(marks >= np.quantile(marks, 1 - share), alpha, 0.0)
    return Masked(mask.astype(np.float32), pattern.astype(np.float32))


def _side(features: Features) -> int:
    side = math.isqrt(features.shape[1])
    if side * side != features.shape[1]:
        raise BadAttack(f"records of {features.shape[1]} features are no square images: choose another trigger")
    return side
