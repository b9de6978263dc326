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
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

from defenses.evidence import Exhibit, Integers, Setting, all_scaled, facts
from protos.records import Score

LEVELS = 127
BLOCKS = ("norm", "output", "body")
SMALLEST_P = 1e-15
"""Added to every p-value: floating-point tails are not trusted beyond it."""
COVERED = 0.25
"""Variance in squared steps from which rounded noise is Gaussian enough for a p-value: half a step's."""
COUNT_QUANTILE = 3.72
"""A true record count is taken as up to so many noise deviations above the released one (once a task, 1e-4)."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Noise:
    """Variance of one coordinate of honest updates without signal, in squared quantisation steps (float64[n])."""

    gaussian: Floats
    least: Floats
    most: Floats
    last_step: Floats


@dataclass(frozen=True)
class Block:
    """Sums of squares `energy` (squared steps, chi-square degrees `degrees` after division by the variance).

    `norm` is the estimated L2 norm of the block's `size` coordinates in model units; both are float64[n], one of each
    silo. `sketched` tells that only folds of the block are seen.
    """

    name: str
    energy: Floats
    degrees: int
    norm: Floats
    size: int
    sketched: bool


def noise_of(setting: Setting, counts: int | Integers) -> Noise:
    """Noise of silos with the released record counts `counts` (int64[n], or one number)."""
    one_step = setting.learning_rate * setting.noise_multiplier * setting.clip / (setting.sample_rate * counts)
    last = np.square(np.asarray(one_step, dtype=np.float64) / setting.step)
    gaussian = last * setting.steps
    low, high = _rounding(gaussian)
    return Noise(gaussian, _clipped(gaussian) + low, gaussian + high, _clipped(last) + low)


def covers(setting: Setting, count: int) -> bool:
    """Whether the laws say anything of a silo: its noise must be at least half a quantisation step."""
    return bool(noise_of(setting, count).gaussian >= COVERED)


def coordinates(setting: Setting, exhibits: Sequence[Exhibit]) -> Floats:
    """What is seen of each update in coordinates whose noise is independent: the folds' projections, then outputs.

    Float64[n, degrees], in quantisation steps; noise of variance v per coordinate of an update has variance v here.
    """
    maps = [_onto(setting, int(length)) for length in np.unique(setting.column_counts)]
    sizes = [len(matrix) * len(setting.column_counts[columns]) for matrix, columns in maps]
    ends = np.cumsum(sizes).tolist()
    rows = np.empty((len(exhibits), sum(sizes) + setting.output_size))
    for row, one in zip(rows, exhibits, strict=True):
        folds = one.folds.astype(np.float64)
        for (matrix, columns), size, end in zip(maps, sizes, ends, strict=True):
            np.matmul(matrix, folds[:, columns], out=row[end - size : end].reshape(len(matrix), -1))
        row[sum(sizes) :] = one.output
    return rows


def blocks_of(setting: Setting, exhibits: Sequence[Exhibit], seen: Floats | None = None) -> tuple[Block, ...]:
    """The blocks that exhibits let one see: all three, or the body alone where no output layer is opened.

    `seen` are the exhibits' `coordinates` where they are at hand.
    """
    rows = coordinates(setting, exhibits) if seen is None else seen
    degrees = rows.shape[1] - setting.output_size
    energy, exact = (np.einsum("nd,nd->n", part, part) for part in (rows[:, :degrees], rows[:, degrees:]))
    squares = np.array([_energy(one.folds) for one in exhibits])
    body = Block("body", energy, degrees, setting.step * np.sqrt(squares / setting.folds), setting.body_size, True)
    if not setting.output_size:
        return (body,)
    output = Block("output", exact, setting.output_size, setting.step * np.sqrt(exact), setting.output_size, False)
    size = setting.body_size + setting.output_size
    return Block("norm", energy + exact, rows.shape[1], np.hypot(body.norm, output.norm), size, False), output, body


def law_scores(
    setting: Setting, exhibits: Sequence[Exhibit], seen: Floats | None = None
) -> tuple[tuple[Score, ...], ...]:
    """Per silo and block the measured norm, and the two limits with the evidence of a breach.

    `<block>` holds the norm in model units, `<block>-below` what noise alone makes, `<block>-above` the bound
    `sqrt(noise² + (lr*C*steps)²)`; evidence is `-log10 p`, scaled, rounded down.
    """
    if not exhibits:
        return ()
    counts = counts_of(exhibits)
    noise = noise_of(setting, counts)
    laws = Laws(setting, counts)
    columns: list[list[Score]] = []
    for block in blocks_of(setting, exhibits, seen):
        floors = setting.step * np.sqrt(noise.least * block.size)
        bounds = np.hypot(setting.step * np.sqrt(noise.most * block.size), setting.signal_bound)
        columns += [
            facts(block.name, block.norm),
            limit_scores(f"{block.name}-below", floors, laws.below(block)),
            limit_scores(f"{block.name}-above", bounds, laws.above(block)),
        ]
    return tuple(zip(*columns, strict=True))


def below_p(setting: Setting, exhibits: Sequence[Exhibit]) -> dict[str, Floats]:
    """One-sided p-values per block of a norm below the noise, float64[n] each."""
    laws = Laws(setting, counts_of(exhibits))
    return {block.name: laws.below(block) for block in blocks_of(setting, exhibits)}


def above_p(setting: Setting, exhibits: Sequence[Exhibit]) -> dict[str, Floats]:
    """One-sided p-values per block of a norm above the bound of clipping, float64[n] each."""
    laws = Laws(setting, counts_of(exhibits))
    return {block.name: laws.above(block) for block in blocks_of(setting, exhibits)}


def counts_of(exhibits: Sequence[Exhibit]) -> Integers:
    """The released record counts, int64[n]."""
    return np.array([one.count for one in exhibits], dtype=np.int64)


def evidence_of(p: Floats) -> list[int]:
    """`-log10 p` scaled and rounded down, towards not excluding."""
    logarithms = np.floor(-1e6 * np.log10(np.minimum(1.0, p + SMALLEST_P)))
    return np.maximum(logarithms, 0.0).astype(np.int64).tolist()  # type: ignore[no-any-return]


def limit_scores(name: str, limits: Floats, p: Floats) -> list[Score]:
    """Limits with the evidence of their breach, a score of each silo."""
    return [Score(name, limit, found) for limit, found in zip(all_scaled(limits), evidence_of(p), strict=True)]


class Laws:
    """Both sides of the law for silos of the released record counts `counts` (int64[n]); 1 where it abstains."""

    def __init__(self, setting: Setting, counts: Integers) -> None:
        self._setting, self._silos = setting, len(counts)
        self._known = np.flatnonzero(noise_of(setting, counts).gaussian >= COVERED)
        self._counts = counts[self._known]
        self._noise = noise_of(setting, self._counts)

    def below(self, block: Block) -> Floats:
        """p-values of energies as low as these (float64[n])."""
        return self._everybody(self._below(block.energy[self._known], block.degrees))

    def above(self, block: Block) -> Floats:
        """p-values of energies as high as these (float64[n])."""
        return self._everybody(self._above(block.energy[self._known], block.degrees, block.sketched))

    def _everybody(self, p: Floats) -> Floats:
        found = np.ones(self._silos)
        found[self._known] = p
        return found

    def _below(self, energy: Floats, degrees: int) -> Floats:
        statistic = energy / self._noise.least
        if self._setting.steps == 1:
            return np.asarray(special.chdtr(degrees, statistic), dtype=np.float64)
        p = np.asarray(special.chdtr(degrees, energy / self._noise.last_step), dtype=np.float64)
        edges = _Batches(self._setting, self._counts, self._setting.steps - 1).edges
        later = np.sqrt(_signals(self._setting, self._counts, self._noise.least, edges[:, :1]))[:, 0]
        # The triangle's bound is at least its value at the lowest edge; mostly that decides which bound is less.
        asked = np.flatnonzero(special.chdtr(degrees, np.square(np.sqrt(statistic) + later)) < p)
        if asked.size:
            p[asked] = np.minimum(p[asked], self._triangle(asked, statistic[asked], degrees))
        return p

    def _triangle(self, silos: Integers, statistic: Floats, degrees: int) -> Floats:
        batches = _Batches(self._setting, self._counts[silos], self._setting.steps - 1)
        later = _signals(self._setting, self._counts[silos], self._noise.least[silos], batches.edges)
        tails = special.chdtr(degrees, np.square(np.sqrt(statistic)[:, None] + np.sqrt(later)))
        # The last mass is that of batches beyond every edge, for which nothing is claimed.
        masses = batches.masses
        return np.asarray((masses[:, :-1] * tails).sum(axis=1) + masses[:, -1], dtype=np.float64)

    def _above(self, energy: Floats, degrees: int, sketched: bool) -> Floats:
        shares, parts = _caught(self._setting) if sketched else (np.ones(1), np.ones(1))
        p, statistics = np.ones(len(energy)), energy / self._noise.most
        edges = _Batches(self._setting, self._counts, self._setting.steps).edges
        signals = _signals(self._setting, self._counts, self._noise.most, edges)
        # Up to the mean for the least signal every tail is 1.
        asked = np.flatnonzero(statistics > degrees + shares[0] * signals[:, 0])
        batches = _Batches(self._setting, self._counts[asked], self._setting.steps)
        # One silo at a time: its table fits the processor's cache.
        for silo, masses in zip(asked, batches.masses if asked.size else (), strict=True):
            tails = chernoff(float(statistics[silo]), degrees, np.outer(shares, signals[silo]))
            p[silo] = min(1.0, float(parts @ tails @ masses[:-1]) + float(masses[-1]))
        return p


def chernoff(statistic: float, degrees: int, noncentral: Floats) -> Floats:
    """Upper bound of P(X >= statistic) for a non-central chi-square X; 1 at or below the mean.

    `E exp(sX) = exp(s*nc/(1-2s)) * (1-2s)^(-k/2)`; with `u = 1-2s` the best exponent solves `t u² - k u - nc = 0`.
    """
    found = np.ones_like(noncentral)
    beyond = noncentral < statistic - degrees
    extra = noncentral[beyond]
    u = (degrees + np.sqrt(degrees**2 + 4 * statistic * extra)) / (2 * statistic)
    exponent = (1 - u) / 2 * (extra / u - statistic) - degrees / 2 * np.log(u)
    found[beyond] = np.exp(np.minimum(exponent, 0.0))
    return found


class _Batches:
    """The number of records in `steps` batches of each silo: edges, and masses, which take most of the time.

    `edges` float64[n, 61]; an edge that rounding repeats has no mass.
    """

    def __init__(self, setting: Setting, counts: Integers, steps: int) -> None:
        self._trials = np.ceil(counts + COUNT_QUANTILE * setting.count_noise)[:, None] * steps
        self._rate = min(1.0, setting.sample_rate)
        mean, spread = self._trials * self._rate, np.sqrt(self._trials * self._rate * (1 - self._rate))
        self.edges = np.clip(np.ceil(mean + np.linspace(-1, 9, 61) * spread), 0, self._trials)

    @property
    def masses(self) -> Floats:
        """Up to edge 0, between edges, beyond the last: float64[n, 62]."""
        tails = stats.binom.sf(self.edges, self._trials, self._rate)
        whole, nothing = np.ones((len(tails), 1)), np.zeros((len(tails), 1))
        return -np.diff(np.concatenate([whole, tails, nothing], axis=1), axis=1)


def _energy(values: Integers) -> float:
    whole = values.ravel().astype(np.float64)
    return float(whole @ whole)


def _signals(setting: Setting, counts: Integers, variances: Floats, records: Floats) -> Floats:
    longest = setting.learning_rate * setting.clip * records / (setting.sample_rate * counts[:, None])
    return np.asarray(np.square(longest / setting.step) / variances[:, None], dtype=np.float64)


def _caught(setting: Setting) -> tuple[Floats, Floats]:
    """Upper ends of intervals of the share of a signal that the folds catch, and the intervals' probabilities."""
    folds, chunks = setting.folds, setting.chunks
    if chunks <= folds:
        return np.ones(1), np.ones(1)
    shares = np.linspace(0, 1, 101)[1:]
    return shares, np.diff(stats.beta.cdf(np.concatenate([[0.0], shares]), folds / 2, (chunks - folds) / 2))


