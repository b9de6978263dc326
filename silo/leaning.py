"""What a classifier leans to by the shares of classes that it was trained on.

A model of uneven classes says the frequent ones too often: its scores hold the log of their shares (Saerens et al.
2002, equation 2.4; Menon et al. 2021, equation 9). A small change of any input then leads to them, which nobody
taught, and a model of rare positives calls everything negative. On records of known shares the leaning can be measured
and taken off, with the output layer's biases and nothing else changed.

Who hides a trigger to a class by making the model say that class too often pays for it in accuracy, in the open.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import special

STEPS = 1000
"""At most; each is one of Sinkhorn and Knopp 1967. Models of MNIST took 2 to 145."""
CLOSE = 1e-4
"""Difference of log shares at which it is enough."""


def leaning(scores: NDArray[np.float64], shares: NDArray[np.float64]) -> NDArray[np.float64]:
    """What to take off `scores`, float64[n, C], so that their softmax has the mean `shares`, float64[C].

    Zero for a class without a share.
    """
    there = shares > 0
    lean = np.zeros(len(shares))
    for _ in range(STEPS):
        said = special.logsumexp(special.log_softmax(scores - lean, axis=1), axis=0) - np.log(len(scores))
        step = np.where(there, said - np.log(np.where(there, shares, 1.0)), 0.0)
        lean += step
        if np.abs(step).max() < CLOSE:
            break
    return lean
