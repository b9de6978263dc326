"""How global prototypes are made from sent ones: the mean, FedPD's way, and by the Guard's evidence on prototypes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from defenses import aggregation, registry
from defenses.decide import decide
from defenses.evidence import Exhibit, History, Scored, Setting, fact
from defenses.guard import Guard
from defenses.prototypes import agreements, deviations, means_of, strain
from defenses.weights import integer_weights
from protos.task import PROTOTYPE_GRID
from redteam.attacks.parts import Floats

TOTAL_WEIGHT = 1024


@dataclass(frozen=True)
class Sent:
    """All releases of one round.

    Attributes:
        silos: names.
        sums: released class sums, int64[n, classes, width], in units of `unit`.
        counts: released class counts, int64[n, classes].
        unit: what one integer unit of a sum is worth.
        noise: multiplier of the noise on prototypes and on counts; 0 for none.
    """

    silos: tuple[str, ...]
    sums: NDArray[np.int64]
    counts: NDArray[np.int64]
    unit: float
    noise: float

    @property
    def weights(self) -> Floats:
        """Records behind each prototype, float64[n, classes]; a prototype without any counts as one record."""
        sent = np.abs(self.sums).sum(axis=2) > 0
        return np.where(sent, np.maximum(self.counts, 1), 0).astype(np.float64)

    @property
    def means(self) -> Floats:
        """Prototypes in the embedding's units, float64[n, classes, width]; zero where nothing was sent."""
        return np.asarray(self.sums * self.unit / np.maximum(self.weights, 1)[..., None], dtype=np.float64)


class Combined(NamedTuple):
    """Global prototypes and what became of the silos.

    Attributes:
        consensus: float64[classes, width].
        factors: by silo, beside its plain weight.
        suspected: silos whose weight was lowered on suspicion.
    """

    consensus: Floats
    factors: dict[str, float]
    suspected: frozenset[str] = frozenset()


Combine = Callable[[Sent], Combined]


def mean(sent: Sent) -> Combined:
    """FedProto's own, eq. 6: the mean by record counts."""
    return Combined(_mean(sent, np.ones(len(sent.silos))), dict.fromkeys(sent.silos, 1.0))


def fedpd(sent: Sent) -> Combined:
    """The cosine-robust mean in FedPD's style (`defenses.robust.cosine_prototypes`), class by class."""
    rule, random = aggregation.get("fedpd"), np.random.default_rng(0)
    means, weights = sent.means, sent.weights
    centre = np.zeros(means.shape[1:])
    for label in range(len(centre)):
        who = weights[:, label] > 0
        if who.any():
            centre[label] = rule(means[who, label], weights[who, label], 0, random)
    return Combined(centre, dict.fromkeys(sent.silos, 1.0))


class PrototypeGuard(Guard):
    """The Guard where only prototypes are sent: deviation and agreement, which lower weights to the floor.

    Embeddings of personal models differ along few directions, so that z-scores of honest silos are wider than one.
    """

    name = "guard-prototypes"

    def score(
        self, setting: Setting, exhibits: Sequence[Exhibit], history: History | None = None
    ) -> tuple[Scored, ...]:
        """The two suspicions on prototypes, in widths that they have here; no law speaks of prototypes."""
        means = means_of(setting, exhibits)
        width = strain(setting, means)
        columns = {"prototype": deviations(setting, means) / width, "agreement": agreements(setting, means) / width}
        return tuple(
            Scored(one.silo, one.count, tuple(fact(name, column[place]) for name, column in columns.items()))
            for place, one in enumerate(exhibits)
        )


def guard(sent: Sent) -> Combined:
    """The mean with the weights that the Guard's evidence on prototypes gives, under floor and cap of the policy."""
    setting, exhibits = _setting(sent), _exhibits(sent)
    with registry.registered(PrototypeGuard()):
        judged = {one.silo: one for one in decide(setting, exhibits, PrototypeGuard.name, {})}
    counts = {one.silo: one.count for one in exhibits}
    plain = integer_weights(counts, {}, setting.floor, setting.cap, TOTAL_WEIGHT)
    factors = {silo: judged[silo].weight / max(1, plain[silo]) for silo in sent.silos}
    suspected = frozenset(silo for silo, one in judged.items() if one.verdict == "suspected")
    return Combined(_mean(sent, np.array([factors[silo] for silo in sent.silos])), factors, suspected)


COMBINATIONS: dict[str, Combine] = {"fedpd": fedpd, "guard": guard, "plain": mean}
"""Defences of the mode `personal`, by name."""


def _mean(sent: Sent, factors: Floats) -> Floats:
    weights = sent.weights * factors[:, None]
    total = np.maximum(weights.sum(axis=0), 1e-12)
    return np.asarray((weights[..., None] * sent.means).sum(axis=0) / total[:, None], dtype=np.float64)


def _setting(sent: Sent) -> Setting:
    """A round without an update: no folds, no output layer."""
    classes, width = sent.sums.shape[1:]
    return Setting(
        learning_rate=1.0, clip=1.0, noise_multiplier=1.0, sample_rate=1.0, steps=1, step=1.0,
        column_counts=np.zeros(0, dtype=np.int64), folds=0, signs=np.ones((0, 0), dtype=np.int8),
        body_size=0, output_size=0, embedding=width, classes=classes,
        prototype_clip=sent.unit * PROTOTYPE_GRID, prototype_noise=max(sent.noise, 1e-6),
        floor=0.5, cap=2.0, total_weight=TOTAL_WEIGHT, fdr=0.01, count_noise=sent.noise,
    )  # fmt: skip


def _exhibits(sent: Sent) -> list[Exhibit]:
    none = np.zeros((0, 0), dtype=np.int64)
    return [
        Exhibit(silo, max(1, int(counts.sum())), counts.astype(np.int64), none, none.ravel(), sums)
        for silo, counts, sums in zip(sent.silos, sent.counts, sent.sums, strict=True)
    ]
