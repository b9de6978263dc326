import math
import time
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from silo.discrete import _bernoulli_exp, _Coins, discrete_gaussian
from silo.entropy import OsEntropy
from tests.silo.entropy import SeededEntropy


def exact_pmf(sigma_squared: float, values: NDArray[np.int64]) -> NDArray[np.float64]:
    reach = int(40 * math.sqrt(sigma_squared)) + 40
    total = sum(math.exp(-x * x / (2 * sigma_squared)) for x in range(-reach, reach + 1))
    return np.exp(-(values.astype(float) ** 2) / (2 * sigma_squared)) / total


@pytest.mark.parametrize("sigma_squared", [Fraction(1, 10), Fraction(1), Fraction(17, 4), Fraction(123_457, 1000)])
def test_law_is_the_exact_probability_mass(sigma_squared: Fraction) -> None:
    count = 20_000
    sample = discrete_gaussian(sigma_squared, count, SeededEntropy(3))
    reach = math.ceil(3 * math.sqrt(sigma_squared))
    values = np.arange(-reach, reach + 1)
    expected = count * exact_pmf(float(sigma_squared), values)
    observed = np.array([(sample == value).sum() for value in values], dtype=float)
    observed, expected = np.append(observed, count - observed.sum()), np.append(expected, count - expected.sum())
    enough = expected >= 5
    statistic = float(((observed - expected)[enough] ** 2 / expected[enough]).sum())
    assert stats.chi2.sf(statistic, int(enough.sum()) - 1) > 1e-3


def test_law_agrees_with_opendp() -> None:
    import opendp.prelude as dp

    dp.enable_features("contrib")
    space = dp.vector_domain(dp.atom_domain(T="i32")), dp.l2_distance(T="i32")
    reference = np.array(dp.m.make_gaussian(*space, scale=4.5)([0] * 20_000))
    ours = discrete_gaussian(Fraction(9, 2) ** 2, 20_000, OsEntropy())
    bins = np.arange(-12, 14) - 0.5
    table = np.array([np.histogram(np.clip(sample, -12, 12), bins)[0] for sample in (ours, reference)])
    assert stats.chi2_contingency(table).pvalue > 1e-6


def test_large_grid_noise_has_the_right_spread() -> None:
    sigma = Fraction(68, 10) * 1024
    sample = discrete_gaussian(sigma**2, 10_000, SeededEntropy(4))
    assert abs(sample.mean()) < 4 * float(sigma) / 100
    assert abs(sample.std() / float(sigma) - 1) < 0.03
    assert stats.kstest(sample / float(sigma), "norm").pvalue > 1e-3


@given(st.integers(1, 2**70), st.integers(0, 10**6))
def test_uniform_integers_stay_below_their_bound(bound: int, seed: int) -> None:
    coins = _Coins(SeededEntropy(seed))
    assert all(0 <= coins.below(bound) < bound for _ in range(5))


@pytest.mark.parametrize(("numerator", "denominator"), [(0, 1), (1, 3), (1, 1), (7, 3)])
def test_exponential_coin_has_its_bias(numerator: int, denominator: int) -> None:
    coins = _Coins(SeededEntropy(9))
    heads = sum(_bernoulli_exp(numerator, denominator, coins) for _ in range(20_000))
    bias = math.exp(-numerator / denominator)
    assert abs(heads - 20_000 * bias) <= 4 * math.sqrt(20_000 * bias * (1 - bias))


def test_prototype_sized_draw_is_fast() -> None:
    sigma_squared = (Fraction(6_800_001, 1_000_000) * 1024) ** 2
    times = []
    for _ in range(5):
        start = time.process_time()
        discrete_gaussian(sigma_squared, 320, OsEntropy())
        times.append(time.process_time() - start)
    assert min(times) < 0.05


def test_variance_of_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="positive"):
        discrete_gaussian(Fraction(0), 1, OsEntropy())
