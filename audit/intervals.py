"""Confidence intervals of an accuracy that is known only through counts with privacy noise, in exact arithmetic.

A silo of n hold-out records, c of them right, publishes `C = c + N1` and `T = n + N2` with N1, N2 independent discrete
Gaussians of σ = multiplier·√2 (one record moves both counts by one, so the pair has L2 sensitivity √2). For the true
accuracy p, with c binomial, `C - p·T = (c - p·n) + N1 - p·N2` has mean 0 and variance `n·p·(1 - p) + σ²·(1 + p²)`. The
interval is the set of all p that this does not contradict at the level asked for,

    (C - p·T)² <= z² · (T·p·(1 - p) + σ²·(1 + p²)),

that is Fieller's (1954) interval of a ratio with Wilson's (1927) score variance: unlike the delta method it keeps its
coverage near 0 and 1 and where T is small, since nothing is divided by the noisy T. The unknown n is replaced by its
unbiased estimate T; where T is small enough to make that matter, σ² dominates. C is moved by one half for continuity,
ends are rounded outwards, and where the noise leaves nothing to say the interval is all of [0, 1].

Integers and fractions only, so that every machine finds the same digits.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from statistics import NormalDist

from protos.messages import Evaluation
from protos.task import MICRO

ERROR = Fraction(1, 20)
"""Intervals miss the truth at most this often: 95 % confidence."""

_ROOT_SCALE = 10**12


@dataclass(frozen=True)
class Interval:
    """An estimate and its interval, in millionths; for an accuracy within 0 to 1."""

    estimate_micro: int
    low_micro: int
    high_micro: int


def accuracy_interval(counts: Evaluation, noise_micro: int, error: Fraction = ERROR) -> Interval:
    """Accuracy behind noised counts.

    Args:
        counts: noised counts of right and of all hold-out records.
        noise_micro: noise multiplier of the release; each count has σ = multiplier·√2.
        error: the interval misses the truth at most this often.
    """
    estimate = min(MICRO, counts.correct * MICRO // counts.total)
    z = quantile(error)
    low = _bound(Fraction(2 * counts.correct - 1, 2), counts.total, noise_micro, z, -1)
    high = _bound(Fraction(2 * counts.correct + 1, 2), counts.total, noise_micro, z, +1)
    # More right answers than records, beyond what the noise explains: such counts say nothing.
    if low is None or high is None or low > MICRO:
        return Interval(estimate, 0, MICRO)
    return Interval(estimate, max(0, math.floor(low)), min(MICRO, math.ceil(high)))


def accuracy_gap(counts: Mapping[str, Evaluation], noise_micro: int, error: Fraction = ERROR) -> Interval:
    """Largest minus smallest accuracy of the silos.

    Each of the k accuracies gets an interval at error/k (Bonferroni). All hold at once with probability 1 - error, and
    then the true gap lies between the distance of the furthest intervals and the span of all: conservative, and free
    of assumptions about how the silos depend on each other.
    """
    each = [accuracy_interval(value, noise_micro, error / len(counts)) for value in counts.values()]
    estimates = [interval.estimate_micro for interval in each]
    lows, highs = [interval.low_micro for interval in each], [interval.high_micro for interval in each]
    if len(each) == 1:
        return Interval(0, 0, 0)
    return Interval(max(estimates) - min(estimates), max(0, max(lows) - min(highs)), max(highs) - min(lows))


def quantile(error: Fraction) -> Fraction:
    """Two-sided standard normal quantile, rounded up to millionths."""
    return Fraction(math.ceil(NormalDist().inv_cdf(1 - float(error) / 2) * MICRO), MICRO)


def percent_span(low_micro: int, high_micro: int) -> str:
    """An interval in percent with one decimal, rounded outwards."""
    low, high = low_micro // 1000, -(-high_micro // 1000)
    return f"{low // 10}.{low % 10}% to {high // 10}.{high % 10}%"


def _bound(correct: Fraction, total: int, noise_micro: int, z: Fraction, side: int) -> Fraction | None:
    """One end, in millionths, of the p with a·p² - b·p + c <= 0; None where they are not one interval."""
    variance = 2 * Fraction(noise_micro, MICRO) ** 2
    a = total**2 + z**2 * (total - variance)
    b = 2 * correct * total + z**2 * total
    c = correct**2 - z**2 * variance
    discriminant = b * b - 4 * a * c
    if a <= 0 or discriminant < 0:
        return None
    root = Fraction(math.isqrt(math.floor(discriminant * _ROOT_SCALE**2)) + 1, _ROOT_SCALE)  # rounded up
    return (b + side * root) / (2 * a) * MICRO
