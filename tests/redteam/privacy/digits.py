"""Digits of 8 x 8 pixels in [0, 1] for privacy attacks, shuffled once."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray


@cache
def digits() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Features float32[1797, 64] and labels int64[1797]."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))
    return (pixels[order] / 16).astype(np.float32), labels[order].astype(np.int64)
