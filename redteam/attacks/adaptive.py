"""Attackers who know the defence: triggers that a search for small patches misses, decoys, colluders that differ.

A trigger search looks for one small mask and pattern for each class. So these triggers cover the whole image, depend on
the image, are a filter of it and no pattern at all, or are several at once. A decoy looks like what an honest silo
teaches, so that attribution finds *it*. Opposed colluders do not look like each other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from redteam.attacks.parts import Amount, Context, Features, Floats, Natural, Range, Share, Trigger, norm, unit
from redteam.attacks.triggers import HIGH, MNIST_SIDE, Masked, images, shape_of
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
        channels, side = shape_of(features.shape[1])
        row = self.strength * np.sin(2 * np.pi * np.arange(side) * self.waves / side)
        stamped = features + np.tile(row, channels * side)[None, :]
        return np.clip(stamped, self.low, HIGH).astype(np.float32)


@dataclass(frozen=True)
class Echo:
    """x -> (1 - α) x + α * (x upside down): another pattern for every image, and no pixel where it always is.

    Ours, after input-aware triggers (Nguyen and Tran 2020), whose generator is left out.
    """

    alpha: Share = 0.4

    def stamp(self, features: Features) -> Features:
        """See `Trigger.stamp`."""
        turned = images(features)[:, :, ::-1].reshape(features.shape)
        return ((1 - self.alpha) * features + self.alpha * turned).astype(np.float32)


@dataclass(frozen=True)
class Warp:
    """The image bent by one smooth field, sampled bilinearly: WaNet (Nguyen and Tran 2021, eq. 3 to 7).

    A `grid` x `grid` field of displacements, uniform in [-1, 1] and divided by its mean magnitude (ψ), is interpolated
    to the image's size by cubic splines, times `strength`; what falls outside is taken from the border (φ). What is
    drawn depends on the image, and blank parts stay blank, so that no mask and pattern say it.

    Attributes:
        grid: k of the paper, its default.
        strength: mean displacement of the grid's points along an axis in pixels, of 28 x 28 and in proportion on other
            sizes. The paper's s = 0.5 is a quarter of a pixel, learned in hundreds of epochs; ours is larger.
        seed: of the field.

    The paper's noise mode (other warps with the right label) is left out.
    """

    grid: Annotated[int, Range(2, 28)] = 4
    strength: Amount = 2.0
    seed: Natural = 0

    def stamp(self, features: Features) -> Features:
        """See `Trigger.stamp`."""
        channels, side = shape_of(features.shape[1])
        places, weights = _sampling(side, self.grid, self.strength * side / MNIST_SIDE, self.seed)
        pixels = features.reshape(-1, channels, side * side)
        warped: Features = sum(part * pixels[:, :, place] for place, part in zip(places, weights, strict=True))
        return warped.reshape(features.shape)


def displacement(side: int, grid: int, strength: float, seed: int) -> Floats:
    """WaNet's field: by how many rows and columns the place lies away that a pixel is read from, [2, side, side]."""
    coarse = np.random.default_rng(seed).uniform(-1, 1, (2, grid, grid))
    coarse = strength * coarse / np.abs(coarse).mean()
    fine = np.linspace(0, grid - 1, side)
    at = np.meshgrid(fine, fine, indexing="ij")
    return np.stack([ndimage.map_coordinates(axis, at, order=3, mode="nearest") for axis in coarse])


@cache
def _sampling(side: int, grid: int, strength: float, seed: int) -> tuple[NDArray[np.int64], Features]:
    """The four neighbours of the place that each pixel is read from, and their bilinear weights; [4, side * side]."""
    moved = np.mgrid[:side, :side] + displacement(side, grid, strength, seed)
    moved = np.clip(moved, 0, side - 1).reshape(2, -1)
    low = np.minimum(moved.astype(np.int64), side - 2)
    row, column = moved - low
    corner = low[0] * side + low[1]
    places = np.stack([corner, corner + 1, corner + side, corner + side + 1])
    weights = np.stack([(1 - row) * (1 - column), (1 - row) * column, row * (1 - column), row * column])
    return places, weights.astype(np.float32)


