"""Exhibits of simulated silos: DP-SGD noise and any signal, quantised, folded and opened as a silo does it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from defenses.evidence import Exhibit, Setting
from protos.task import PROTOTYPE_GRID

COUNTS = {"a450": 450, "b300": 300, "c220": 220, "d150": 150, "e100": 100, "f56": 56}
DEMO = Setting(
    learning_rate=4.0, clip=1.0, noise_multiplier=2.37, sample_rate=0.5, steps=1, step=2.0**-6,
    column_counts=np.array([64] + [63] * 32), folds=8, signs=np.ones((8, 64), dtype=np.int8),
    body_size=2080, output_size=330, embedding=32, classes=10, prototype_clip=1.0, prototype_noise=0.0,
    floor=0.5, cap=2.0, total_weight=1024, fdr=0.01,
)  # fmt: skip


def drawn(setting: Setting, rng: np.random.Generator) -> Setting:
    """The setting with fresh signs."""
    shape = setting.folds, setting.chunks
    return replace(setting, signs=rng.choice(np.array([-1, 1], dtype=np.int8), shape))


def noise_std(setting: Setting, count: int) -> float:
    """Deviation of one coordinate of an honest update."""
    per_step = setting.learning_rate * setting.noise_multiplier * setting.clip / (setting.sample_rate * count)
    return float(per_step * np.sqrt(setting.steps))


def quantised(update: np.ndarray, setting: Setting, rng: np.random.Generator) -> np.ndarray:
    """Stochastic rounding to integers within ±127."""
    return np.clip(np.floor(update / setting.step + rng.random(update.shape)), -127, 127).astype(np.int64)


def folded(setting: Setting, body: np.ndarray) -> np.ndarray:
    """The signed folds of the quantised body, chunk after chunk."""
    slots = np.zeros(setting.chunks * setting.width, dtype=np.int64)
    lengths = setting.column_counts
    filled = (np.arange(setting.chunks)[:, None] < lengths[None, :]).ravel()
    slots[np.flatnonzero(filled)] = body
    return setting.signs.astype(np.int64) @ slots.reshape(setting.chunks, setting.width)


def exhibit_of(
    setting: Setting, silo: str, count: int, update: np.ndarray, rng: np.random.Generator,
    classes: np.ndarray | None = None, prototypes: np.ndarray | None = None,
) -> Exhibit:  # fmt: skip
    """What a silo shows of `update` (body first, then output layer; noise is already in it)."""
    whole = quantised(update, setting, rng)
    if classes is None:
        classes = np.full(setting.classes, max(1, count // setting.classes))
    body, output = whole[: setting.body_size], whole[setting.body_size :]
    return Exhibit(silo, count, classes, folded(setting, body), output, prototypes)


def honest(
    setting: Setting, silo: str, count: int, rng: np.random.Generator, signal: np.ndarray | float = 0.0
) -> Exhibit:
    """An honest silo's exhibit with the given signal."""
    size = setting.body_size + setting.output_size
    update = signal + rng.normal(0, noise_std(setting, count), size)
    return exhibit_of(setting, silo, count, update, rng)


def direction(size: int, rng: np.random.Generator) -> np.ndarray:
    """A random unit vector."""
    vector = rng.normal(size=size)
    return vector / np.linalg.norm(vector)


def noised_sums(
    setting: Setting, means: np.ndarray, classes: np.ndarray, rng: np.random.Generator, spread: float = 0.5
) -> np.ndarray:
    """Class sums of embeddings around `means` [classes, embedding], clipped to one clip norm each, noised, integer."""
    sums = np.zeros_like(means)
    for label, count in enumerate(classes):
        records = means[label] + rng.normal(0, spread / np.sqrt(setting.embedding), (count, setting.embedding))
        records /= np.maximum(1.0, np.linalg.norm(records, axis=1, keepdims=True))
        sums[label] = records.sum(axis=0)
    noise = rng.normal(0, setting.prototype_noise, means.shape)
    return np.rint((sums + noise) * PROTOTYPE_GRID).astype(np.int64)
