"""Vectors beside what others span: directions in which nothing that is known to be sent can be seen. In numpy.

All are float64[d], bases orthonormal columns float64[d, k].
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import optimize

Vector = NDArray[np.float64]
_LEAST = 1e-4
"""What is left of a unit vector counts as rounding error up to this length."""


def unit(vector: Vector) -> Vector:
    """The vector by its length; zero stays zero."""
    length = float(np.linalg.norm(vector))
    return vector / length if length > 0 else vector


def joined(basis: Vector, more: Sequence[Vector]) -> Vector:
    """An orthonormal basis of `basis` and what is left of `more`."""
    for vector in more:
        left = beside(vector, basis)
        if left.any():
            basis = np.hstack([basis, left[:, None]])
    return basis


def beside(vector: Vector, basis: Vector) -> Vector:
    """The unit vector of what `basis` does not span of `vector`; zero where that is rounding error."""
    left = unit(vector)
    for _ in range(2):  # twice is enough for orthogonality up to rounding
        left = left - basis @ (basis.T @ left)
    return _kept(left)


def opposed(vector: Vector, parts: Sequence[Vector]) -> Vector:
    """The unit vector of what is left of `vector` off the convex cone of `parts`; zero where that is rounding error.

    No mix of the parts with weights of at least 0 pushes along it, and where none of them pushes along `vector` itself,
    that is what is left (Moreau 1962: a vector is the sum of its projections on a cone and on the cone's polar).
    """
    there = [unit(part) for part in parts if part.any()]
    if not there:
        return unit(vector)
    within, corner = np.linalg.qr(np.stack(there, axis=1))
    weights, _ = optimize.nnls(corner, within.T @ unit(vector), maxiter=1000)
    return _kept(unit(vector) - within @ (corner @ weights))


def _kept(left: Vector) -> Vector:
    return unit(left) if np.linalg.norm(left) > _LEAST else np.zeros_like(left)
