"""The norm law, two-sided: what DP-SGD noise alone makes, and the most that clipping lets a signal add.

An honest update is `signal + noise`, per coordinate noise `N(0, s²)` with `s = lr*σ*C*sqrt(steps)/(q*count)`, then
stochastically rounded to integers within ±127. Three blocks are tested: all that is seen ("norm"), the exact output
layer ("output"), the folds of the body ("body").

*Statistic.* The F folds of a column have covariance `v * S S^T` given the signs S, so with `P` the projection on the
row space of S, `T = |P x|² / v` summed over columns is exactly chi-square with `rank(S) * width` degrees: no allowance
for chance correlation between folds is needed. The exact output layer adds its own coordinates.

*Below.* A signal only raises T (Anderson 1955), so `P(T <= t | noise only)` is a safe p-value. With several local steps
later gradients see earlier noise and might undo it; then the lesser of two bounds that
hold for any such signal is used: the triangle inequality, and the last step's noise alone, which no gradient has seen.

*Above.* A signal is at most `lr*C*B/(q*count)` long, B the records in all batches, binomial for true Poisson
sampling. `T` is at most non-central chi-square with that signal; its tail has the Chernoff bound in closed form,
averaged over upper sums of the law of B. The share of the body's signal that folds catch is taken as
Beta(F/2, (K-F)/2): the law of a random subspace for a signal within a single column, the worst case; spread signals
vary less.

*Where it abstains.* Below half a quantisation step of noise, rounding errors are not Gaussian and no p-value is given.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

from defenses.evidence import Exhibit, Integers, Setting, fact, scaled
from protos.records import Score

LEVELS = 127
BLOCKS = ("norm", "output", "body")
SMALLEST_P = 1e-15
"""Added to every p-value: floating-point tails are not trusted beyond it."""
COUNT_QUANTILE = 3.72
"""A true record count is taken as up to so many noise deviations above the released one (once a task, 1e-4)."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Noise:
    """Variance of one coordinate of an honest update without signal, in squared quantisation steps."""

    gaussian: float
    least: float
    most: float
    last_step: float


@dataclass(frozen=True)
class Block:
    """Sum of squares `energy` (squared steps, chi-square degrees `degrees` after division by the variance).

    `norm` is the estimated L2 norm of the block's `size` coordinates in model units; `sketched` tells that only folds
    of it are seen.
    """

    name: str
    energy: float
    degrees: int
    norm: float
    size: int
    sketched: bool


def noise_of(setting: Setting, count: int) -> Noise:
    """Noise of a silo with the released record count `count`."""
    one_step = setting.learning_rate * setting.noise_multiplier * setting.clip / (setting.sample_rate * count)
    last = (one_step / setting.step) ** 2
    gaussian = last * setting.steps
    low, high = _rounding(gaussian)
    return Noise(gaussian, _clipped(gaussian) + low, gaussian + high, _clipped(last) + low)


def covers(setting: Setting, count: int) -> bool:
    """Whether the laws say anything of a silo: its noise must be at least half a quantisation step."""
    return noise_of(setting, count).gaussian >= 0.25


def blocks_of(setting: Setting, exhibit: Exhibit) -> tuple[Block, ...]:
    """The blocks that an exhibit lets one see: all three, or the body alone where no output layer is opened."""
    energy, degrees = _projected(setting, exhibit.folds)
    sketch_norm = float(np.square(exhibit.folds.astype(np.float64)).sum()) / setting.folds
    body = Block("body", energy, degrees, setting.step * math.sqrt(sketch_norm), setting.body_size, True)
    if not setting.output_size:
        return (body,)
    exact = float(np.square(exhibit.output.astype(np.float64)).sum())
    output = Block("output", exact, setting.output_size, setting.step * math.sqrt(exact), setting.output_size, False)
    norm = math.hypot(body.norm, output.norm)
    size = setting.body_size + setting.output_size
    return Block("norm", energy + exact, degrees + setting.output_size, norm, size, False), output, body


def law_scores(setting: Setting, exhibit: Exhibit) -> tuple[Score, ...]:
    """Per block the measured norm, and the two limits with the evidence of a breach.

    `<block>` holds the norm in model units, `<block>-below` what noise alone makes, `<block>-above` the bound
    `sqrt(noise² + (lr*C*steps)²)`; evidence is `-log10 p`, scaled, rounded down.
    """
    scores: list[Score] = []
    noise = noise_of(setting, exhibit.count)
    known = covers(setting, exhibit.count)
    for block in blocks_of(setting, exhibit):
        floor = setting.step * math.sqrt(noise.least * block.size)
        below = _below(setting, exhibit.count, noise, block) if known else 1.0
        above = _above(setting, exhibit.count, noise, block) if known else 1.0
        bound = math.hypot(setting.step * math.sqrt(noise.most * block.size), setting.signal_bound)
        scores += [
            fact(block.name, block.norm),
            Score(f"{block.name}-below", scaled(floor), _evidence(below)),
            Score(f"{block.name}-above", scaled(bound), _evidence(above)),
        ]
    return tuple(scores)


def below_p(setting: Setting, exhibit: Exhibit) -> dict[str, float]:
    """One-sided p-value per block of a norm below the noise."""
    noise = noise_of(setting, exhibit.count)
    return {block.name: _below(setting, exhibit.count, noise, block) for block in blocks_of(setting, exhibit)}


def above_p(setting: Setting, exhibit: Exhibit) -> dict[str, float]:
    """One-sided p-value per block of a norm above the bound of clipping."""
    noise = noise_of(setting, exhibit.count)
    return {block.name: _above(setting, exhibit.count, noise, block) for block in blocks_of(setting, exhibit)}


