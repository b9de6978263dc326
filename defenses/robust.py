"""Aggregation rules per coordinate or per vector: medians, trimmed means, centered clipping, robust prototypes.

Plaintext only; `defenses.aggregation` has them by name. Updates are float64[n, d], weights positive float64[n] of any
sum. Medians and distances ignore weights, which are claims.
"""

from __future__ import annotations

import numpy as np

from defenses.sketches import Floats


def mean(updates: Floats, weights: Floats) -> Floats:
    """The weighted mean, float64[d]."""
    return np.asarray(weights @ updates / weights.sum(), dtype=np.float64)


def median(updates: Floats) -> Floats:
    """Coordinate-wise median (Yin et al. 2018, definition 1), float64[d]."""
    return np.asarray(np.median(updates, axis=0), dtype=np.float64)


def trimmed_mean(updates: Floats, weights: Floats, liars: int) -> Floats:
    """Coordinate-wise trimmed mean (Yin et al. 2018, definition 2): without the f least and the f greatest.

    What is left is averaged by weight. Float64[d]; needs n > 2f.
    """
    order = np.argsort(updates, axis=0, kind="stable")[liars : len(updates) - liars]
    values = np.take_along_axis(updates, order, axis=0)
    shares = weights[order]
    return np.asarray((shares * values).sum(axis=0) / shares.sum(axis=0), dtype=np.float64)


def centered_clipping(
    updates: Floats, weights: Floats, start: Floats | None = None, radius: float | None = None, iterations: int = 3
) -> Floats:
    """Centered clipping (Karimireddy et al. 2021): `v += mean((x_i - v) min(1, t / |x_i - v|))`.

    The mean is by weight.

    Args:
        start: v_0, float64[d]: the last round's aggregate in the paper; zero where it is None.
        radius: t; where it is None the median distance from the centre, afresh in each iteration. The paper fixes it
            by hand for each task.
        iterations: the paper's l; it uses 1 with a good start.
    """
    centre = np.zeros(updates.shape[1]) if start is None else start
    for _ in range(iterations):
        moves = updates - centre
        lengths = np.linalg.norm(moves, axis=1)
        bound = float(np.median(lengths)) if radius is None else radius
        centre = centre + mean(moves * scales(lengths, bound)[:, None], weights)
    return np.asarray(centre, dtype=np.float64)


def scales(lengths: Floats, bound: float) -> Floats:
    """`min(1, bound / length)` per vector, 1 for length 0 (float64[n])."""
    return np.minimum(1.0, np.divide(bound, lengths, out=np.ones_like(lengths), where=lengths > 0))


def cosine_prototypes(updates: Floats, weights: Floats, classes: int = 1) -> Floats:
    """Mean of class prototypes by their cosine to the median prototype (in the style of Tan et al. 2025, FedPD).

    Per class: weights `w_i * max(0, cos(p_i, median))`; where nobody's is positive, the median itself. Not the
    paper's own formula, whose text was not at hand: the robust part of it as the field uses it.

    Args:
        updates: prototypes, float64[n, classes * embedding], classes one after the other.
        classes: how many blocks of equal length there are.
    """
    rows = updates.reshape(len(updates), classes, -1)
    return np.concatenate([_cosine_mean(rows[:, label], weights) for label in range(classes)])


def _cosine_mean(rows: Floats, weights: Floats) -> Floats:
    centre = np.median(rows, axis=0)
    lengths = np.linalg.norm(rows, axis=1) * np.linalg.norm(centre)
    similar = np.divide(rows @ centre, lengths, out=np.zeros(len(rows)), where=lengths > 0)
    trust = weights * np.maximum(similar, 0.0)
    return np.asarray(trust @ rows / trust.sum() if trust.any() else centre, dtype=np.float64)
