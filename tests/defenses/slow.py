"""The Guard's scores silo by silo and pair by pair, as they are defined: oracles of the forms that take all at once.

Numbers that the Guard's scores rest on are written here once more; nothing but types comes from the code under test.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import optimize, special, stats

from defenses.evidence import Earlier, Exhibit, Setting
from defenses.prototypes import Means
from protos.records import Judgement

Variances = tuple[float, float, float, float]

CONFIDENCE = 3.0
LEVELS, COVERED, COUNT_QUANTILE, SMALLEST_P = 127, 0.25, 3.72, 1e-15
FEWEST_OTHERS = 3
RECENT, WINDOW, FEWEST_ROUNDS, MARGIN = 4, 15, 4, 2.0


def weighted_median(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Midpoint of lower and upper weighted median over axis 0; values [n, classes, embedding], weights [n, classes]."""
    order = np.argsort(values, axis=0, kind="stable")
    ranked = np.take_along_axis(values, order, axis=0)
    heaped = np.cumsum(np.take_along_axis(np.broadcast_to(weights[..., None], values.shape), order, axis=0), axis=0)
    half = heaped[-1:] / 2
    lower = np.argmax(heaped >= half * (1 - 1e-12), axis=0)[None]
    upper = np.argmax(heaped > half * (1 + 1e-12), axis=0)[None]
    return (np.take_along_axis(ranked, lower, axis=0) + np.take_along_axis(ranked, upper, axis=0))[0] / 2


def consensus(means: Means, without: Sequence[int]) -> tuple[np.ndarray, np.ndarray, float]:
    """Centre [classes, embedding], the variance of its coordinates [classes], and the between-silo variance.

    A median that weighs values by w has `sum w² / (4 sum(w f)²)` for densities f at the centre, `1 / (s sqrt(2 pi))`.
    """
    others = np.setdiff1d(np.arange(len(means.values)), without)
    classes = means.values.shape[1]
    if len(others) < FEWEST_OTHERS:
        return np.zeros(means.values.shape[1:]), np.full(classes, np.inf), 0.0
    weights = np.where(means.known[others], 1 / np.sqrt(means.variances[others]), 0.0)
    centre = weighted_median(means.values[others], weights)
    voting = [[who for who in others if means.known[who, label]] for label in range(classes)]
    judged = [label for label in range(classes) if len(voting[label]) >= FEWEST_OTHERS]
    added = between(means, centre, judged, others)
    error = np.full(classes, np.inf)
    for label in judged:
        own = [float(means.variances[who, label]) for who in voting[label]]
        heights = [1 / math.sqrt(2 * math.pi * (one + added)) for one in own]
        weighed = sum(high / math.sqrt(one) for high, one in zip(heights, own, strict=True))
        error[label] = sum(1 / one for one in own) / (2 * weighed) ** 2
    return centre, error, added


def between(means: Means, centre: np.ndarray, judged: Sequence[int], others: np.ndarray) -> float:
    excesses = []
    for other in others:
        classes = [label for label in judged if means.known[other, label]]
        if classes:
            squares = np.square(means.values[other, classes] - centre[classes]).mean(axis=1)
            excesses.append(float((squares - means.variances[other, classes]).mean()))
    return max(0.0, float(np.median(excesses))) if excesses else 0.0


def deviation(means: Means, silo: int) -> float:
    centre, error, added = consensus(means, [silo])
    classes = means.known[silo] & np.isfinite(error)
    if not classes.any():
        return 0.0
    variance = means.variances[silo, classes] + error[classes] + added
    squares = np.square(means.values[silo, classes] - centre[classes]).sum(axis=1) / variance
    degrees = centre.shape[1] * int(classes.sum())
    return (float(squares.sum()) - degrees) / math.sqrt(2 * degrees)


