"""One process, one search of a model: silos of a simulation share what the search of the same model has found.

A search draws nothing at random: what it finds is a function of model, root set and trigger. Silos on machines of
their own each make it; here the first one does.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from protos.codec import digest_of
from protos.search import Trigger
from protos.task import Task
from silo.searcher import Root, Searcher
from silo.trainer import searcher_for

_KEPT = 1024
"""Answers that are remembered; the largest is a direction for each class, classes times d floats."""
_KEPT_BYTES = 1 << 30


def shared_searcher() -> Callable[[Task], Searcher]:
    """For the `Seat.searcher` of all honest silos of one simulation: each call gives the same searcher."""
    made: list[SharedSearcher] = []

    def make(task: Task) -> Searcher:
        if not made:
            made.append(SharedSearcher(searcher_for(task)))
        return made[0]

    return make


class SharedSearcher:
    """A `silo.searcher.Searcher` that remembers what another one answered."""

    def __init__(self, inner: Searcher) -> None:
        self._inner = inner
        self._known: OrderedDict[tuple[str, ...], Any] = OrderedDict()
        self._bytes = 0

    def search(
        self, model: NDArray[np.float32], root: Root, suspected: frozenset[int] = frozenset()
    ) -> tuple[Trigger, ...] | None:
        """See `Searcher.search`."""
        key = "search", _digest(model, root), *map(str, sorted(suspected))
        found: tuple[Trigger, ...] | None = self._of(key, lambda: self._inner.search(model, root, suspected))
        return found

    def success(self, model: NDArray[np.float32], root: Root, trigger: Trigger) -> int:
        """See `Searcher.success`."""
        key = "success", _digest(model, root), digest_of(trigger)
        found: int = self._of(key, lambda: self._inner.success(model, root, trigger))
        return found

    def directions(
        self, model: NDArray[np.float32], root: Root, trigger: Trigger, even_blind: bool = False
    ) -> NDArray[np.float64]:
        """See `Searcher.directions`."""
        key = "directions", _digest(model, root), digest_of(trigger), str(even_blind)
        found: NDArray[np.float64] = self._of(key, lambda: self._inner.directions(model, root, trigger, even_blind))
        return found

    def _of(self, key: tuple[str, ...], make: Callable[[], Any]) -> Any:
        if key not in self._known:
            self._known[key] = make()
            self._bytes += getattr(self._known[key], "nbytes", 0)
            while len(self._known) > _KEPT or self._bytes > _KEPT_BYTES:
                _, dropped = self._known.popitem(last=False)
                self._bytes -= getattr(dropped, "nbytes", 0)
        return self._known[key]


def _digest(model: NDArray[np.float32], root: Root) -> str:
    return hashlib.sha256(model.tobytes() + root.features.tobytes() + root.labels.tobytes()).hexdigest()
