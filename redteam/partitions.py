"""How records are split over silos: Dirichlet, natural, by hand, log-normal sizes. Values in, indices out."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from redteam.errors import BadPartition

Indices = NDArray[np.int64]


def lognormal_sizes(silos: int, total: int, ratio: float, least: int = 1) -> Indices:
    """Sizes int64[silos] from largest to smallest, log-normal quantiles, the largest `ratio` times the smallest.

    Deterministic: quantiles at (i + 1/2) / n, so that the ratio is met for every number of silos.

    Raises:
        BadPartition: fewer than `least` records for the smallest silo.
    """
    from scipy import stats

    if silos < 1 or ratio < 1:
        raise BadPartition(f"{silos} silos with sizes up to {ratio} : 1 cannot be: ask for at least one and at least 1")
    quantiles = stats.norm.ppf((np.arange(silos) + 0.5) / silos)
    spread = np.log(ratio) / max(quantiles[-1] - quantiles[0], 1e-12)
    shares = np.sort(np.exp(spread * quantiles))[::-1]
    sizes: Indices = np.floor(total * shares / shares.sum()).astype(np.int64)
    sizes[0] += total - sizes.sum()
    if sizes[-1] < least:
        raise BadPartition(
            f"the smallest of {silos} silos would get {sizes[-1]} of {total} records, fewer than {least}"
        )
    return sizes


def dirichlet(labels: Indices, sizes: Indices, alpha: float, random: np.random.Generator) -> list[Indices]:
    """Disjoint indices by silo, `sizes` long, each silo's class mix drawn from Dirichlet(alpha) (Hsu et al. 2019).

    A class that runs out is replaced by the others in the silo's own proportions, so that sizes are met exactly.

    Raises:
        BadPartition: more records are asked for than there are, or alpha is not positive.
    """
    if alpha <= 0 or sizes.sum() > len(labels):
        raise BadPartition(
            f"{sizes.sum()} of {len(labels)} records with alpha {alpha}: ask for fewer, and alpha above 0"
        )
    classes = int(labels.max()) + 1
    pools = [list(random.permutation(np.flatnonzero(labels == label))) for label in range(classes)]
    return [np.array(_drawn(pools, int(size), alpha, random), dtype=np.int64) for size in sizes]


def natural(groups: Indices, silos: int, random: np.random.Generator | None = None) -> list[Indices]:
    """Indices by silo, groups never split; with `random` groups are dealt evenly, else each of the largest is a silo.

    Without `random`, the `silos` largest groups (states, writers) are the silos and the others are left out.

    Raises:
        BadPartition: fewer groups than silos.
    """
    names, counts = np.unique(groups, return_counts=True)
    if len(names) < silos:
        raise BadPartition(f"{len(names)} natural groups are too few for {silos} silos: ask for fewer silos")
    if random is None:
        largest = names[np.argsort(-counts, kind="stable")[:silos]]
        return [np.flatnonzero(groups == name) for name in largest]
    return [np.flatnonzero(np.isin(groups, part)) for part in np.array_split(random.permutation(names), silos)]


def _drawn(pools: list[list[int]], size: int, alpha: float, random: np.random.Generator) -> list[int]:
    """`size` indices popped from the pools by one Dirichlet draw."""
    mix = random.dirichlet(np.full(len(pools), alpha))
    taken: list[int] = []
    while len(taken) < size:
        left = np.array([len(pool) for pool in pools])
        # The tiny term lets a silo go on with any class that is left when its own are used up.
        weights = (mix + 1e-9) * (left > 0)
        wanted = np.minimum(random.multinomial(size - len(taken), weights / weights.sum()), left)
        for pool, count in zip(pools, wanted, strict=True):
            taken += [pool.pop() for _ in range(count)]
    return taken


def by_hand(groups: Indices, measure: NDArray[np.float64], silos: int) -> list[Indices]:
    """Indices by silo: groups (writers) in the order of the mean of `measure` over their records, never split.

    Raises:
        BadPartition: fewer groups than silos.
    """
    names, places = np.unique(groups, return_inverse=True)
    if len(names) < silos:
        raise BadPartition(f"{len(names)} natural groups are too few for {silos} silos: ask for fewer silos")
    means = np.bincount(places, weights=measure) / np.bincount(places)
    ranked = names[np.argsort(means, kind="stable")]
    return [np.flatnonzero(np.isin(groups, part)) for part in np.array_split(ranked, silos)]


def stroke(features: NDArray[np.float32]) -> NDArray[np.float64]:
    """Ink over its outline, in pixels, float64[n]: about half the width of the pen, whatever the size of the digit.

    Args:
        features: flattened square images in [0, 1], float32[n, side * side].
    """
    images = _images(features)
    rows = np.abs(np.diff(images, axis=1, prepend=0, append=0)).sum(axis=(1, 2))
    columns = np.abs(np.diff(images, axis=2, prepend=0, append=0)).sum(axis=(1, 2))
    widths: NDArray[np.float64] = images.sum(axis=(1, 2)) / np.maximum(np.hypot(rows, columns), 1e-9)
    return widths


def slant(features: NDArray[np.float32]) -> NDArray[np.float64]:
    """Columns to the right for each row upwards, from second moments (-mu_11 / mu_02), float64[n]: 0 is upright.

    Args:
        features: flattened square images in [0, 1], float32[n, side * side].
    """
    images = _images(features)
    ink = np.maximum(images.sum(axis=(1, 2)), 1e-9)
    places = np.arange(images.shape[1], dtype=np.float64)
    rows = places[None, :] - (images.sum(axis=2) @ places / ink)[:, None]
    columns = places[None, :] - (images.sum(axis=1) @ places / ink)[:, None]
    mixed = np.einsum("nrc,nr,nc->n", images, rows, columns) / ink
    height = np.einsum("nrc,nr->n", images, rows**2) / ink
    found: NDArray[np.float64] = -mixed / np.maximum(height, 1e-9)
    return found


def _images(features: NDArray[np.float32]) -> NDArray[np.float64]:
    side = math.isqrt(features.shape[1])
    if side * side != features.shape[1]:
        raise BadPartition("only square images have a stroke and a slant: use another partition")
    return features.reshape(-1, side, side).astype(np.float64)
