"""What a silo releases besides its update: counts, prototypes, evaluations, each with exact discrete Gaussian noise.

Every function takes true statistics and returns what may leave. A multiplier of 1 means a σ of one L2 sensitivity,
for one record added or removed; σ² is an exact fraction, so nothing is rounded to the unsafe side.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from protos.messages import Evaluation
from protos.task import MICRO, PROTOTYPE_GRID, PrototypeRule
from silo.discrete import discrete_gaussian
from silo.entropy import Entropy


def noised_counts(
    labels: NDArray[np.int64], classes: int, noise_micro: int, entropy: Entropy
) -> tuple[int, tuple[int, ...]]:
    """Noised record count (at least 1) and class counts (each at least 0).

    One record changes the total by 1 and one class by 1: L2 sensitivity √2.
    """
    true = np.concatenate([[len(labels)], np.bincount(labels, minlength=classes)])
    noised = true + _noise(noise_micro, 2, classes + 1, entropy)
    return max(1, int(noised[0])), tuple(max(0, int(value)) for value in noised[1:])


def noised_evaluation(correct: int, total: int, noise_micro: int, entropy: Entropy) -> Evaluation:
    """Noised hold-out counts, with 0 <= correct <= total and total >= 1.

    One hold-out record changes each of the two by at most 1: L2 sensitivity √2.
    """
    noise = _noise(noise_micro, 2, 2, entropy)
    noised_total = max(1, total + int(noise[1]))
    return Evaluation(min(max(0, correct + int(noise[0])), noised_total), noised_total)


def noised_prototypes(
    embeddings: NDArray[np.float64], labels: NDArray[np.int64], rule: PrototypeRule, classes: int, entropy: Entropy
) -> NDArray[np.int64]:
    """Noised sums of the embeddings of each class, in units of clip / PROTOTYPE_GRID.

    Args:
        embeddings: float64[n, width], inputs of the output layer under the received model.
        labels: int64[n].
        rule: clip norm and noise multiplier.
        classes: how many classes the task has.
        entropy: source of the noise.

    Returns:
        int64[classes, width].
    """
    rows = _integer_rows(embeddings, rule.clip_micro / MICRO)
    sums = np.zeros((classes, embeddings.shape[1]), dtype=np.int64)
    np.add.at(sums, labels, rows)
    sums += _noise(rule.noise_micro, PROTOTYPE_GRID**2, sums.size, entropy).reshape(sums.shape)
    return sums


def _integer_rows(embeddings: NDArray[np.float64], clip: float) -> NDArray[np.int64]:
    """Each row clipped and rounded towards zero to integers of L2 norm at most PROTOTYPE_GRID.

    Rounding towards zero makes no coordinate larger; squared norms of integers are integers, so the relative error of
    1e-15 of the clipping cannot carry one from below 1024² to 1024² + 1. A row that is not finite counts as zero.
    """
    finite = np.isfinite(embeddings).all(axis=1, keepdims=True)
    rows = np.where(finite, embeddings, 0.0)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    scaled = rows * (PROTOTYPE_GRID / np.maximum(norms, clip))
    integers: NDArray[np.int64] = np.trunc(scaled).astype(np.int64)
    return integers


def _noise(noise_micro: int, sensitivity_squared: int, count: int, entropy: Entropy) -> NDArray[np.int64]:
    """int64[count] of discrete Gaussian noise with σ² = multiplier² · sensitivity²."""
    return discrete_gaussian(Fraction(noise_micro, MICRO) ** 2 * sensitivity_squared, count, entropy)