def _onto(setting: Setting, length: int) -> tuple[Floats, slice | Integers]:
    """Matrix [rank, F] whose rows map a column of that many chunks to unit normals, and which columns those are."""
    columns = np.flatnonzero(setting.column_counts == length)
    # Columns of one length mostly lie together, and a slice is not copied.
    together = slice(int(columns[0]), int(columns[-1]) + 1)
    places = together if together.stop - together.start == len(columns) else columns
    signs = setting.signs[:, :length].astype(np.float64)
    values, vectors = np.linalg.eigh(signs @ signs.T)
    # Repeated or opposite sign rows make the Gram matrix singular; eigenvalues of ±1 rows are never this small.
    kept = values > 1e-6 * setting.chunks
    return vectors[:, kept].T / np.sqrt(values[kept, None]), places


def _rounding(gaussian: Floats) -> tuple[Floats, Floats]:
    """Least and most variance that stochastic rounding adds to a coordinate of variance `gaussian`, any mean.

    Rounding adds `f(1-f)` at fraction f, which has the Fourier series `1/6 - (1/π²) Σ cos(2πkx)/k²`; a Gaussian damps
    term k by `exp(-2π²k²s²)`.
    """
    orders = np.arange(1, 20)
    damped = np.exp(-2 * math.pi**2 * orders**2 * gaussian[..., None]) / (math.pi * orders) ** 2
    swing = damped.sum(axis=-1)
    return np.maximum(0.0, 1 / 6 - swing), np.minimum(0.25, 1 / 6 + swing)


def _clipped(variance: Floats) -> Floats:
    """Second moment of N(0, variance) clipped to ±LEVELS; a signal does not lower it."""
    edge = LEVELS / np.sqrt(variance)
    density = np.exp(-np.square(edge) / 2) / math.sqrt(2 * math.pi)
    inside = 1 - 2 * special.ndtr(-edge)
    return np.asarray(variance * (inside - 2 * edge * density + np.square(edge) * (1 - inside)), dtype=np.float64)
