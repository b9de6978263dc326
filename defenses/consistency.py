"""Suspicion from the update itself: a signal that is long within the law, or that no class prototype explains.

The gradient of the output layer's weight has the embeddings of records as its rows' directions, so a row of an honest
update lies mostly in the span of the class prototypes; what a trigger teaches lies elsewhere. Both scores
are lower confidence limits of a length, in units of the signal `lr*C*steps` that clipping allows: a silo whose noise
hides its signal scores 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from defenses.evidence import Exhibit, Setting
from defenses.laws import noise_of
from defenses.prototypes import consensus, means_of

Floats = NDArray[np.float64]

CONFIDENCE = 3.0
"""Deviations below the estimate; the chance of more is a thousandth."""


def signal_lengths(setting: Setting, exhibits: Sequence[Exhibit]) -> Floats:
    """Per silo the lower limit of its signal's length in the output layer; 0 where it is not opened (float64[n])."""
    if not setting.output_size:
        return np.zeros(len(exhibits))
    energies = [float(np.square(one.output.astype(np.float64)).sum()) for one in exhibits]
    lengths = [
        _length(setting, one.count, energy, setting.output_size) for one, energy in zip(exhibits, energies, strict=True)
    ]
    return np.array(lengths, dtype=np.float64)


def excess(lengths: Floats) -> Floats:
    """What each length has over the median of the others: a length that all silos share is the model's, not theirs."""
    if len(lengths) < 2:
        return np.zeros(len(lengths))
    return np.array([length - np.median(np.delete(lengths, place)) for place, length in enumerate(lengths)])


def unexplained_lengths(setting: Setting, exhibits: Sequence[Exhibit]) -> Floats:
    """Per silo the lower limit of the length of its output weight's update off the span of the prototypes.

    The span is of the consensus of the other silos and, where a quarter of the embedding's dimensions stays free,
    of the silo's own prototypes too. Returns float64[n] in units of `lr*C*steps`.
    """
    means = means_of(setting, exhibits)
    lengths = np.zeros(len(exhibits))
    for silo, exhibit in enumerate(exhibits):
        centre, error = consensus(means, [silo])
        if not setting.output_size or not np.isfinite(error).any():
            continue
        rows = np.concatenate([centre[np.isfinite(error)], means.values[silo, means.known[silo]]])
        if len(rows) > setting.embedding * 3 // 4:
            rows = rows[: setting.embedding * 3 // 4]
        free = _complement(rows)
        weight = exhibit.output[: setting.classes * setting.embedding].reshape(setting.classes, setting.embedding)
        energy = float(np.square(weight @ free).sum())
        lengths[silo] = _length(setting, exhibit.count, energy, setting.classes * free.shape[1])
    return lengths


def _complement(rows: Floats) -> Floats:
    """Orthonormal basis [embedding, k] of the orthogonal complement of the rows."""
    _, values, vectors = np.linalg.svd(rows, full_matrices=True)
    rank = int((values > 1e-9 * values.max(initial=1e-300)).sum())
    return np.asarray(vectors[rank:].T, dtype=np.float64)


def _length(setting: Setting, count: int, energy: float, degrees: int) -> float:
    variance = noise_of(setting, count).most
    signal = max(0.0, energy / variance - degrees)
    low = signal - CONFIDENCE * math.sqrt(2 * degrees + 4 * signal)
    return math.sqrt(max(0.0, low) * variance) * setting.step / setting.signal_bound
