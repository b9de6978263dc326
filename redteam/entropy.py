"""Randomness of simulations: fast, and the same for the same seed."""

from __future__ import annotations

import numpy as np


class SeededEntropy:
    """Uniform bytes from a seed; production refuses it (`silo.entropy`)."""

    is_operating_system = False

    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng([seed, 0xE])

    def take(self, count: int) -> bytes:
        """See `Entropy.take`."""
        return self._random.bytes(count)


def stream(seed: int, name: str) -> np.random.Generator:
    """A generator of its own for one purpose of a scenario, so that drawing more for another changes nothing here."""
    return np.random.default_rng([seed, *name.encode()])
