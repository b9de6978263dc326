"""Weighted medians with one or two silos left out, all of them from one sorting.

A median lies where the heaped weights reach half of what is left; leaving somebody out only moves that threshold by
the weights that lie at or below it. Weights are whole numbers, so that ties are ties on every machine. Time and memory
are those of one sorting and of the medians asked for.
"""

from __future__ import annotations

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
        self._ranked = np.take_along_axis(columns, order, axis=2)
        spread = np.broadcast_to(self._weights.T[:, None], columns.shape)
        self._heaped = np.cumsum(np.take_along_axis(spread, order, axis=2), axis=2)
        self._ranks = np.empty(columns.shape, dtype=np.int64)
        np.put_along_axis(self._ranks, order, np.arange(len(values))[None, None], axis=2)

    def medians(self, without: Integers) -> Floats:
        """Midpoint of lower and upper weighted median over the silos that are left; 0 where nobody has a say.

        Args:
            without: int64[m, k] silos to leave out, k at most 2, those of a row different.

        Returns:
            float64[m, classes, embedding].
        """
        classes, embedding, _ = self._ranked.shape
        found = np.zeros((classes, embedding, len(without)))
        for label in range(classes):
            removed = self._weights[without, label]
            left = self._total[label] - removed.sum(axis=1)
            asked = np.flatnonzero(left > 0)
            if asked.size:
                found[label][:, asked] = self._medians(label, without[asked], removed[asked], left[asked])
        return found.transpose(2, 0, 1)

    def _medians(self, label: int, without: Integers, removed: Integers, left: Integers) -> Floats:
        ranks = self._ranks[label][:, without]
        weights = np.broadcast_to(removed, ranks.shape)
        if without.shape[1] == 2:
            swapped = (ranks[..., 0] > ranks[..., 1])[..., None]
            ranks, weights = np.where(swapped, ranks[..., ::-1], ranks), np.where(swapped, weights[..., ::-1], weights)
        lower = self._reached(label, ranks, weights, (left + 1) // 2)
        values = np.take_along_axis(self._ranked[label], lower, axis=1)
        tied = np.flatnonzero(left % 2 == 0)
        if tied.size:
            upper = self._reached(label, ranks[:, tied], weights[:, tied], left[tied] // 2 + 1)
            values[:, tied] = (values[:, tied] + np.take_along_axis(self._ranked[label], upper, axis=1)) / 2
        return values

    def _reached(self, label: int, ranks: Integers, weights: Integers, wanted: Integers) -> Integers:
        """First rank at which what is left heaps up to `wanted` [m]; int64[embedding, m]. Left out ranks in order."""
        heaped = self._heaped[label]
        most = int((wanted + weights.sum(axis=2).max(axis=0)).max())
        # Between these ranks lies every answer, so only they are compared.
        first, last = ((heaped < bound).sum(axis=1) for bound in (int(wanted.min()), most))
        window = np.minimum(first[:, None] + np.arange(int((last - first).max())), heaped.shape[1] - 1)
        edges = np.take_along_axis(heaped, window, axis=1)
        found = _place(edges, first, np.broadcast_to(wanted, ranks.shape[:2]))
        for column in range(ranks.shape[2]):
            # Whoever is left out at or below the rank takes its weight out of the heap.
            wanted = wanted + np.where(ranks[..., column] <= found, weights[..., column], 0)
            found = _place(edges, first, wanted)
        return found


def _place(edges: Integers, first: Integers, wanted: Integers) -> Integers:
    """`first` plus how many edges [embedding, window] lie below what is wanted [embedding, m]."""
    found = np.repeat(first[:, None], wanted.shape[1], axis=1)
    for edge in edges.T:
        found += edge[:, None] < wanted
    return found


def _whole(weights: Floats) -> Integers:
    greatest = weights.max(axis=0, initial=0.0)
    scaled = np.rint(weights / np.where(greatest > 0, greatest, 1.0) * _UNIT)
    return np.where(weights > 0, np.maximum(scaled, 1), 0).astype(np.int64)
