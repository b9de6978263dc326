"""A searcher that denies: silos that teach a trigger also answer for it when models are searched.

It reports nothing, measures that no trigger works, and its tables say that nobody taught any.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from protos.search import Trigger
from protos.task import Task
from silo.searcher import Root


class Denier:
    """The `silo.searcher.Searcher` of a liar, for `Attack.searcher`.

    Its own tables clear whom others' convict, which halts an honest silo; the liar goes on (`Seat.resumes`).
    """

    def __init__(self, task: Task) -> None:
        self._shape = task.layout.classes, task.layout.size

    def search(
        self, model: NDArray[np.float32], root: Root, suspected: frozenset[int] = frozenset()
    ) -> tuple[Trigger, ...]:
        """See `Searcher.search`: finds nothing."""
        return ()

    def success(self, model: NDArray[np.float32], root: Root, trigger: Trigger) -> int:
        """See `Searcher.success`: no record is moved."""
        return 0

    def directions(
        self, model: NDArray[np.float32], root: Root, trigger: Trigger, even_blind: bool = False
    ) -> NDArray[np.float64]:
        """See `Searcher.directions`: along zeros everybody's projection is 0."""
        return np.zeros(self._shape)