def agreement(means: Means, one: int, other: int) -> float:
    centre, error, added = consensus(means, [one, other])
    classes = means.known[one] & means.known[other] & np.isfinite(error)
    if not classes.any():
        return 0.0
    mine, theirs = (means.variances[silo, classes] + added for silo in (one, other))
    shared, embedding = error[classes], centre.shape[1]
    products = (means.values[one, classes] - centre[classes]) * (means.values[other, classes] - centre[classes])
    spread = embedding * float(((mine + shared) * (theirs + shared) + shared**2).sum())
    return (float(products.sum()) - embedding * float(shared.sum())) / math.sqrt(spread)


def agreements(means: Means) -> list[float]:
    silos = range(len(means.values))
    return [max([0.0, *(agreement(means, one, other) for other in silos if other != one)]) for one in silos]


def unexplained(setting: Setting, exhibits: Sequence[Exhibit], means: Means, silo: int) -> float:
    """Length of the output weight's update off the span of the prototypes, by a basis of what is orthogonal to it."""
    centre, error, _ = consensus(means, [silo])
    if not np.isfinite(error).any():
        return 0.0
    rows = np.concatenate([centre[np.isfinite(error)], means.values[silo, means.known[silo]]])
    rows = rows[: setting.embedding * 3 // 4]
    _, values, vectors = np.linalg.svd(rows, full_matrices=True)
    free = vectors[int((values > 1e-6 * values.max()).sum()) :].T
    weight = exhibits[silo].output[: setting.classes * setting.embedding].reshape(setting.classes, setting.embedding)
    degrees = setting.classes * free.shape[1]
    variance = variances(setting, exhibits[silo].count)[2]
    signal = max(0.0, float(np.square(weight @ free).sum()) / variance - degrees)
    low = signal - CONFIDENCE * math.sqrt(2 * degrees + 4 * signal)
    return math.sqrt(max(0.0, low) * variance) * setting.step / setting.signal_bound


def excess(lengths: np.ndarray) -> list[float]:
    return [length - float(np.median(np.delete(lengths, place))) for place, length in enumerate(lengths)]


def variances(setting: Setting, count: int) -> Variances:
    """Gaussian, least, most and last step's variance of one coordinate in squared steps."""
    one_step = setting.learning_rate * setting.noise_multiplier * setting.clip / (setting.sample_rate * count)
    last = (one_step / setting.step) ** 2
    gaussian = last * setting.steps
    swing = sum(math.exp(-2 * math.pi**2 * k**2 * gaussian) / (math.pi * k) ** 2 for k in range(1, 20))
    low, high = max(0.0, 1 / 6 - swing), min(0.25, 1 / 6 + swing)
    return gaussian, clipped(gaussian) + low, gaussian + high, clipped(last) + low


def clipped(variance: float) -> float:
    edge = LEVELS / math.sqrt(variance)
    inside = 1 - 2 * float(special.ndtr(-edge))
    density = math.exp(-(edge**2) / 2) / math.sqrt(2 * math.pi)
    return variance * (inside - 2 * edge * density + edge**2 * (1 - inside))


def law(setting: Setting, exhibit: Exhibit) -> dict[str, float]:
    """Evidence of every law on norms, in scaled units, before it is rounded down."""
    found = {}
    noise = variances(setting, exhibit.count)
    for name, energy, degrees, sketched in blocks(setting, exhibit):
        covered = noise[0] >= COVERED
        found[f"{name}-below"] = evidence(below(setting, exhibit.count, noise, energy, degrees) if covered else 1.0)
        p = above(setting, exhibit.count, noise, energy, degrees, sketched) if covered else 1.0
        found[f"{name}-above"] = evidence(p)
    return found


def blocks(setting: Setting, exhibit: Exhibit) -> list[tuple[str, float, int, bool]]:
    energy, degrees = 0.0, 0
    for column, length in zip(exhibit.folds.T.astype(float), setting.column_counts, strict=True):
        values, vectors = np.linalg.eigh(setting.signs[:, :length].astype(float) @ setting.signs[:, :length].T)
        kept = values > 1e-6 * setting.chunks
        energy += float(((vectors[:, kept].T @ column) ** 2 / values[kept]).sum())
        degrees += int(kept.sum())
    if not setting.output_size:
        return [("body", energy, degrees, True)]
    exact = float(np.square(exhibit.output.astype(float)).sum())
    whole = ("norm", energy + exact, degrees + setting.output_size, False)
    return [whole, ("output", exact, setting.output_size, False), ("body", energy, degrees, True)]


def below(setting: Setting, count: int, noise: Variances, energy: float, degrees: int) -> float:
    if setting.steps == 1:
        return float(stats.chi2.cdf(energy / noise[1], degrees))
    edges, masses = batches(setting, count, setting.steps - 1)
    later = signals(setting, count, noise[1], edges)
    triangle = stats.chi2.cdf((math.sqrt(energy / noise[1]) + np.sqrt(later)) ** 2, degrees)
    return min(float(masses[:-1] @ triangle) + float(masses[-1]), float(stats.chi2.cdf(energy / noise[3], degrees)))


def above(setting: Setting, count: int, noise: Variances, energy: float, degrees: int, sketched: bool) -> float:
    edges, masses = batches(setting, count, setting.steps)
    found = signals(setting, count, noise[2], edges)
    shares, parts = np.ones(1), np.ones(1)
    if sketched and setting.chunks > setting.folds:
        shares = np.linspace(0, 1, 101)[1:]
        law = stats.beta(setting.folds / 2, (setting.chunks - setting.folds) / 2)
        parts = np.diff(law.cdf(np.concatenate([[0.0], shares])))
    tails = chernoff(energy / noise[2], degrees, np.outer(shares, found))
    return min(1.0, float(parts @ tails @ masses[:-1]) + float(masses[-1]))


def chernoff(statistic: float, degrees: int, noncentral: np.ndarray) -> np.ndarray:
    """The least of `exp(-s t) E exp(s X)` over 0 <= s < 1/2 for a non-central chi-square X, by ternary search.

    Its logarithm is `s nc / (1 - 2s) - k/2 ln(1 - 2s) - s t`, which is convex in s.
    """

    def logarithm(s: np.ndarray) -> np.ndarray:
        return np.asarray(s * noncentral / (1 - 2 * s) - degrees / 2 * np.log1p(-2 * s) - s * statistic)

    low, high = np.zeros_like(noncentral), np.full_like(noncentral, 0.5)
    for _ in range(60):
        one, other = (2 * low + high) / 3, (low + 2 * high) / 3
        falling = logarithm(one) > logarithm(other)
        low, high = np.where(falling, one, low), np.where(falling, high, other)
    return np.exp(np.minimum(0.0, logarithm(low)))


def batches(setting: Setting, count: int, steps: int) -> tuple[np.ndarray, np.ndarray]:
    trials = math.ceil(count + COUNT_QUANTILE * setting.count_noise) * steps
    rate = min(1.0, setting.sample_rate)
    spread = math.sqrt(trials * rate * (1 - rate))
    edges = np.unique(np.clip(np.ceil(trials * rate + np.linspace(-1, 9, 61) * spread), 0, trials))
    return edges, -np.diff(np.concatenate([[1.0], stats.binom.sf(edges, trials, rate), [0.0]]))


def signals(setting: Setting, count: int, variance: float, records: np.ndarray) -> np.ndarray:
    longest = setting.learning_rate * setting.clip * records / (setting.sample_rate * count)
    return (longest / setting.step) ** 2 / variance


def evidence(p: float) -> float:
    return max(0.0, -1e6 * math.log10(min(1.0, p + SMALLEST_P)))


def drift(setting: Setting, exhibits: Sequence[Exhibit], history: Sequence[Earlier], silo: str) -> float:
    """The z-score of one silo's drift, from means and sums that are written out; NaN where it has no past."""
    silos = [one.silo for one in exhibits]
    earlier = [one for one in history[-WINDOW:] if len(one.outputs) > FEWEST_OTHERS]
    now = tuple(Judgement(one.silo, one.count, (), "retained", "", 1) for one in exhibits)
    rounds = [*earlier, Earlier(setting, now, {one.silo: one.output for one in exhibits})]
    seen = [{one: _strayed(past, one) for one in silos if one in past.outputs} for past in rounds]
    doubted = [{one.silo for one in past.judgements if one.verdict != "retained"} for past in rounds]
    recent, habits = seen[-RECENT:], {}
    for one in silos:
        clean = [all(one not in names for names in doubted[place : place + RECENT]) for place in range(len(seen))]
        habits[one] = [row[one] for row, fine in list(zip(seen, clean, strict=True))[:-RECENT] if fine and one in row]
    known = [one for one in silos if len(habits[one]) >= FEWEST_ROUNDS]
    if silo not in known:
        return math.nan
    found = []
    for block in (recent[-1:], recent):
        moved = {}
        for one in known:
            energy, variance = _news([row[one] for row in block if one in row], habits[one])
            moved[one] = energy, variance, max(0.0, energy / setting.output_size - variance)
        others = [extra for one, (_, _, extra) in moved.items() if one != silo]
        usual = max(_restless(habits[silo]), float(np.median(others)) if others else moved[silo][2])
        energy, variance, _ = moved[silo]
        found.append((energy / (variance + usual) - setting.output_size) / math.sqrt(2 * setting.output_size))
    return max(found)


def _strayed(earlier: Earlier, silo: str) -> tuple[np.ndarray, float]:
    """A silo's deviation from the others' median in one round, and the variance of a coordinate."""
    setting, counts = earlier.setting, {one.silo: one.count for one in earlier.judgements}
    noise = {one: variances(setting, counts[one])[2] for one in earlier.outputs}
    others = [one for one in earlier.outputs if one != silo]
    row = earlier.outputs[silo] - np.median([earlier.outputs[one] for one in others], axis=0)
    shared = math.pi / 2 * len(others) / sum(1 / math.sqrt(noise[one]) for one in others) ** 2
    unit = setting.step / (setting.learning_rate * setting.clip * setting.steps)
    return row * unit, (noise[silo] + shared) * unit**2


def _mean(rounds: Sequence[tuple[np.ndarray, float]]) -> tuple[np.ndarray, float]:
    """Mean by precision, and the variance of its coordinates."""
    weights = np.array([1 / variance for _, variance in rounds])
    return np.average([row for row, _ in rounds], axis=0, weights=weights), 1 / float(weights.sum())


def _way(rounds: Sequence[tuple[np.ndarray, float]], others: Sequence[tuple[np.ndarray, float]]) -> tuple[float, float]:
    """Squared distance of two means, and the variance of its coordinates."""
    (one, spread), (other, wider) = _mean(rounds), _mean(others)
    return float(np.square(one - other).sum()), spread + wider


def _news(rounds: Sequence[tuple[np.ndarray, float]], past: Sequence[tuple[np.ndarray, float]]) -> tuple[float, float]:
    """Squared distance from the segment between zero and the past's mean, and the variance of its coordinates."""
    (now, spread), (before, wider) = _mean(rounds), _mean(past)
    (part,), _ = optimize.nnls(before[:, None], now)
    part = min(1.0, float(part))
    return float(np.square(now - part * before).sum()), spread + part**2 * wider


def _restless(habit: Sequence[tuple[np.ndarray, float]]) -> float:
    found = [0.0]
    for place, one in enumerate(habit):
        energy, variance = _way([one], [*habit[:place], *habit[place + 1 :]])
        found.append(energy / len(one[0]) - variance * (1 + MARGIN * math.sqrt(2 / len(one[0]))))
    return max(found)