def _below(setting: Setting, count: int, noise: Noise, block: Block) -> float:
    statistic = block.energy / noise.least
    if setting.steps == 1:
        return float(stats.chi2.cdf(statistic, block.degrees))
    edges, masses = _batches(setting, count, setting.steps - 1)
    later = _signals(setting, count, noise.least, edges)
    # The last mass is that of batches beyond every edge, for which nothing is claimed.
    triangle = stats.chi2.cdf((math.sqrt(statistic) + np.sqrt(later)) ** 2, block.degrees)
    worst = float(masses[:-1] @ triangle) + float(masses[-1])
    last = float(stats.chi2.cdf(block.energy / noise.last_step, block.degrees))
    return min(worst, last)


def _above(setting: Setting, count: int, noise: Noise, block: Block) -> float:
    edges, masses = _batches(setting, count, setting.steps)
    signals = _signals(setting, count, noise.most, edges)
    shares, parts = _caught(setting) if block.sketched else (np.ones(1), np.ones(1))
    tails = chernoff(block.energy / noise.most, block.degrees, np.outer(shares, signals))
    return min(1.0, float(parts @ tails @ masses[:-1]) + float(masses[-1]))


def chernoff(statistic: float, degrees: int, noncentral: Floats) -> Floats:
    """Upper bound of P(X >= statistic) for a non-central chi-square X; 1 at or below the mean.

    `E exp(sX) = exp(s*nc/(1-2s)) * (1-2s)^(-k/2)`; with `u = 1-2s` the best exponent solves `t u² - k u - nc = 0`.
    """
    if statistic <= 0:
        return np.ones_like(noncentral)
    root = (degrees + np.sqrt(degrees**2 + 4 * statistic * noncentral)) / (2 * statistic)
    u = np.minimum(root, 1.0)
    exponent = (1 - u) / 2 * (noncentral / u - statistic) - degrees / 2 * np.log(u)
    return np.asarray(np.exp(np.minimum(exponent, 0.0)), dtype=np.float64)


def _batches(setting: Setting, count: int, steps: int) -> tuple[Floats, Floats]:
    """Edges of the number of records in `steps` batches, and masses: up to edge 0, between edges, beyond the last."""
    trials = math.ceil(count + COUNT_QUANTILE * setting.count_noise) * steps
    rate = min(1.0, setting.sample_rate)
    spread = math.sqrt(trials * rate * (1 - rate))
    edges = np.unique(np.clip(np.ceil(trials * rate + np.linspace(-1, 9, 61) * spread), 0, trials))
    tails = stats.binom.sf(edges, trials, rate)
    return edges, -np.diff(np.concatenate([[1.0], tails, [0.0]]))


def _signals(setting: Setting, count: int, variance: float, records: Floats) -> Floats:
    longest = setting.learning_rate * setting.clip * records / (setting.sample_rate * count)
    return np.asarray((longest / setting.step) ** 2 / variance, dtype=np.float64)


def _caught(setting: Setting) -> tuple[Floats, Floats]:
    """Upper ends of intervals of the share of a signal that the folds catch, and the intervals' probabilities."""
    folds, chunks = setting.folds, setting.chunks
    if chunks <= folds:
        return np.ones(1), np.ones(1)
    shares = np.linspace(0, 1, 101)[1:]
    return shares, np.diff(stats.beta.cdf(np.concatenate([[0.0], shares]), folds / 2, (chunks - folds) / 2))


def _projected(setting: Setting, folds: Integers) -> tuple[float, int]:
    """Energy of the update's projection on the span of the signs, and its degrees of freedom."""
    energy, degrees = 0.0, 0
    for length in np.unique(setting.column_counts):
        columns = folds[:, setting.column_counts == length].astype(np.float64)
        signs = setting.signs[:, :length].astype(np.float64)
        values, vectors = np.linalg.eigh(signs @ signs.T)
        # Repeated or opposite sign rows make the Gram matrix singular; eigenvalues of ±1 rows are never this small.
        kept = values > 1e-6 * setting.chunks
        energy += float(((vectors[:, kept].T @ columns) ** 2 / values[kept, None]).sum())
        degrees += int(kept.sum()) * columns.shape[1]
    return energy, degrees


def _rounding(gaussian: float) -> tuple[float, float]:
    """Least and most variance that stochastic rounding adds to a coordinate of variance `gaussian`, any mean.

    Rounding adds `f(1-f)` at fraction f, which has the Fourier series `1/6 - (1/π²) Σ cos(2πkx)/k²`; a Gaussian damps
    term k by `exp(-2π²k²s²)`.
    """
    orders = np.arange(1, 20)
    swing = float((np.exp(-2 * math.pi**2 * orders**2 * gaussian) / (math.pi * orders) ** 2).sum())
    return max(0.0, 1 / 6 - swing), min(0.25, 1 / 6 + swing)


def _clipped(variance: float) -> float:
    """Second moment of N(0, variance) clipped to ±LEVELS; a signal does not lower it."""
    deviation = math.sqrt(variance)
    edge = LEVELS / deviation
    density = math.exp(-(edge**2) / 2) / math.sqrt(2 * math.pi)
    inside = 1 - 2 * float(special.ndtr(-edge))
    return variance * (inside - 2 * edge * density + edge**2 * (1 - inside))


def _evidence(p: float) -> int:
    """`-log10 p` scaled and rounded down, towards not excluding."""
    return max(0, math.floor(-1e6 * math.log10(min(1.0, p + SMALLEST_P))))
