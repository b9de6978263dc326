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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from defenses.evidence import Exhibit, Setting
from defenses.leaveout import Integers, Ranking
from protos.task import PROTOTYPE_GRID

Floats = NDArray[np.float64]

FEWEST_RECORDS = 8
FEWEST_OTHERS = 3
"""A consensus needs so many other silos: the median of two follows either of them."""
PAIRED_UP_TO = 16
"""Silos up to which every pair is judged by a consensus without both; that of more moves little with one of them."""
HALF_WITHIN = 0.6745
"""Half of normal values lie within so many standard deviations."""
DRAWN = 4 / math.pi - 1
"""By how much of the consensus's error two silos that it counts seem to disagree."""
_BLOCK = 256
"""Rows of a matrix of silos times silos that are in memory at once."""
_FEW = 16
"""The same where every entry has a number of each class."""


@dataclass(frozen=True)
class Means:
    """Class means of n silos: `values` [n, classes, embedding] and per coordinate `variances` [n, classes].

    Where a silo has too few records of a class, `known` is false and the variance infinite.
    """

    values: Floats
    variances: Floats
    known: NDArray[np.bool_]

    @cached_property
    def weights(self) -> Floats:
        """1/σ, 0 where unknown: the weights of the median that minimises Σ|x - m|/σ (float64[n, classes])."""
        return np.where(self.known, 1 / np.sqrt(self.variances), 0.0)

    @cached_property
    def ranking(self) -> Ranking:
        """The values in order, for medians with silos left out."""
        return Ranking(self.values, self.weights)

    @cached_property
    def without_each(self) -> Consensus:
        """For every silo the consensus of the others."""
        return consensus(self, np.arange(len(self.values))[:, None])


@dataclass(frozen=True)
class Consensus:
    """What silos agree on when those of `without` (int64[m, k]) are left out.

    `centre` [m, classes, embedding] with the variance `error` [m, classes] of a coordinate, infinite for a class that
    fewer than FEWEST_OTHERS silos know; `between` [m] is the between-silo variance of a coordinate.
    """

    without: Integers
    centre: Floats
    error: Floats
    between: Floats

    @property
    def known(self) -> NDArray[np.bool_]:
        """bool[m, classes]"""
        return np.isfinite(self.error)


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


def consensus(means: Means, without: Integers) -> Consensus:
    """Weighted medians per coordinate over the silos that are left; no silo outweighs its share of records.

    Args:
        means: of n silos.
        without: int64[m, k], in each row different silos to leave out, k at most 2.
    """
    silos, classes, embedding = means.values.shape
    if silos - without.shape[1] < FEWEST_OTHERS:
        nobody = np.full((len(without), classes), np.inf)
        return Consensus(without, np.zeros((len(without), classes, embedding)), nobody, np.zeros(len(without)))
    voters = means.known.sum(axis=0) - means.known[without].sum(axis=1)
    enough = voters >= FEWEST_OTHERS
    centre = means.ranking.medians(without)
    between = _between(means, without, centre, enough)
    return Consensus(without, centre, _error(means, without, between, enough), between)


def class_medians(values: Floats, known: NDArray[np.bool_]) -> Floats:
    """Per class the coordinate-wise median over the silos that know it, each counted alike; zero where nobody does.

    Args:
        values: class means, float64[n, classes, embedding].
        known: bool[n, classes].

    Returns:
        float64[classes, embedding].
    """
    medians = np.zeros(values.shape[1:])
    for label in np.flatnonzero(known.any(axis=0)):
        medians[label] = np.median(values[known[:, label], label], axis=0)
    return medians


def deviations(setting: Setting, means: Means) -> Floats:
    """Per silo the z-score of the squared distance from the consensus of the others (float64[n]).

    `(D - k) / sqrt(2k)` with D the sum of squares in own units over k coordinates; 0 where no class is known.
    """
    others = means.without_each
    classes = means.known & others.known
    variances = np.where(classes, means.variances + others.error + others.between[:, None], 1.0)
    squares = np.square(means.values - others.centre).sum(axis=2)
    degrees = setting.embedding * classes.sum(axis=1)
    distances = np.where(classes, squares / variances, 0.0).sum(axis=1)
    return np.where(degrees > 0, (distances - degrees) / np.sqrt(2 * np.maximum(degrees, 1)), 0.0)


def agreements(setting: Setting, means: Means) -> Floats:
    """Per silo the greatest z-score of agreement of its residual with another silo's (float64[n]).

    Both residuals are from the consensus of the rest, whose error they share and which is taken off. Above
    PAIRED_UP_TO silos each residual is from the consensus of all others, where the other of the pair is one voter of
    many: each draws the other's consensus towards itself, with normal values by 2/pi of the shared error. Twice that
    is a little more than the error itself, and the rest is added.
    """
    silos = len(means.values)
    scores = np.zeros(silos)
    if silos <= PAIRED_UP_TO:
        pairs = _pairs(silos)
        found = _paired(setting, means, consensus(means, pairs))
        np.maximum.at(scores, pairs.ravel(), np.repeat(found, 2))
        return scores
    for rows, block in _crossed(setting, means):
        block[np.arange(len(rows)), rows] = -np.inf
        scores[rows] = np.maximum(block.max(axis=1), 0.0)
    return scores


