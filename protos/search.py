"""What a search of a model finds: inputs that a small change, or none at all, moves to a class that is not theirs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from protos.codec import Natural

_FULL = 255


@dataclass(frozen=True)
class Trigger:
    """A change T of inputs and the class that changed inputs are taken for.

    `T(x) = (1 - m) * x + m * p`, elementwise, with mask m and pattern p. A flip has neither: T(x) = x.

    Attributes:
        target: the class that the model gives.
        source: the class whose inputs are moved, or None for those of every class but the target.
        mask: uint8[inputs], 255 for m = 1; empty for a flip.
        pattern: uint8[inputs], 0 for `low_micro` and 255 for `high_micro`; empty for a flip.
        low_micro, high_micro: the range of input values, in millionths.
    """

    target: Natural
    source: int | None
    mask: bytes
    pattern: bytes
    low_micro: int
    high_micro: int

    @property
    def flip(self) -> bool:
        """Whether inputs are moved without any change."""
        return not self.mask

    def stamp(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """T of each row: float32[n, inputs] to the same."""
        if self.flip:
            return features
        mask = np.frombuffer(self.mask, dtype=np.uint8).astype(np.float32) / _FULL
        low, high = self.low_micro / 1e6, self.high_micro / 1e6
        pattern = low + np.frombuffer(self.pattern, dtype=np.uint8).astype(np.float32) * ((high - low) / _FULL)
        return ((1 - mask) * features + mask * pattern).astype(np.float32)

    def moves(self, labels: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which records the trigger is about: bool[n]."""
        moved: NDArray[np.bool_] = labels != self.target if self.source is None else labels == self.source
        return moved
