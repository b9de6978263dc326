"""Aggregation rules that select, mix or clip updates before they average: Bulyan, NNM, ARC, FLAME whole.

Plaintext only; `defenses.aggregation` has them by name.
"""

from __future__ import annotations

import numpy as np

from defenses.geometric import krum_scores
from defenses.robust import mean, scales, trimmed_mean
from defenses.similarity import majority_cluster
from defenses.sketches import Floats, cosines

FLAME_NOISE = 0.001
"""FLAME's lambda for images; the paper has 0.01 for text."""


def distances_of(updates: Floats) -> Floats:
    """Squared Euclidean distances, float64[n, n], by differences: no digits are lost where updates are close."""
    return np.array([np.square(updates - row).sum(axis=1) for row in updates], dtype=np.float64)


def bulyan(updates: Floats, liars: int) -> Floats:
    """Bulyan of Krum (El Mhamdi et al. 2018), weights have no part; needs n >= 4f + 3.

    Krum picks `n - 2f` updates one after the other, each among those left; then per coordinate the mean of the
    `n - 4f` values nearest to the median of the picked. Of equal scores the lexicographically first update wins: among
    the last 2f + 1 two nearest neighbours often tie, and the order of silos must not decide. Float64[d].
    """
    updates = updates[np.lexsort(updates.T[::-1])]
    picked = updates[_picked(distances_of(updates), len(updates) - 2 * liars, liars)]
    order = np.argsort(np.abs(picked - np.median(picked, axis=0)), axis=0, kind="stable")
    nearest = np.take_along_axis(picked, order[: len(picked) - 2 * liars], axis=0)
    return np.asarray(nearest.mean(axis=0), dtype=np.float64)


def mix_nearest(updates: Floats, liars: int) -> Floats:
    """Nearest-neighbour mixing (Allouah et al. 2023): each update becomes the mean of its n - f nearest.

    An update is its own nearest. Float64[n, d].
    """
    kept = len(updates) - liars
    order = np.argsort(distances_of(updates), axis=1, kind="stable")[:, :kept]
    return np.array([updates[near].mean(axis=0) for near in order], dtype=np.float64)


def clip_adaptively(updates: Floats, liars: int) -> Floats:
    """Adaptive robust clipping (Allouah et al. 2025, ARC, algorithm 2).

    With `k = floor(2 f / n (n - f))` the k longest updates are cut to the norm of the (k + 1)-th. Float64[n, d].
    """
    silos = len(updates)
    cut = 2 * liars * (silos - liars) // silos
    lengths = np.linalg.norm(updates, axis=1)
    bound = float(np.sort(lengths)[::-1][min(cut, silos - 1)])
    return np.asarray(updates * scales(lengths, bound)[:, None], dtype=np.float64)


def flame(updates: Floats, weights: Floats, rng: np.random.Generator, noise: float = FLAME_NOISE) -> Floats:
    """FLAME whole (Nguyen et al. 2022, algorithm 1): majority cluster, clipping to the median norm, noise.

    `S` is the median norm of all n updates; the admitted are cut to it and averaged by weight; then noise of standard
    deviation `noise * S` per coordinate. Float64[d].
    """
    admitted = majority_cluster(1 - cosines(updates @ updates.T)) > 0
    lengths = np.linalg.norm(updates, axis=1)
    bound = float(np.median(lengths))
    clipped = updates * scales(lengths, bound)[:, None]
    drawn = rng.normal(0.0, noise * bound, updates.shape[1])
    return np.asarray(mean(clipped[admitted], weights[admitted]) + drawn, dtype=np.float64)


def _picked(distances: Floats, number: int, liars: int) -> list[int]:
    left = list(range(len(distances)))
    picked: list[int] = []
    while len(picked) < number:
        scores = krum_scores(distances[np.ix_(left, left)], liars)
        picked.append(left.pop(int(np.argmin(scores))))
    return picked


def mixed_trimmed_mean(updates: Floats, liars: int) -> Floats:
    """The trimmed mean after nearest-neighbour mixing, as its paper uses it (float64[d]).

    All mixtures count alike: weights belong to updates, and a mixture of many is nobody's.
    """
    return trimmed_mean(mix_nearest(updates, liars), np.ones(len(updates)), liars)