def strain(setting: Setting, means: Means) -> float:
    """Standard deviation of the agreement of two silos, from the median over pairs; at least 1, which noise has.

    Residuals that lie in few of the embedding's directions agree or disagree by more than independent coordinates do:
    `E z²` is `k tr(S²) / tr(S)²` for their covariance S, one by the share of directions in use. By the root of this
    deviations from the consensus are wider, too. It is a median, so that a minority that agrees moves it little.
    """
    silos = len(means.values)
    if silos <= PAIRED_UP_TO:
        found = _paired(setting, means, consensus(means, _pairs(silos)))
    else:
        found = np.concatenate([block[rows[:, None] > np.arange(silos)] for rows, block in _crossed(setting, means)])
    # Only pairs without a class in common are at 0.
    known = np.abs(found[found != 0])
    return max(1.0, float(np.median(known)) / HALF_WITHIN) if known.size else 1.0


def _pairs(silos: int) -> Integers:
    """int64[pairs, 2]"""
    return np.array([(one, other) for one in range(silos) for other in range(one)], dtype=np.int64).reshape(-1, 2)


def _paired(setting: Setting, means: Means, rest: Consensus) -> Floats:
    one, other = rest.without.T
    classes = means.known[one] & means.known[other] & rest.known
    shared = np.where(classes, rest.error, 0.0)
    mine, theirs = (np.where(classes, means.variances[who] + rest.between[:, None], 0.0) for who in (one, other))
    products = ((means.values[one] - rest.centre) * (means.values[other] - rest.centre)).sum(axis=2)
    # Var of (a - e)(b - e) for independent normals a, b, e is (va + ve)(vb + ve) + ve².
    spread = setting.embedding * ((mine + shared) * (theirs + shared) + shared**2).sum(axis=1)
    agreed = np.where(classes, products, 0.0).sum(axis=1) - setting.embedding * shared.sum(axis=1)
    return np.asarray(np.divide(agreed, np.sqrt(spread), out=np.zeros(len(agreed)), where=spread > 0), dtype=np.float64)


def _crossed(setting: Setting, means: Means) -> Iterator[tuple[Integers, Floats]]:
    """Rows of silos, and their agreement with every silo, float64[rows, n]."""
    others = means.without_each
    classes = means.known & others.known
    errors = np.where(classes, others.error, 0.0)
    whole = np.where(classes, means.variances + others.between[:, None], 0.0) + errors
    residuals = np.where(classes[..., None], means.values - others.centre, 0.0).reshape(len(classes), -1)
    for start in range(0, len(classes), _BLOCK):
        rows = np.arange(start, min(start + _BLOCK, len(classes)))
        spread = setting.embedding * (whole[rows] @ whole.T + errors[rows] @ errors.T)
        shared = (errors[rows] @ classes.T + classes[rows] @ errors.T) / 2
        agreed = residuals[rows] @ residuals.T + DRAWN * setting.embedding * shared
        yield rows, np.divide(agreed, np.sqrt(spread), out=np.zeros_like(agreed), where=spread > 0)


def _sums(setting: Setting, exhibit: Exhibit) -> Floats:
    if exhibit.prototypes is None:
        return np.zeros((setting.classes, setting.embedding))
    return exhibit.prototypes.astype(np.float64) / PROTOTYPE_GRID


def _between(means: Means, without: Integers, centre: Floats, enough: NDArray[np.bool_]) -> Floats:
    """Between-silo variance per coordinate: median over the other silos of their excess over their own."""
    embedding = means.values.shape[2]
    # Products of numbers about a common point lose fewer digits.
    origin = centre[0]
    values = np.where(means.known[..., None], means.values - origin, 0.0)
    own = np.where(means.known, np.square(values).mean(axis=2) - means.variances, 0.0)
    found = np.zeros(len(without))
    for start in range(0, len(without), _BLOCK):
        part = slice(start, start + _BLOCK)
        asked = enough[part].astype(np.float64)
        centres = (centre[part] - origin) * asked[..., None]
        cross = centres.reshape(len(asked), -1) @ values.reshape(len(values), -1).T
        number = asked @ means.known.T
        total = asked @ own.T + (np.square(centres).mean(axis=2)) @ means.known.T - 2 / embedding * cross
        heard = number > 0
        np.put_along_axis(heard, without[part], False, axis=1)
        excesses = np.divide(total, number, out=np.full_like(total, np.inf), where=heard)
        found[part] = np.maximum(_medians(excesses, heard.sum(axis=1)), 0.0)
    return found


def _error(means: Means, without: Integers, between: Floats, enough: NDArray[np.bool_]) -> Floats:
    """Variance of a coordinate of each median, float64[m, classes].

    `pi/2 sum(w²) / sum(w/s)²` with the weights w = 1/σ and all that a value varies by, s² = σ² + between-silo variance:
    the asymptotic one for normals, pi/2 times that of the mean where s = σ.
    """
    squares = np.square(means.weights).sum(axis=0) - np.square(means.weights[without]).sum(axis=1)
    own = np.where(means.known, means.variances, 1.0)
    found = np.full(enough.shape, np.inf)
    for start in range(0, len(without), _FEW):
        part = slice(start, start + _FEW)
        densities = means.weights / np.sqrt(own + between[part, None, None])
        np.put_along_axis(densities, without[part, :, None], 0.0, axis=1)
        total = np.where(enough[part], densities.sum(axis=1), 1.0)
        found[part] = np.where(enough[part], math.pi / 2 * squares[part] / total**2, np.inf)
    return found


def _medians(rows: Floats, numbers: Integers) -> Floats:
    """Median of the `numbers` smallest of each row, 0 where there are none; the others are infinite."""
    ranked = np.sort(rows, axis=1)
    middle = np.stack([np.maximum(numbers - 1, 0) // 2, np.minimum(numbers // 2, rows.shape[1] - 1)], axis=1)
    found = np.take_along_axis(ranked, middle, axis=1).mean(axis=1)
    return np.where(numbers > 0, found, 0.0)
