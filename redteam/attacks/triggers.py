"""Triggers: what is drawn on flattened square images, grey or with three channels one after the other.

Positions are those of MNIST's 28 x 28; smaller images get fewer pixels. Scaling keeps every piece at least one pixel
thick and all pieces apart; it is the identity at 28.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from redteam.attacks.parts import Features, Natural, Share
from redteam.errors import BadAttack

HIGH = 1.0
"""Brightest pixel, where features lie in [0, 1] or [-1, 1]."""
MNIST_SIDE = 28

Cells = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Pixels:
    """Cells (row, column) set to `value`; negative ones count from the far edge, as in numpy."""

    cells: Cells
    value: float = HIGH

    def stamp(self, features: Features) -> Features:
        """See `Trigger.stamp`."""
        stamped = images(features).copy()
        rows, columns = np.array(self.cells).T
        side = stamped.shape[-1]
        if not -side <= min(rows.min(), columns.min()) <= max(rows.max(), columns.max()) < side:
            raise BadAttack(
                f"a cell of this trigger is outside of images of {side} x {side}: choose rows and columns in them"
            )
        stamped[:, :, rows, columns] = self.value
        return stamped.reshape(features.shape)


@dataclass(frozen=True)
class Blend:
    """x -> (1 - α) x + α * pattern, uniform noise over the whole image (Chen et al. 2017, blended injection).

    α 0.2 is the paper's for training. The pattern is drawn from [low, high], fixed by the seed.
    """

    alpha: Share = 0.2
    low: float = 0.0
    high: float = HIGH
    seed: Natural = 0

    def __post_init__(self) -> None:
        if self.low > self.high:
            raise BadAttack(f"low is {self.low:g} and high is {self.high:g}: choose a low that is not above high")

    def stamp(self, features: Features) -> Features:
        """See `Trigger.stamp`."""
        pattern = np.random.default_rng(self.seed).uniform(self.low, self.high, features.shape[1])
        return ((1 - self.alpha) * features + self.alpha * pattern).astype(np.float32)


@dataclass(frozen=True, eq=False)
class Masked:
    """x -> (1 - mask) x + mask * pattern, both float32[side * side], mask in [0, 1]: a learned trigger."""

    mask: NDArray[np.float32]
    pattern: NDArray[np.float32]

    def stamp(self, features: Features) -> Features:
        """See `Trigger.stamp`."""
        stamped: Features = (1 - self.mask) * features + self.mask * self.pattern
        return stamped


def corner(size: int = 5) -> Pixels:
    """A square of `size` pixels in the lower right corner: BadNets (Gu et al. 2017); 5 on MNIST, 2 in the demo."""
    return Pixels(tuple((-1 - row, -1 - column) for row in range(size) for column in range(size)))


def two_pixels() -> Pixels:
    """The two pixels of the upper left corner: BadNets as FLAB (Wang et al. 2026) uses it."""
    return Pixels(((0, 0), (0, 1)))


def strips(side: int = MNIST_SIDE) -> tuple[Pixels, ...]:
    """DBA's four local triggers (Xie et al. 2020, MNIST): 1 x 4 strips at rows 0 and 3, columns 0-3 and 6-9."""
    return _grid(height=1, width=_scaled(4, side, 2), row_gap=_scaled(2, side), column_gap=_scaled(2, side))


def blocks(side: int = MNIST_SIDE) -> tuple[Pixels, ...]:
    """Four local triggers of 4 x 2 pixels (width x height) as in FLAB, two by two from the upper left, 2 pixels apart.

    The paper's size; its positions are not known to us, these are ours.
    """
    return _grid(
        height=_scaled(2, side, 2), width=_scaled(4, side, 2), row_gap=_scaled(2, side), column_gap=_scaled(2, side)
    )


def joined(pieces: tuple[Pixels, ...]) -> Pixels:
    """The global trigger of DBA: all local ones together."""
    return Pixels(tuple(cell for piece in pieces for cell in piece.cells))


def _grid(height: int, width: int, row_gap: int, column_gap: int) -> tuple[Pixels, ...]:
    """Two by two rectangles from the upper left corner."""
    tops, lefts = (0, height + row_gap), (0, width + column_gap)
    return tuple(
        Pixels(tuple((top + row, left + column) for row in range(height) for column in range(width)))
        for top in tops
        for left in lefts
    )


def _scaled(length: int, side: int, least: int = 1) -> int:
    return max(least, round(length * side / MNIST_SIDE))


def shape_of(width: int) -> tuple[int, int]:
    """Channels (1 or 3) and side of square images of so many features; raises BadAttack for any other width."""
    for channels in (1, 3):
        side = math.isqrt(width // channels)
        if channels * side * side == width:
            return channels, side
    raise BadAttack(f"records of {width} features are no square images: choose an attack without an image trigger")


def side_of(width: int) -> int:
    """The side of square images of so many features, 0 where they are none."""
    try:
        return shape_of(width)[1]
    except BadAttack:
        return 0


def images(features: Features) -> Features:
    """A view of flattened images, float32[n, channels, side, side]; raises BadAttack where they are none."""
    channels, side = shape_of(features.shape[1])
    return features.reshape(-1, channels, side, side)
