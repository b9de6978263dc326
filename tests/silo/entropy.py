"""Deterministic bytes for tests only: SHAKE-256 of a seed and a counter."""

from __future__ import annotations

import hashlib


class SeededEntropy:
    """An `Entropy` that production refuses."""

    is_operating_system = False

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._calls = 0

    def take(self, count: int) -> bytes:
        self._calls += 1
        return hashlib.shake_256(f"{self._seed}/{self._calls}".encode()).digest(count)
