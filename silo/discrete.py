"""Exact discrete Gaussian noise on the integers, after Canonne, Kamath and Steinke 2020 (arXiv 2004.00010).

Only integers are used, so that the law is exactly the one that the proof speaks of: no float has a hole or a tail
that ends early. For integer shifts the Rényi divergence is at most that of the continuous Gaussian of the same σ
(their Proposition 5); independent coordinates add, so a query of integers with L2 sensitivity Δ is accounted as one.
"""

from __future__ import annotations

from fractions import Fraction
from math import isqrt

import numpy as np
from numpy.typing import NDArray

from silo.entropy import Entropy

_BUFFER = 4096


def discrete_gaussian(sigma_squared: Fraction, count: int, entropy: Entropy) -> NDArray[np.int64]:
    """`count` independent values x with probability proportional to exp(-x² / (2 σ²)).

    Args:
        sigma_squared: σ² > 0, exact; the variance is at most this.
        count: how many values.
        entropy: source of the coins.

    Returns:
        int64[count].
    """
    if sigma_squared <= 0:
        raise ValueError("the discrete Gaussian needs a positive variance")
    coins = _Coins(entropy)
    return np.array([_gaussian(sigma_squared, coins) for _ in range(count)], dtype=np.int64)


class _Coins:
    """Uniform integers by rejection, from bytes read in blocks; what is left of a block is dropped."""

    def __init__(self, entropy: Entropy) -> None:
        self._entropy = entropy
        self._block = b""
        self._next = 0

    def below(self, bound: int) -> int:
        """A uniform integer in [0, bound)."""
        bits = (bound - 1).bit_length()
        size = (bits + 7) // 8
        mask = (1 << bits) - 1
        while True:
            value = int.from_bytes(self._take(size), "little") & mask
            if value < bound:
                return value

    def _take(self, size: int) -> bytes:
        if self._next + size > len(self._block):
            self._block = self._entropy.take(max(_BUFFER, size))
            self._next = 0
        self._next += size
        return self._block[self._next - size : self._next]


def _bernoulli_exp(numerator: int, denominator: int, coins: _Coins) -> bool:
    """True with probability exp(-numerator / denominator): Algorithm 1."""
    while numerator > denominator:
        if not _bernoulli_exp_small(1, 1, coins):
            return False
        numerator -= denominator
    return _bernoulli_exp_small(numerator, denominator, coins)


def _bernoulli_exp_small(numerator: int, denominator: int, coins: _Coins) -> bool:
    """Algorithm 1 for an exponent in [0, 1]: the alternating series of exp, one coin of bias γ/k a term."""
    k = 1
    while coins.below(k * denominator) < numerator:
        k += 1
    return k % 2 == 1


def _laplace(scale: int, coins: _Coins) -> int:
    """A discrete Laplace value, probability proportional to exp(-|y| / scale): Algorithm 2 with s = 1."""
    while True:
        remainder = coins.below(scale)
        if not _bernoulli_exp_small(remainder, scale, coins):
            continue
        quotient = 0
        while _bernoulli_exp_small(1, 1, coins):
            quotient += 1
        magnitude = remainder + scale * quotient
        negative = coins.below(2) == 1
        if not (negative and magnitude == 0):  # zero must not be counted with both signs
            return -magnitude if negative else magnitude


def _gaussian(sigma_squared: Fraction, coins: _Coins) -> int:
    """Algorithm 3: a Laplace candidate y at scale t, kept with probability exp(-(|y| - σ²/t)² / (2σ²))."""
    n, d = sigma_squared.numerator, sigma_squared.denominator
    scale = isqrt(n // d) + 1  # t = floor(σ) + 1
    denominator = 2 * n * d * scale * scale
    while True:
        candidate = _laplace(scale, coins)
        numerator = (abs(candidate) * d * scale - n) ** 2
        if _bernoulli_exp(numerator, denominator, coins):
            return candidate
