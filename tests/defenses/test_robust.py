"""Every aggregation rule against loops over plain lists, written from its paper."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest

from defenses import aggregation
from defenses.mixing import bulyan, clip_adaptively, flame, mix_nearest, mixed_trimmed_mean
from defenses.robust import centered_clipping, cosine_prototypes, median, trimmed_mean
from tests.defenses.naive import apart, cosine

SEEDS = pytest.mark.parametrize("seed", range(4))
Rows = list[list[float]]


def drawn(seed: int, number: int, size: int = 5) -> tuple[np.ndarray, np.ndarray, Rows]:
    """Updates with a few far away, weights, and the updates as lists."""
    rng = np.random.default_rng(seed)
    updates = rng.normal(1.0, 1.0, (number, size)) * np.where(np.arange(number) < number // 5, 9.0, 1.0)[:, None]
    return updates, rng.uniform(0.5, 3.0, number), updates.tolist()


def columns(rows: Rows) -> Rows:
    return [list(column) for column in zip(*rows, strict=True)]


def average(rows: Rows, weights: list[float] | None = None) -> list[float]:
    shares = weights or [1.0] * len(rows)
    return [math.fsum(w * v for w, v in zip(shares, col, strict=True)) / math.fsum(shares) for col in columns(rows)]


def length(row: list[float]) -> float:
    return math.sqrt(math.fsum(value * value for value in row))


def cut(row: list[float], bound: float) -> list[float]:
    return [value * min(1.0, bound / length(row)) for value in row]


def naive_trimmed(rows: Rows, liars: int) -> list[float]:
    return [statistics.fmean(sorted(column)[liars : len(rows) - liars]) for column in columns(rows)]


def naive_nnm(rows: Rows, liars: int) -> Rows:
    return [average(sorted(rows, key=lambda other: apart(row, other))[: len(rows) - liars]) for row in rows]


def naive_arc(rows: Rows, liars: int) -> Rows:
    clipped = math.floor(2 * liars / len(rows) * (len(rows) - liars) + 1e-9)
    bound = sorted((length(row) for row in rows), reverse=True)[clipped]
    return [cut(row, bound) for row in rows]


def naive_bulyan(rows: Rows, liars: int) -> list[float]:
    left, picked = sorted(rows), []
    while len(picked) < len(rows) - 2 * liars:
        neighbours = max(1, len(left) - liars - 2)
        scores = [
            math.fsum(sorted(apart(row, other) for other in left if other is not row)[:neighbours]) for row in left
        ]
        picked.append(left.pop(scores.index(min(scores))))
    found = []
    for column in columns(picked):
        centre = statistics.median(column)
        found.append(statistics.fmean(sorted(column, key=lambda v: abs(v - centre))[: len(picked) - 2 * liars]))
    return found


@SEEDS
@pytest.mark.parametrize("number", [1, 4, 9])
def test_median_is_that_of_every_coordinate(seed: int, number: int) -> None:
    updates, _, rows = drawn(seed, number)
    assert median(updates) == pytest.approx([statistics.median(column) for column in columns(rows)])


@SEEDS
@pytest.mark.parametrize("liars", [0, 1, 4])
def test_trimmed_mean_drops_the_extremes_of_every_coordinate(seed: int, liars: int) -> None:
    updates, _, rows = drawn(seed, 9)
    assert trimmed_mean(updates, np.full(9, 2.0), liars) == pytest.approx(naive_trimmed(rows, liars))


def test_trimmed_mean_by_hand() -> None:
    updates = np.array([[1.0, 50], [2, 40], [4, 30], [-90, 20]])
    assert trimmed_mean(updates, np.ones(4), 1) == pytest.approx([1.5, 35])
    # Coordinate by coordinate other silos are left, and with them other weights: (1*3 + 2*1) / 4, (40*1 + 30*4) / 5.
    assert trimmed_mean(updates, np.array([3.0, 1, 4, 1]), 1) == pytest.approx([1.25, 32])


@SEEDS
def test_centered_clipping_moves_by_the_mean_of_cut_differences(seed: int) -> None:
    updates, weights, rows = drawn(seed, 7)
    centre = [0.5] * 5
    for _ in range(4):
        moves = [cut([a - b for a, b in zip(row, centre, strict=True)], 1.3) for row in rows]
        centre = [a + b for a, b in zip(centre, average(moves, weights.tolist()), strict=True)]
    assert centered_clipping(updates, weights, np.full(5, 0.5), 1.3, 4) == pytest.approx(centre)


def test_centered_clipping_by_hand() -> None:
    updates = np.array([[1.0], [2.0], [90.0]])
    # Radius is the median distance: from 0 it is 2, so (1 + 2 + 2) / 3; one iteration.
    assert centered_clipping(updates, np.ones(3), iterations=1) == pytest.approx([5 / 3])
    assert centered_clipping(updates, np.ones(3), radius=1000.0, iterations=1) == pytest.approx([31])


def test_centered_clipping_by_default_starts_at_zero_and_moves_three_times_by_hand() -> None:
    updates = np.array([[1.0], [2.0], [90.0]])
    # Radii 2, 2/3 and 7/9: to 5/3, then by (-2 + 1 + 2)/9 to 16/9, then by (-7 + 2 + 7)/27.
    assert centered_clipping(updates, np.ones(3)) == pytest.approx([50 / 27])


@SEEDS
def test_centered_clipping_by_default_cuts_to_the_median_distance_three_times(seed: int) -> None:
    updates, weights, rows = drawn(seed, 8)
    centre = [0.0] * 5
    for _ in range(3):
        moves = [[a - b for a, b in zip(row, centre, strict=True)] for row in rows]
        radius = statistics.median(length(move) for move in moves)
        step = average([cut(move, radius) for move in moves], weights.tolist())
        centre = [a + b for a, b in zip(centre, step, strict=True)]
    assert centered_clipping(updates, weights) == pytest.approx(centre)
    named = aggregation.get("centered-clipping")(updates, weights, 1, np.random.default_rng(0))
    assert named == pytest.approx(centre)


@SEEDS
@pytest.mark.parametrize(("number", "liars"), [(3, 0), (7, 1), (11, 2), (15, 3)])
def test_bulyan_picks_by_krum_and_averages_around_the_median(seed: int, number: int, liars: int) -> None:
    updates, _, rows = drawn(seed, number)
    assert bulyan(updates, liars) == pytest.approx(naive_bulyan(rows, liars))


def test_bulyan_by_hand() -> None:
    updates = np.array([[0.0], [1], [2], [3], [4], [5], [1000]])
    # Krum picks 5 of the 7 and never 1000; of those the 3 nearest to the median.
    assert bulyan(updates, 1) == pytest.approx(naive_bulyan(updates.tolist(), 1))
    assert 1 <= bulyan(updates, 1)[0] <= 4


@SEEDS
@pytest.mark.parametrize("liars", [0, 1, 3])
def test_every_update_becomes_the_mean_of_its_nearest(seed: int, liars: int) -> None:
    updates, _, rows = drawn(seed, 9)
    expected = naive_nnm(rows, liars)
    assert mix_nearest(updates, liars) == pytest.approx(np.array(expected))
    assert mixed_trimmed_mean(updates, liars) == pytest.approx(naive_trimmed(expected, liars))


def test_mixing_by_hand() -> None:
    updates = np.array([[1.0, 2, 3], [4, 5, 6], [7.5, 8, 9]])
    assert mix_nearest(updates, 1).tolist() == [[2.5, 3.5, 4.5], [2.5, 3.5, 4.5], [5.75, 6.5, 7.5]]


@SEEDS
@pytest.mark.parametrize(("number", "liars"), [(4, 0), (5, 1), (9, 2), (10, 4), (1, 0)])
def test_adaptive_clipping_cuts_the_longest(seed: int, number: int, liars: int) -> None:
    updates, weights, rows = drawn(seed, number)
    expected = naive_arc(rows, liars)
    assert clip_adaptively(updates, liars) == pytest.approx(np.array(expected))
    whole = aggregation.get("arc")(updates, weights, liars, np.random.default_rng(0))
    assert whole == pytest.approx(naive_trimmed(naive_nnm(expected, liars), liars))


def test_adaptive_clipping_by_hand() -> None:
    # floor(2 * 1/4 * 3) = 1: the longest is cut to the second longest.
    updates = np.array([[3.0, 4], [0, 2], [30, 40], [1, 0]])
    assert clip_adaptively(updates, 1).tolist() == [[3, 4], [0, 2], [3, 4], [1, 0]]


@SEEDS
def test_flame_cuts_to_the_median_norm_and_adds_noise(seed: int) -> None:
    rng = np.random.default_rng(seed)
    common = rng.normal(size=40)
    updates = np.concatenate([common + 0.3 * rng.normal(size=(6, 40)), -common + rng.normal(size=(3, 40))])
    weights = rng.uniform(1, 5, 9)
    rows = updates.tolist()
    bound = statistics.median(length(row) for row in rows)
    # Single linkage until five of nine are joined: the honest six are nearer to each other than to anybody else.
    gaps = sorted((1 - cosine(rows[i], rows[j]), i, j) for i in range(6) for j in range(i))
    joined = [{place} for place in range(6)]
    for _, one, other in gaps:
        mine, theirs = (next(group for group in joined if place in group) for place in (one, other))
        if mine is not theirs:
            joined = [group for group in joined if group not in (mine, theirs)] + [mine | theirs]
        if len(joined[-1]) >= 5:
            break
    kept = sorted(joined[-1])
    expected = np.array(average([cut(rows[place], bound) for place in kept], [float(weights[p]) for p in kept]))
    assert flame(updates, weights, np.random.default_rng(1), noise=0.0) == pytest.approx(expected)
    # The paper's lambda for images is 0.001, and the rule by its name has it too.
    noise = np.random.default_rng(1).normal(size=40) * 0.001 * bound
    assert flame(updates, weights, np.random.default_rng(1)) - expected == pytest.approx(noise)
    named = aggregation.get("flame")(updates, weights, 3, np.random.default_rng(1))
    assert named - expected == pytest.approx(noise)


@SEEDS
def test_prototypes_are_averaged_by_their_cosine_to_the_median(seed: int) -> None:
    updates, weights, rows = drawn(seed, 8, 6)
    expected = []
    for block in (slice(0, 3), slice(3, 6)):
        part = [row[block] for row in rows]
        centre = [statistics.median(column) for column in columns(part)]
        trust = [float(w) * max(0.0, cosine(row, centre)) for w, row in zip(weights, part, strict=True)]
        expected += average(part, trust)
    assert cosine_prototypes(updates, weights, classes=2) == pytest.approx(expected)


def test_prototypes_by_hand() -> None:
    updates = np.array([[1.0, 0], [3, 4], [-5, 0], [2, 0], [2, 0]])
    # The median is (2, 0): cosines 1, 3/5, none, 1, 1.
    assert cosine_prototypes(updates, np.ones(5)) == pytest.approx([6.8 / 3.6, 2.4 / 3.6])
    opposite = np.array([[1.0], [-1.0]])
    assert cosine_prototypes(opposite, np.ones(2)) == pytest.approx([0])
