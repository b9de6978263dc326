"""What a silo asks of the side that searches models for triggers; `searcher_for` finds it by the kind of model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from protos.search import Trigger


@dataclass(frozen=True)
class Root:
    """The federation's public examples: features float32[n, inputs], labels int64[n]. Nobody's private records."""

    features: NDArray[np.float32]
    labels: NDArray[np.int64]


class Searcher(Protocol):
    """Search and attribution on public examples. Models are flat float32[d] in the task's layout.

    All results are functions of models and public data, so that they cost no privacy.
    """

    def search(
        self, model: NDArray[np.float32], root: Root, suspected: frozenset[int] = frozenset()
    ) -> tuple[Trigger, ...] | None:
        """Triggers that move this model's answers and would not move those of an honest one, strongest first.

        None where the model gives so few records their class that nothing can be said. Of `suspected` classes, whose
        triggers came back before, weaker ones are given too.
        """

    def success(self, model: NDArray[np.float32], root: Root, trigger: Trigger) -> int:
        """Millionths of the root's records that the trigger is about which the model gives to the target under it."""

    def directions(
        self, model: NDArray[np.float32], root: Root, trigger: Trigger, even_blind: bool = False
    ) -> NDArray[np.float64]:
        """Where an update would move to learn the trigger: float64[classes, d].

        Row c is `-∇CE(T(x), c)` at `model`, averaged over the records that are not of class c, less the mix of clean
        class gradients along which it would be seen in sketches, of unit length. Row `trigger.target` is the find; the
        others are negative controls, along which nothing pushes that teaches the find from any class: of a flip, they
        are the flips of each class c to the same target, each beside the clean gradients of all classes but c. All rows
        are zero where the model gives so few records their class that little can be said, unless `even_blind`.
        """
