"""Weighted medians with one or two silos left out, all of them from one sorting.

A median lies where the heaped weights reach half of what is left; leaving somebody out only moves that threshold by
the weights that lie at or below it. Weights are whole numbers, so that ties are ties on every machine. Time and memory
are those of one sorting and of the medians asked for.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

_UNIT = 2**40
"""The greatest weight of a class; others are whole multiples of its 2^-40 part, and at least one."""


class Ranking:
    """The values of n silos, sorted coordinate by coordinate.

    Args:
        values: float64[n, classes, embedding].
        weights: float64[n, classes], 0 for a silo without a say.
    """

    def __init__(self, values: Floats, weights: Floats) -> None:
        self._weights = _whole(weights)
        self._total = self._weights.sum(axis=0)
        columns = np.ascontiguousarray(values.transpose(1, 2, 0))
        order = np.argsort(columns, axis=2)
        self._ranked = np.sort(columns, axis=2)
        spread = np.broadcast_to(self._weights.T[:, None], columns.shape)
        self._heaped = np.cumsum(np.take_along_axis(spread, order, axis=2), axis=2)
        self._ranks = np.empty(columns.shape, dtype=np.int32)
        np.put_along_axis(self._ranks, order, np.arange(len(values), dtype=np.int32)[None, None], axis=2)

    def medians(self, without: Integers) -> Floats:
        """Midpoint of lower and upper weighted median over the silos that are left; 0 where nobody has a say.

        Args:
            without: int64[m, k] silos to leave out, k at most 2, those of a row different.

        Returns:
            float64[m, classes, embedding].
        """
        removed = self._weights[without].transpose(2, 0, 1)
        left = self._total[:, None] - removed.sum(axis=2)
        lower, met = self._reached(without, removed, (left + 1) // 2)
        values = np.take_along_axis(self._ranked, lower, axis=2)
        # Where half of what is left is met to the unit, the median lies midway to the next value.
        if (met & (left % 2 == 0)[:, None]).any():
            upper, _ = self._reached(without, removed, np.where(left > 0, left // 2 + 1, 0))
            values = (values + np.take_along_axis(self._ranked, upper, axis=2)) / 2
        return np.where(left[:, None] > 0, values, 0.0).transpose(2, 0, 1)

    def _reached(
        self, without: Integers, removed: Integers, wanted: Integers
    ) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
        """First rank at which what is left heaps up to `wanted` [classes, m], and whether to the unit.

        Both [classes, embedding, m]; `removed` are the weights left out, int64[classes, m, k].
        """
        # Between these ranks lies every answer, so only they are compared.
        bounds = wanted.min(axis=1), (wanted + removed.sum(axis=2)).max(axis=1)
        first, last = ((self._heaped < bound[:, None, None]).sum(axis=2) for bound in bounds)
        window = first[..., None] + np.arange(int((last - first).max()) + 1)
        window = np.minimum(window, self._heaped.shape[2] - 1)
        edges = np.take_along_axis(self._heaped, window, axis=2)
        asked, start = wanted[:, None], first[..., None].astype(np.int32)
        found = _below(edges, asked)
        for ranks, weights in self._in_order(without, removed):
            # Whoever is left out at or below the rank takes its weight out of the heap.
            asked = asked + weights * (ranks <= found + start)
            found = _below(edges, asked)
        met = np.any([edge[..., None] == asked for edge in np.moveaxis(edges, 2, 0)], axis=0)
        return found + start, met

    def _in_order(self, without: Integers, removed: Integers) -> Iterator[tuple[NDArray[np.int32], Integers]]:
        """Ranks [classes, embedding, m] and weights of whoever is left out, those of lower rank first."""
        ranks = [self._ranks[:, :, column] for column in without.T]
        weights = [removed[:, None, :, column] for column in range(len(ranks))]
        if len(ranks) < 2:
            yield from zip(ranks, weights, strict=True)
            return
        swapped = ranks[0] > ranks[1]
        yield np.minimum(*ranks), np.where(swapped, *weights[::-1])
        yield np.maximum(*ranks), np.where(swapped, *weights)


def _below(edges: Integers, wanted: Integers) -> NDArray[np.int32]:
    """How many edges [classes, embedding, window] lie below what is wanted [classes, embedding or 1, m]."""
    found = np.zeros((*edges.shape[:2], wanted.shape[2]), dtype=np.int32)
    for edge in np.moveaxis(edges, 2, 0):
        found += edge[..., None] < wanted
    return found


def _whole(weights: Floats) -> Integers:
    greatest = weights.max(axis=0, initial=0.0)
    scaled = np.rint(weights / np.where(greatest > 0, greatest, 1.0) * _UNIT)
    return np.where(weights > 0, np.maximum(scaled, 1), 0).astype(np.int64)
