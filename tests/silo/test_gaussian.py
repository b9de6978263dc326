import numpy as np
from scipy import stats

from silo.gaussian import gaussian
from tests.silo.entropy import SeededEntropy


def test_noise_is_standard_normal() -> None:
    sample = gaussian(200_000, SeededEntropy(11))
    assert stats.kstest(sample, "norm").pvalue > 1e-3
    assert abs(sample.std() - 1) < 0.01


def test_neighbouring_values_are_uncorrelated() -> None:
    sample = gaussian(100_000, SeededEntropy(12))
    for lag in (1, 2, 50_000):
        assert abs(np.corrcoef(sample[:-lag], sample[lag:])[0, 1]) < 0.02


def test_extreme_bytes_stay_finite() -> None:
    class Extreme:
        is_operating_system = False

        def __init__(self, byte: bytes) -> None:
            self._byte = byte

        def take(self, count: int) -> bytes:
            return self._byte * count

    assert np.isfinite(gaussian(4, Extreme(b"\x00"))).all()
    assert np.isfinite(gaussian(4, Extreme(b"\xff"))).all()


def test_zero_values_need_no_entropy() -> None:
    assert gaussian(0, SeededEntropy(1)).shape == (0,)
