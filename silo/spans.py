"""Spans of gradients that directions of triggers must keep clear of; numpy only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Clean:
    """Clean gradients of all classes, one or two of each: columns `basis @ parts`, column i of class `classes[i]`.

    Attributes:
        basis: float64[d, k], orthonormal.
        parts: float64[k, k].
        classes: int64[k].
    """

    basis: NDArray[np.float64]
    parts: NDArray[np.float64]
    classes: NDArray[np.int64]

    @classmethod
    def of(cls, gradients: Sequence[Sequence[NDArray[np.float64]]]) -> Clean:
        """From the gradients of each class, of which zeros are left out."""
        there = [(label, unit(row)) for label, rows in enumerate(gradients) for row in rows if row.any()]
        basis, parts = np.linalg.qr(np.stack([row for _, row in there], axis=1))
        return cls(basis, parts, np.array([label for label, _ in there]))

    def beside(self, label: int) -> NDArray[np.float64]:
        """An orthonormal basis of the gradients of all classes but one, float64[d, < k]."""
        within: NDArray[np.float64] = np.linalg.qr(self.parts[:, self.classes != label])[0]
        return self.basis @ within


def unit(vector: NDArray[np.float64]) -> NDArray[np.float64]:
    length = float(np.linalg.norm(vector))
    return vector / length if length > 0 else vector


def joined(basis: NDArray[np.float64], more: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """An orthonormal basis of `basis` and what is left of `more`."""
    for vector in more:
        left = beside(vector, basis)
        if left.any():
            basis = np.hstack([basis, left[:, None]])
    return basis


def beside(vector: NDArray[np.float64], basis: NDArray[np.float64]) -> NDArray[np.float64]:
    """The unit vector of what `basis` does not span of `vector`; zero where that is rounding error."""
    left = unit(vector)
    for _ in range(2):  # twice is enough for orthogonality up to rounding
        left = left - basis @ (basis.T @ left)
    return unit(left) if np.linalg.norm(left) > 1e-4 else np.zeros_like(left)
