"""Continuous Gaussian noise of DP-SGD, from OS entropy.

A float64 Gaussian has holes: not every value can occur, and which ones do depends on what the noise is added to
(Mironov 2012). Summing four independent normals and halving, as Opacus' secure mode does, makes enumerating the
preimages infeasible: 2^159 work instead of 2^53 (Holohan and Braghin 2021, arXiv 2107.10138, section 5.1). What is
released is besides rounded at random to the public grid of the task, some 2^-6 wide, which hides the low bits where
such attacks look. Counts, prototypes and evaluations do not rely on this: they use `silo.discrete`, which is exact.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from silo.entropy import Entropy

_SUMMANDS = 4


def gaussian(count: int, entropy: Entropy) -> NDArray[np.float64]:
    """`count` standard normal values, float64[count], each from 32 bytes of `entropy`."""
    normals = _box_muller(_SUMMANDS // 2 * count, entropy)
    # The sum of four standard normals has standard deviation 2.
    total: NDArray[np.float64] = normals.reshape(_SUMMANDS, count).sum(axis=0) / 2.0
    return total


def _box_muller(pairs: int, entropy: Entropy) -> NDArray[np.float64]:
    """Two independent standard normals for each of `pairs` pairs of uniforms, float64[2 * pairs]."""
    words = np.frombuffer(entropy.take(16 * pairs), dtype="<u8") >> np.uint64(11)
    uniform = (words.astype(np.float64) + 1.0) * 2.0**-53  # in (0, 1]: the logarithm is finite
    radius = np.sqrt(-2.0 * np.log(uniform[:pairs]))
    angle = 2.0 * np.pi * uniform[pairs:]
    return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])
