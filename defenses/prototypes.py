"""Suspicion from class prototypes: distance from a robust consensus, and residuals that agree between silos.

A prototype is a noised class sum divided by a noised class count. It is judged in units of the silo's own uncertainty:
DP noise, sampling (records lie within the clip norm, so per coordinate at most `1/(E n)`), noise of the count, the
between-silo variance and the error of the consensus. The consensus leaves out whoever is judged.

A prototype reflected about the consensus (BAPFL) keeps norm and distance, so distance says nothing of it; but
reflections of several silos share a direction, and honest residuals are independent. A single reflecting
silo is not told apart. All lengths are in clip norms of one embedding; nothing here ever excludes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from defenses.evidence import Exhibit, Setting
from protos.task import PROTOTYPE_GRID

Floats = NDArray[np.float64]

FEWEST_RECORDS = 8
FEWEST_OTHERS = 3
"""A consensus needs so many other silos: the median of two follows either of them."""


@dataclass(frozen=True)
class Means:
    """Class means of n silos: `values` [n, classes, embedding] and per coordinate `variances` [n, classes].

    Where a silo has too few records of a class, `known` is false and the variance infinite.
    """

    values: Floats
    variances: Floats
    known: NDArray[np.bool_]


def shown(setting: Setting, exhibits: Sequence[Exhibit]) -> bool:
    """Whether prototypes are there to be judged: the plan asked for them and every exhibit has them."""
    return setting.prototype_noise > 0 and bool(exhibits) and all(one.prototypes is not None for one in exhibits)


def means_of(setting: Setting, exhibits: Sequence[Exhibit]) -> Means:
    """Class means in clip norms with the variance of each coordinate, between-silo variance left out."""
    sums = np.stack([_sums(setting, exhibit) for exhibit in exhibits])
    counts = np.stack([exhibit.classes for exhibit in exhibits]).astype(np.float64)
    known = counts >= max(FEWEST_RECORDS, 4 * setting.count_noise)
    safe = np.where(known, counts, 1.0)
    # A mean lies within the clip norm, so a relative error e of its count moves its coordinates by at most e²/E.
    own = (setting.prototype_noise**2 + setting.count_noise**2 / setting.embedding) / safe**2
    variances = np.where(known, own + 1 / (setting.embedding * safe), np.inf)
    return Means(np.where(known[..., None], sums / safe[..., None], 0.0), variances, known)


def consensus(means: Means, without: Sequence[int]) -> tuple[Floats, Floats]:
    """Weighted median per coordinate over the silos not in `without`.

    Weights are 1/σ (the median that minimises Σ|x - m|/σ), so no silo outweighs its share of records.

    Returns:
        Centre [classes, embedding] and its variance per coordinate [classes], infinite for classes that fewer than
        FEWEST_OTHERS silos know.
    """
    others = np.setdiff1d(np.arange(len(means.values)), without)
    if len(others) < FEWEST_OTHERS:
        return np.zeros(means.values.shape[1:]), np.full(means.values.shape[1], np.inf)
    weights = np.where(means.known[others], 1 / np.sqrt(means.variances[others]), 0.0)
    total = weights.sum(axis=0)
    voters = means.known[others].sum(axis=0)
    enough = voters >= FEWEST_OTHERS
    centre = _weighted_median(means.values[others], weights)
    # Asymptotic variance of a median of normals, pi/2 times that of the mean with the same weights.
    variance = np.where(enough, math.pi / 2 * voters / np.where(enough, total, 1.0) ** 2, np.inf)
    return centre, variance


def deviations(setting: Setting, means: Means) -> Floats:
    """Per silo the z-score of the squared distance from the consensus of the others (float64[n]).

    `(D - k) / sqrt(2k)` with D the sum of squares in own units over k coordinates; 0 where no class is known.
    """
    return np.array([_deviation(setting, means, silo) for silo in range(len(means.values))])


def agreements(setting: Setting, means: Means) -> Floats:
    """Per silo the greatest z-score of agreement of its residual with another silo's (float64[n]).

    Both residuals are from the consensus of the rest, whose error they share and which is taken off.
    """
    silos = len(means.values)
    scores = np.zeros((silos, silos))
    for one in range(silos):
        for other in range(one):
            scores[one, other] = scores[other, one] = _agreement(setting, means, one, other)
    return np.asarray(scores.max(axis=1, initial=0.0), dtype=np.float64)


def _sums(setting: Setting, exhibit: Exhibit) -> Floats:
    if exhibit.prototypes is None:
        return np.zeros((setting.classes, setting.embedding))
    return exhibit.prototypes.astype(np.float64) / PROTOTYPE_GRID


def _weighted_median(values: Floats, weights: Floats) -> Floats:
    """Midpoint of lower and upper weighted median over axis 0; 0 where all weights are 0."""
    order = np.argsort(values, axis=0, kind="stable")
    ranked = np.take_along_axis(values, order, axis=0)
    heaped = np.cumsum(np.take_along_axis(np.broadcast_to(weights[..., None], values.shape), order, axis=0), axis=0)
    half = heaped[-1:] / 2
    lower = np.argmax(heaped >= half * (1 - 1e-12), axis=0)[None]
    upper = np.argmax(heaped > half * (1 + 1e-12), axis=0)[None]
    both = np.take_along_axis(ranked, lower, axis=0) + np.take_along_axis(ranked, upper, axis=0)
    return np.asarray(both[0] / 2, dtype=np.float64)


def _between(means: Means, centre: Floats, error: Floats, judged: Sequence[int]) -> float:
    """Between-silo variance per coordinate: median over the other silos of their excess over their own."""
    excesses = []
    for other in np.setdiff1d(np.arange(len(means.values)), judged):
        classes = means.known[other] & np.isfinite(error)
        if classes.any():
            squares = np.square(means.values[other, classes] - centre[classes]).mean(axis=1)
            excesses.append(float((squares - means.variances[other, classes]).mean()))
    return max(0.0, float(np.median(excesses))) if excesses else 0.0


def _deviation(setting: Setting, means: Means, silo: int) -> float:
    centre, error = consensus(means, [silo])
    classes = means.known[silo] & np.isfinite(error)
    if not classes.any():
        return 0.0
    between = _between(means, centre, error, [silo])
    variance = means.variances[silo, classes] + error[classes] + between
    squares = np.square(means.values[silo, classes] - centre[classes]).sum(axis=1) / variance
    degrees = setting.embedding * int(classes.sum())
    return (float(squares.sum()) - degrees) / math.sqrt(2 * degrees)


def _agreement(setting: Setting, means: Means, one: int, other: int) -> float:
    centre, error = consensus(means, [one, other])
    classes = means.known[one] & means.known[other] & np.isfinite(error)
    if not classes.any():
        return 0.0
    between = _between(means, centre, error, [one, other])
    mine, theirs = (means.variances[silo, classes] + between for silo in (one, other))
    shared = error[classes]
    products = (means.values[one, classes] - centre[classes]) * (means.values[other, classes] - centre[classes])
    # Var of (a - e)(b - e) for independent normals a, b, e is (va + ve)(vb + ve) + ve².
    spread = setting.embedding * float(((mine + shared) * (theirs + shared) + shared**2).sum())
    return (float(products.sum()) - setting.embedding * float(shared.sum())) / math.sqrt(spread)
