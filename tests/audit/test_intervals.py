import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from audit.intervals import accuracy_gap, accuracy_interval, percent_span, quantile
from protos.messages import Evaluation
from protos.task import MICRO

TRIALS = 2000


def release(random: np.random.Generator, records: int, accuracy: float, noise: float) -> Evaluation:
    """Noised counts of one silo; the discrete Gaussian is a rounded continuous one here."""
    correct = random.binomial(records, accuracy) + round(random.normal(0, noise * math.sqrt(2)))
    total = records + round(random.normal(0, noise * math.sqrt(2)))
    return Evaluation(max(0, correct), max(1, total))


@pytest.mark.parametrize("records", [12, 60, 500])
@pytest.mark.parametrize("accuracy", [0.1, 0.5, 0.93, 1.0])
@pytest.mark.parametrize("noise", [0.5, 4.0])
def test_interval_covers_the_true_accuracy_as_often_as_it_says(records: int, accuracy: float, noise: float) -> None:
    random = np.random.default_rng(5)
    hits = 0
    for _ in range(TRIALS):
        interval = accuracy_interval(release(random, records, accuracy, noise), round(noise * MICRO))
        hits += interval.low_micro <= accuracy * MICRO <= interval.high_micro
    assert hits / TRIALS >= 0.94


def test_gap_covers_the_true_gap_of_several_silos() -> None:
    random = np.random.default_rng(6)
    truth = {"ada": (100, 0.95), "bob": (60, 0.9), "cyd": (40, 0.7)}
    hits = 0
    for _ in range(TRIALS):
        counts = {silo: release(random, *law, 2.0) for silo, law in truth.items()}
        gap = accuracy_gap(counts, 2 * MICRO)
        hits += gap.low_micro <= 250_000 <= gap.high_micro
    assert hits / TRIALS >= 0.95


def test_interval_without_noise_is_wilsons_within_the_continuity_correction() -> None:
    interval = accuracy_interval(Evaluation(80, 100), 1)
    low, high = stats.binomtest(80, 100).proportion_ci(0.95, method="wilsoncc")
    assert interval.estimate_micro == 800_000
    assert abs(interval.low_micro / MICRO - low) < 2e-3
    assert abs(interval.high_micro / MICRO - high) < 2e-3


@settings(max_examples=200, deadline=None)
@given(total=st.integers(1, 5000), share=st.floats(0, 1.2), noise=st.integers(1, 50 * MICRO))
def test_interval_is_where_the_squared_deviation_reaches_its_bound(total: int, share: float, noise: int) -> None:
    counts = Evaluation(round(total * share), total)
    interval = accuracy_interval(counts, noise)
    assert 0 <= interval.low_micro <= interval.high_micro <= MICRO

    def excess(p: float, correct: float) -> float:
        variance = total * p * (1 - p) + 2 * (noise / MICRO) ** 2 * (1 + p * p)
        return (correct - p * total) ** 2 - 1.959964**2 * variance

    # Outside by two steps of rounding, p is contradicted by the counts.
    if interval.low_micro > 1:
        assert excess((interval.low_micro - 2) / MICRO, counts.correct - 0.5) >= -1e-3
    if interval.high_micro < MICRO - 1:
        assert excess((interval.high_micro + 2) / MICRO, counts.correct + 0.5) >= -1e-3


def test_counts_smaller_than_their_noise_say_nothing() -> None:
    interval = accuracy_interval(Evaluation(3, 5), 20 * MICRO)
    assert (interval.low_micro, interval.high_micro) == (0, MICRO)


def test_more_right_answers_than_the_noise_explains_say_nothing() -> None:
    interval = accuracy_interval(Evaluation(1000, 100), MICRO)
    assert (interval.estimate_micro, interval.low_micro, interval.high_micro) == (MICRO, 0, MICRO)


def test_gap_of_one_silo_is_none() -> None:
    assert accuracy_gap({"ada": Evaluation(9, 10)}, MICRO).high_micro == 0


@settings(deadline=None)
@given(st.integers(2, 10_000))
def test_quantile_is_never_below_the_true_one(denominator: int) -> None:
    value = quantile(Fraction(1, denominator))
    true = float(stats.norm.isf(0.5 / denominator))
    assert true - 1e-12 <= float(value) <= true + 1.1e-6


def test_percents_are_rounded_outwards() -> None:
    assert percent_span(123_999, 900_001) == "12.3% to 90.1%"
    assert percent_span(0, MICRO) == "0.0% to 100.0%"
