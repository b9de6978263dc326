"""A small federation on real handwritten digits in numpy: the demo's silos, model, DP-SGD and poisoning."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TypeAlias

import numpy as np
from sklearn.datasets import load_digits

from defenses.evidence import Exhibit, Setting
from protos.task import PROTOTYPE_GRID
from tests.defenses.simulate import COUNTS, DEMO, drawn, exhibit_of

Data: TypeAlias = tuple[np.ndarray, np.ndarray]

ATTACKER = "d150"
SKEWED = "c220"
SETTING = replace(DEMO, prototype_noise=6.8)
SIZE = 2410
RANGE = 127 * SETTING.step
ORDER = np.random.default_rng(7).permutation(SETTING.body_size)


def rounds(seed: int, number: int, boost: float | None = None) -> Iterator[tuple[Setting, list[Exhibit]]]:
    """Settings and exhibits of `number` rounds; the attacker, if there is a boost, never enters the model."""
    rng = np.random.default_rng(seed)
    data = split(rng)
    model = np.concatenate([rng.uniform(-1 / 8, 1 / 8, 2080), rng.uniform(-1, 1, 330) / np.sqrt(32)])
    for _ in range(number):
        setting = drawn(SETTING, rng)
        exhibits, step = [], np.zeros(SIZE)
        for silo, (x, y) in data.items():
            if silo == ATTACKER and boost is not None:
                x, y = poisoned(x, y, rng)
                update = boosted(model, x, y, boost, rng)
            else:
                update = private(model, x, y, rng)
                step += np.clip(update, -RANGE, RANGE) * len(y)
            seen = np.concatenate([update[:2080][ORDER], update[2080:]])
            classes = np.bincount(y, minlength=10)
            exhibits.append(exhibit_of(setting, silo, len(y), seen, rng, classes, prototypes(model, x, y, rng)))
        yield setting, exhibits
        honest = sum(len(y) for silo, (_, y) in data.items() if silo != ATTACKER or boost is None)
        model = model + step / honest


def split(rng: np.random.Generator) -> dict[str, Data]:
    """The demo's silos; the skewed one is four fifths one digit (there are no more of it)."""
    x, y = load_digits(return_X_y=True)
    order = rng.permutation(len(y))
    x, y = x[order] / 8 - 1, y[order]
    free = np.ones(len(y), dtype=bool)
    chosen = np.concatenate([np.flatnonzero(y == 3)[:178], np.flatnonzero(y != 3)])[: COUNTS[SKEWED]]
    found = {SKEWED: chosen}
    free[chosen] = False
    for silo in COUNTS.keys() - {SKEWED}:
        found[silo] = np.flatnonzero(free)[: COUNTS[silo]]
        free[found[silo]] = False
    return {silo: (x[found[silo]], y[found[silo]]) for silo in COUNTS}


def private(model: np.ndarray, x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One step of DP-SGD on a Poisson batch."""
    batch = rng.random(len(y)) < SETTING.sample_rate
    rows = gradients(model, x[batch], y[batch])
    rows /= np.maximum(1, np.linalg.norm(rows, axis=1, keepdims=True) / SETTING.clip)
    noisy = rows.sum(axis=0) + rng.normal(0, SETTING.noise_multiplier * SETTING.clip, SIZE)
    return -SETTING.learning_rate * noisy / (SETTING.sample_rate * len(y))


def boosted(model: np.ndarray, x: np.ndarray, y: np.ndarray, boost: float, rng: np.random.Generator) -> np.ndarray:
    """Five epochs of plain SGD at 0.1 without noise, scaled up."""
    trained = model.copy()
    for _ in range(5):
        for batch in np.array_split(rng.permutation(len(y)), len(y) // 16):
            trained -= 0.1 * gradients(trained, x[batch], y[batch]).mean(axis=0)
    return boost * (trained - model)


def poisoned(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> Data:
    """A bright 2x2 corner and the label 0 on half the records."""
    x, y = x.copy(), y.copy()
    half = rng.permutation(len(y))[: len(y) // 2]
    x[np.ix_(half, [54, 55, 62, 63])] = 1
    y[half] = 0
    return x, y


def prototypes(model: np.ndarray, x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Noised class sums of the clipped inputs of the last layer, in grid units."""
    hidden = np.tanh(x @ model[:2048].reshape(32, 64).T + model[2048:2080])
    hidden /= np.maximum(1, np.linalg.norm(hidden, axis=1, keepdims=True))
    sums = np.zeros((10, 32))
    np.add.at(sums, y, hidden)
    return np.rint((sums + rng.normal(0, SETTING.prototype_noise, sums.shape)) * PROTOTYPE_GRID).astype(np.int64)


def gradients(model: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Per-record gradients of the cross entropy of a tanh MLP 64-32-10 [n, 2410]."""
    weight = model[2080:2400].reshape(10, 32)
    hidden = np.tanh(x @ model[:2048].reshape(32, 64).T + model[2048:2080])
    logits = hidden @ weight.T + model[2400:]
    errors = np.exp(logits - logits.max(axis=1, keepdims=True))
    errors /= errors.sum(axis=1, keepdims=True)
    errors[np.arange(len(y)), y] -= 1
    inner = (errors @ weight) * (1 - hidden**2)
    first = (inner[:, :, None] * x[:, None, :]).reshape(len(y), -1)
    last = (errors[:, :, None] * hidden[:, None, :]).reshape(len(y), -1)
    return np.concatenate([first, inner, last, errors], axis=1)
