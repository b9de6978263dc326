"""Distances and angles of updates that nobody reads, from their folds and exact output layers.

With signs drawn at random `E <S x, S y> = F <x, y>` (count-sketch; Charikar et al. 2002), so the folds divided by
`sqrt(F)`, followed by the exact output layer, stand for the update: inner products are unbiased, and norms within
1 % for one fold of 4,096 columns. All exhibits of a round are folded with the same signs.

Exhibits are integers, and so are their inner products: below 2^53 float64 holds them exactly whatever the order of
addition, and whatever follows from distances here comes out the same on every machine.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from defenses.errors import MissingEvidence
from defenses.evidence import Exhibit, Setting

Floats: TypeAlias = NDArray[np.float64]
Source: TypeAlias = Callable[[Setting], Exhibit]
"""Gives a trusted exhibit, folded with the signs of the setting: an update on public data, opened as a silo does."""


def points(setting: Setting, exhibits: Sequence[Exhibit]) -> Floats:
    """One row per exhibit, in model units: `step * [folds / sqrt(F), output]` (float64[n, F * width + output_size])."""
    rows = np.concatenate([_folds(exhibits) / np.sqrt(setting.folds), _outputs(exhibits)], axis=1)
    return np.asarray(rows * setting.step, dtype=np.float64)


def gram(setting: Setting, exhibits: Sequence[Exhibit]) -> Floats:
    """Inner products of the updates in squared quantisation steps (float64[n, n])."""
    folds, outputs = _folds(exhibits), _outputs(exhibits)
    return np.asarray(folds @ folds.T / setting.folds + outputs @ outputs.T, dtype=np.float64)


def squared_distances(setting: Setting, exhibits: Sequence[Exhibit]) -> Floats:
    """Squared Euclidean distances between the updates, in squared model units (float64[n, n])."""
    products = gram(setting, exhibits)
    norms = np.diag(products)
    return np.asarray(np.maximum(norms[:, None] + norms[None, :] - 2 * products, 0.0) * setting.step**2)


def cosines(products: Floats) -> Floats:
    """Cosines from inner products (float64[n, n]); a vector of length 0 has cosine 0 with all others and 1 with itself.

    The root is taken of the product of both squares, so that equal vectors have cosine 1 to the last bit.
    """
    squares = np.diag(products)
    scale = np.sqrt(np.outer(squares, squares))
    found = np.divide(products, scale, out=np.zeros_like(products), where=scale > 0)
    np.fill_diagonal(found, 1.0)
    return np.asarray(np.clip(found, -1.0, 1.0), dtype=np.float64)


def output_layers(setting: Setting, exhibits: Sequence[Exhibit], reader: str) -> Floats:
    """The exact output layers in model units (float64[n, output_size]).

    Raises:
        MissingEvidence: where the task does not open the output layer; names the rule that wanted to read it.
    """
    if not setting.output_size:
        raise MissingEvidence(f"{reader} reads the exact output layer, which this task does not open; choose another")
    return _outputs(exhibits) * setting.step


def _folds(exhibits: Sequence[Exhibit]) -> Floats:
    return np.stack([one.folds.ravel() for one in exhibits]).astype(np.float64)


def _outputs(exhibits: Sequence[Exhibit]) -> Floats:
    return np.stack([one.output for one in exhibits]).astype(np.float64)
