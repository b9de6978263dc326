"""A stand-in for `defenses.attribution` until it is merged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from defenses.evidence import Setting
from protos.task import MICRO


@dataclass(frozen=True, eq=False)
class PastRound:
    silos: tuple[str, ...]
    noise: NDArray[np.float64]
    table: NDArray[np.float64]

    @classmethod
    def of(cls, setting: Setting, counts: Mapping[str, int], table: NDArray[np.int64]) -> PastRound:
        std = [
            setting.learning_rate
            * setting.noise_multiplier
            * setting.clip
            * setting.steps**0.5
            / (setting.sample_rate * count)
            / setting.step
            for count in counts.values()
        ]
        return cls(tuple(counts), np.array(std), table / MICRO)


@dataclass(frozen=True)
class Attributed:
    silo: str
    x_micro: int
    z_micro: int
    convicted: bool


def attribute(rounds: Sequence[PastRound], target: int, level_micro: int) -> tuple[Attributed, ...]:
    silos = sorted({silo for one in rounds for silo in one.silos})
    rows, stds = [], []
    for silo in silos:
        mine = [
            (one.table[one.silos.index(silo)], one.noise[one.silos.index(silo)]) for one in rounds if silo in one.silos
        ]
        rows.append(sum(row for row, _ in mine) / len(mine) ** 0.5)
        stds.append((sum(std**2 for _, std in mine) / len(mine) + 0.25) ** 0.5)
    x, s = np.array(rows), np.array(stds)
    others = np.delete(x, target, axis=1) - np.median(np.delete(x, target, axis=1), axis=0)
    tau2 = max(0.0, float(np.median(others**2) - np.median(s**2)))
    z = (x[:, target] - max(0.0, float(np.median(x[:, target])))) / np.sqrt(s**2 + tau2)
    limit = float(norm.isf(level_micro / MICRO / len(silos)))
    return tuple(
        Attributed(silo, round(x[i, target] * MICRO), round(z[i] * MICRO), bool(z[i] > limit))
        for i, silo in enumerate(silos)
    )
