"""True Poisson sampling from OS entropy.

Opacus' `UniformWithReplacementSampler` draws from `torch.Generator`, whose Mersenne twister keeps 32 bits of its seed
and compares 24-bit floats with the rate. The accounted amplification needs a secret batch, so every record here gets
64 bits of its own, compared with a threshold that is rounded down: the true rate is at most the accounted one.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from protos.task import MICRO
from silo.entropy import Entropy

_WORDS = 2**64


def poisson_batch(records: int, sample_rate_micro: int, entropy: Entropy) -> NDArray[np.int64]:
    """Indices of one Poisson batch: each of `records` is in it independently with probability `sample_rate`.

    Args:
        records: how many records there are.
        sample_rate_micro: sampling probability in millionths, 1 to 1,000,000.
        entropy: source of the coins.

    Returns:
        int64[k], ascending; k varies and may be 0.
    """
    if sample_rate_micro == MICRO:
        return np.arange(records, dtype=np.int64)
    coins = np.frombuffer(entropy.take(8 * records), dtype="<u8")
    threshold = np.uint64(sample_rate_micro * _WORDS // MICRO)
    return np.flatnonzero(coins < threshold).astype(np.int64)
