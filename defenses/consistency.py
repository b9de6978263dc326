"""Suspicion from the update itself: a signal that is long within the law, or that no class prototype explains.

The gradient of the output layer's weight has the embeddings of records as its rows' directions, so a row of an honest
update lies mostly in the span of the class prototypes; what a trigger teaches lies elsewhere. Both scores
are lower confidence limits of a length, in units of the signal `lr*C*steps` that clipping allows: a silo whose noise
hides its signal scores 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from defenses.evidence import Exhibit, Integers, Setting
from defenses.laws import counts_of, noise_of
from defenses.prototypes import Means

Floats = NDArray[np.float64]

SINGULAR = 1e-6
"""Part of a prototype's energy off the ones before it, from which equations are solved without loss."""
_TOGETHER = 64
"""Silos whose bases are in memory at once."""
CONFIDENCE = 3.0
"""Deviations below the estimate; the chance of more is a thousandth."""


def signal_lengths(setting: Setting, exhibits: Sequence[Exhibit]) -> Floats:
    """Per silo the lower limit of its signal's length in the output layer; 0 where it is not opened (float64[n])."""
    if not setting.output_size:
        return np.zeros(len(exhibits))
    energies = np.array([float(np.square(one.output.astype(np.float64)).sum()) for one in exhibits])
    return _lengths(setting, exhibits, energies, np.full(len(exhibits), setting.output_size))


def excess(lengths: Floats) -> Floats:
    """What each length has over the median of the others: a length that all silos share is the model's, not theirs."""
    others = len(lengths) - 1
    if others < 1:
        return np.zeros(len(lengths))
    order = np.argsort(lengths, kind="stable")
    ranks = np.empty_like(order)
    ranks[order] = np.arange(len(lengths))
    # Whoever is left out moves all above it down by one place.
    low, high = ((middle + (middle >= ranks)) for middle in ((others - 1) // 2, others // 2))
    return np.asarray(lengths - (lengths[order[low]] + lengths[order[high]]) / 2, dtype=np.float64)


def unexplained_lengths(setting: Setting, exhibits: Sequence[Exhibit], means: Means) -> Floats:
    """Per silo the lower limit of the length of its output weight's update off the span of the prototypes.

    The span is of the consensus of the other silos and, where a quarter of the embedding's dimensions stays free,
    of the silo's own prototypes too. Returns float64[n] in units of `lr*C*steps`.
    """
    energies, free = np.zeros(len(exhibits)), np.zeros(len(exhibits), dtype=np.int64)
    judged = np.flatnonzero(means.without_each.known.any(axis=1)) if setting.output_size else np.zeros(0, dtype=int)
    for start in range(0, len(judged), _TOGETHER):
        silos = judged[start : start + _TOGETHER]
        weights = np.stack([_weight(setting, exhibits[silo]) for silo in silos])
        explained, ranks = _explained(weights, *_rows(setting, means, silos))
        energies[silos] = np.maximum(np.square(weights).sum(axis=(1, 2)) - explained, 0.0)
        free[silos] = setting.embedding - ranks
    lengths = _lengths(setting, exhibits, energies, np.maximum(setting.classes * free, 1))
    return np.where(free > 0, lengths, 0.0)


def _rows(setting: Setting, means: Means, silos: Integers) -> tuple[Floats, NDArray[np.bool_]]:
    """The prototypes that explain each silo, float64[m, r, embedding], and which of them are used; others are 0."""
    others = means.without_each
    rows = np.concatenate([others.centre[silos], means.values[silos]], axis=1)
    used = np.concatenate([others.known[silos], means.known[silos]], axis=1)
    used &= used.cumsum(axis=1) <= setting.embedding * 3 // 4
    return np.where(used[..., None], rows, 0.0), used


def _explained(weights: Floats, rows: Floats, used: NDArray[np.bool_]) -> tuple[Floats, Integers]:
    """Energy of weights [m, classes, embedding] in the span of rows [m, r, embedding], and ranks: both of length m."""
    gram, cross = rows @ rows.transpose(0, 2, 1), rows @ weights.transpose(0, 2, 1)
    filled = gram + (~used)[:, None, :] * np.eye(rows.shape[1])
    if _independent(filled):
        return np.asarray((cross * np.linalg.solve(filled, cross)).sum(axis=(1, 2))), used.sum(axis=1)
    values, vectors = np.linalg.eigh(gram)
    kept = values > 1e-12 * values.max(axis=1, initial=1e-300, keepdims=True)
    scale = np.where(kept, 1 / np.where(kept, values, 1.0), 0.0)
    return np.asarray((scale[..., None] * np.square(vectors.transpose(0, 2, 1) @ cross)).sum(axis=(1, 2))), kept.sum(
        axis=1
    )


def _independent(gram: Floats) -> bool:
    """Whether all Gram matrices [m, r, r] are far from singular, so that there is no need of eigenvalues."""
    try:
        pivots = np.square(np.diagonal(np.linalg.cholesky(gram), axis1=1, axis2=2))
    except np.linalg.LinAlgError:
        return False
    return bool((pivots > SINGULAR * np.diagonal(gram, axis1=1, axis2=2)).all())


def _weight(setting: Setting, exhibit: Exhibit) -> Floats:
    weight = exhibit.output[: setting.classes * setting.embedding].reshape(setting.classes, setting.embedding)
    return np.asarray(weight, dtype=np.float64)


def _lengths(setting: Setting, exhibits: Sequence[Exhibit], energies: Floats, degrees: NDArray[np.int64]) -> Floats:
    variances = noise_of(setting, counts_of(exhibits)).most
    signals = np.maximum(0.0, energies / variances - degrees)
    low = signals - CONFIDENCE * np.sqrt(2 * degrees + 4 * signals)
    return np.asarray(np.sqrt(np.maximum(0.0, low) * variances) * setting.step / setting.signal_bound, dtype=np.float64)