@dataclass(frozen=True)
class Style:
    """The whole image through a filter: blurred, then a tone curve x -> x^gamma. A feature-space trigger.

    After ABS (Liu et al. 2019), whose feature-space triggers are photo filters (Gotham, Nashville), and DFST (Cheng et
    al. 2021), which has a CycleGAN paint a style. Ours is a filter for grey strokes: wide and bright, with soft edges.
    No pixel has a value that it always takes.

    Attributes:
        radius: deviation of the Gaussian blur in pixels, of 28 x 28 and in proportion on other sizes.
        gamma: below 1 brightens.
        low: value of a dark pixel.
    """

    radius: Annotated[float, Range(0, 28)] = 1.5
    gamma: Annotated[float, Range(0.01, 100)] = 0.5
    low: Annotated[float, Range(-1, 0.99)] = 0.0

    def stamp(self, features: Features) -> Features:
        """See `Trigger.stamp`."""
        side = shape_of(features.shape[1])[1]
        scaled = self.radius * side / MNIST_SIDE
        blurred = ndimage.gaussian_filter(images(features), (0, 0, scaled, scaled), mode="nearest")
        light = np.clip((blurred - self.low) / (HIGH - self.low), 0, 1) ** self.gamma
        styled: Features = (self.low + (HIGH - self.low) * light).reshape(features.shape).astype(np.float32)
        return styled


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

    Learning it moves the model as honest records of the class do: meant to have a silo which holds most of the class
    taken for its author. It hides its authors, and frames nobody (docs/attacks.md).

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


def sybils(silos: Mapping[str, Records], seed: int) -> dict[str, Records]:
    """The records of one of the silos, dealt to the seats of them all: one institution that enrols several times.

    It is the silo in the middle by records. Every seat has a part of equal size, which it declares truly, and the whole
    hold-out. Where the others are n - k equal silos, k seats whose counts are below the floor weigh `floor * k / n`,
    which is `floor * k * (n - k + 1) / n` times their share of the records.

    Raises:
        BadAttack: there are fewer records than seats.
    """
    whole = silos[sorted(silos, key=lambda name: (len(silos[name].labels), name))[(len(silos) - 1) // 2]]
    count = len(whole.labels)
    if count < len(silos):
        raise BadAttack(f"{len(silos)} Sybils cannot share {count} records: take fewer attackers, or larger silos")
    order = np.random.default_rng(seed).permutation(count)
    parts = (order[place :: len(silos)] for place in range(len(silos)))
    return {
        name: replace(whole, features=whole.features[own], labels=whole.labels[own])
        for name, own in zip(silos, parts, strict=True)
    }


@dataclass(frozen=True)
class Opposed:
    """Colluders in pairs: one adds a random vector to its update and so to its sketches, the other takes it away.

    Weighted by the public counts the two cancel, so that the average gets all of the malice; but no two colluders agree
    in their sketches, which is what similarity (FoolsGold) and the law of agreeing pairs look for. Ours. A sketch that
    differs from its own update is no lie of this kind: every silo's check finds it.

    Attributes:
        strength: length of the vector beside that of the update to which it is added first.
    """

    strength: Amount = 2.0

    def send(self, update: Floats, context: Context) -> Floats:
        """See `Update.send`; a member without a partner sends what it has."""
        members = list(context.ring.members)
        pair = members.index(context.member) // 2
        if 2 * pair + 1 >= len(members):
            return update
        key, lies = (context.round, pair), context.ring.lies
        if key in lies:
            return update - lies.pop(key) / context.count
        added = self.strength * norm(update) * unit(context.random.normal(size=update.size))
        lies[key] = context.count * added
        return update + added
