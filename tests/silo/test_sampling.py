import numpy as np
import pytest

from silo.entropy import Entropy
from silo.sampling import poisson_batch
from tests.silo.entropy import SeededEntropy


class Constant:
    """The same eight bytes for every record."""

    is_operating_system = False

    def __init__(self, word: int) -> None:
        self._word = word

    def take(self, count: int) -> bytes:
        return self._word.to_bytes(8, "little") * (count // 8)


def test_batch_sizes_are_binomial() -> None:
    entropy = SeededEntropy(5)
    sizes = np.array([len(poisson_batch(400, 300_000, entropy)) for _ in range(2000)])
    assert abs(sizes.mean() - 120) < 4 * np.sqrt(84 / 2000)
    assert abs(sizes.var() / 84 - 1) < 0.15


def test_records_are_drawn_independently_and_equally() -> None:
    entropy = SeededEntropy(6)
    drawn = np.zeros((4000, 5))
    for row in drawn:
        row[poisson_batch(5, 250_000, entropy)] = 1
    assert np.abs(drawn.mean(axis=0) - 0.25).max() < 0.03
    assert np.abs(np.corrcoef(drawn.T) - np.eye(5)).max() < 0.06


def test_rate_one_takes_every_record() -> None:
    assert poisson_batch(7, 1_000_000, SeededEntropy(1)).tolist() == list(range(7))


@pytest.mark.parametrize("rate", [1, 333_333, 999_999])
def test_threshold_is_at_most_the_accounted_rate(rate: int) -> None:
    threshold = rate * 2**64 // 10**6
    drawn: Entropy = Constant(threshold - 1)
    left: Entropy = Constant(threshold)
    assert len(poisson_batch(3, rate, drawn)) == 3
    assert len(poisson_batch(3, rate, left)) == 0


def test_no_records_is_an_empty_batch() -> None:
    assert poisson_batch(0, 500_000, SeededEntropy(1)).shape == (0,)
