"""Which classes the public records themselves show as alike: of those, honest data teach flips.

A silo that holds many shirts and few T-shirts moves its model towards calling T-shirts shirts, whatever it is told: its
evidence of that flip is an attacker's. Nothing that a silo sends tells the two apart, but public records do: where some
of them lie among those of the other class, the flip is a natural one. Silos unlearn it as any, and it convicts nobody.

The rule is that of k nearest neighbours, each record left out of its own (Cover and Hart 1967), in integers, so that
everybody who holds the root set's file finds the same.
"""

from __future__ import annotations

import numpy as np

from protos.task import Confusion
from silo.searcher import Root

NEIGHBOURS = 5
PERCENT = 10
"""A class is alike another one where so many of its records' neighbours are the other's. 7 and 3 of MNIST come to 0 or
1, T-shirts and shirts of Fashion-MNIST to 14 to 27 (three root sets of 30 records of each class)."""
_LEVELS = 1023
"""Of a feature, as integers: squared distances of up to a billion inputs are exact in float64, in whatever order."""


def alike(root: Root) -> tuple[Confusion, ...]:
    """Pairs of classes, of which records of the first lie among those of the second; sorted."""
    rows = root.features.astype(np.float64)
    levels = np.rint(rows * (_LEVELS / max(np.abs(rows).max(), 1e-30)))
    squares = (levels**2).sum(axis=1)
    apart = squares[:, None] + squares - 2 * levels @ levels.T
    np.fill_diagonal(apart, np.inf)
    nearest = root.labels[np.argsort(apart, axis=1, kind="stable")[:, :NEIGHBOURS]]
    classes = int(root.labels.max()) + 1
    votes = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(votes, (root.labels[:, None], nearest), 1)
    enough = 100 * votes >= PERCENT * NEIGHBOURS * np.bincount(root.labels, minlength=classes)[:, None]
    np.fill_diagonal(enough, False)
    return tuple(Confusion(int(source), int(target)) for source, target in np.argwhere(enough))
