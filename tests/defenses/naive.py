"""Updates as plain lists of numbers, for oracles that share no code with the rules, and small rounds to judge."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from defenses.evidence import Exhibit, Setting
from tests.defenses.simulate import DEMO, drawn, exhibit_of, noise_std, noised_sums

SMALL = replace(
    DEMO, column_counts=np.array([16] * 6 + [15] * 2), folds=4, signs=np.ones((4, 16), dtype=np.int8),
    body_size=126, embedding=6, classes=4, output_size=28, prototype_noise=3.0,
)  # fmt: skip
Vector = list[float]


def vector(setting: Setting, exhibit: Exhibit) -> Vector:
    """The sketched update: all folds over the root of their number, then the output layer."""
    found = []
    for fold in exhibit.folds.tolist():
        found += [setting.step * value / math.sqrt(setting.folds) for value in fold]
    return found + [setting.step * value for value in exhibit.output.tolist()]


def dot(one: Sequence[float], other: Sequence[float]) -> float:
    return math.fsum(a * b for a, b in zip(one, other, strict=True))


def apart(one: Sequence[float], other: Sequence[float]) -> float:
    """Squared distance."""
    return math.fsum((a - b) ** 2 for a, b in zip(one, other, strict=True))


def cosine(one: Sequence[float], other: Sequence[float]) -> float:
    lengths = math.sqrt(dot(one, one)) * math.sqrt(dot(other, other))
    return dot(one, other) / lengths if lengths else 0.0


def silo(number: int) -> str:
    return f"silo{number:02d}"


def exhibits(seed: int, number: int, setting: Setting = SMALL, common: float = 0.0) -> tuple[Setting, list[Exhibit]]:
    """A round with fresh signs: see `folded_with`."""
    setting = drawn(setting, np.random.default_rng(seed))
    return setting, folded_with(setting, seed, number, common)


def folded_with(setting: Setting, seed: int, number: int, common: float) -> list[Exhibit]:
    """Silos of unequal size: noise of DP-SGD, a shared signal of `common` times each one's noise, prototypes."""
    rng = np.random.default_rng([seed, 1])
    size = setting.body_size + setting.output_size
    shared = np.random.default_rng(0).normal(size=size)
    centres = rng.normal(0, 0.3, (setting.classes, setting.embedding))
    found = []
    for place in range(number):
        count = int(rng.integers(60, 400))
        update = (rng.normal(size=size) + common * shared) * noise_std(setting, count)
        classes = np.full(setting.classes, count // setting.classes)
        sums = noised_sums(setting, centres, classes, rng)
        found.append(exhibit_of(setting, silo(place), count, update, rng, classes, sums))
    return found


def by_hand(*rows: Sequence[int], count: int = 100, step: float = 1.0) -> tuple[Setting, list[Exhibit]]:
    """Silos a, b, c and so on whose whole updates are the rows: nothing is under the folds."""
    setting = replace(
        DEMO, step=step, folds=1, signs=np.ones((1, 1), dtype=np.int8), column_counts=np.array([1]), body_size=1,
        output_size=len(rows[0]),
    )  # fmt: skip
    classes = np.full(setting.classes, count // setting.classes)
    return setting, [
        Exhibit("abcdefghij"[place], count, classes, np.zeros((1, 1), dtype=np.int64), np.array(row), None)
        for place, row in enumerate(rows)
    ]
