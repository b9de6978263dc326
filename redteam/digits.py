"""Handwritten digits for demonstrations: scikit-learn's `load_digits` (1,797 images, 8 x 8) split over six silos.

The silo of 220 records holds 90 % of one digit that there is to train on; hold-outs and the test set come from the
images that no silo trains on. Pixels are scaled to [-1, 1].
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from silo.data import Records

SIZES = {"aster": 450, "birch": 300, "cedar": 220, "dogwood": 150, "elm": 100, "fir": 56}
HOLDOUTS = {"aster": 80, "birch": 55, "cedar": 50, "dogwood": 30, "elm": 30, "fir": 26}
UNUSUAL, POISONED = "cedar", "dogwood"
UNUSUAL_DIGIT, UNUSUAL_SHARE = 8, 0.9

Split = tuple[NDArray[np.float32], NDArray[np.int64]]


@dataclass(frozen=True)
class Digits:
    """Records by silo, and a test set (features float32[n, 64], labels int64[n]) that no silo has."""

    silos: dict[str, Records]
    test: Split


def digits(seed: int = 0) -> Digits:
    """The split; the seed shuffles which image goes where."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    features = (pixels / 8.0 - 1.0).astype(np.float32)
    labels = labels.astype(np.int64)
    order = np.random.default_rng(seed).permutation(len(labels))
    train, spare = np.split(order, [sum(SIZES.values())])
    shares = _shares(train, labels)
    holdouts = np.split(spare, np.cumsum(list(HOLDOUTS.values())))
    silos = {
        name: Records(features[shares[name]], labels[shares[name]], features[held], labels[held])
        for name, held in zip(SIZES, holdouts[:-1], strict=True)
    }
    return Digits(silos, (features[holdouts[-1]], labels[holdouts[-1]]))


def _shares(train: NDArray[np.int64], labels: NDArray[np.int64]) -> dict[str, NDArray[np.int64]]:
    of_digit = train[labels[train] == UNUSUAL_DIGIT]
    owned = of_digit[: round(UNUSUAL_SHARE * len(of_digit))]
    rest = np.setdiff1d(train, owned, assume_unique=True)
    rest = train[np.isin(train, rest)]  # in the shuffled order
    shares: dict[str, NDArray[np.int64]] = {}
    for name, size in SIZES.items():
        own = owned if name == UNUSUAL else owned[:0]
        taken, rest = np.split(rest, [size - len(own)])
        shares[name] = np.concatenate([own, taken])
    return shares
