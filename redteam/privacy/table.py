"""Table I: every privacy attack at ε of ∞, 8 and 3, on MNIST, as rows."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from audit.accounting import task_charges
from protos.task import NANO
from redteam.attacks.parts import Features, Labels
from redteam.datasets import Dataset
from redteam.privacy import auditing, membership, properties, reconstruction
from redteam.privacy.bounds import advantage_bound, mechanism_bound
from redteam.privacy.reconstruction import Kind
from redteam.privacy.settings import Design, task_at
from redteam.rows import Row, over_seeds
from silo.data import Records
from silo.entropy import Entropy, OsEntropy
from silo.linear import LinearTrainer

EPSILONS = (math.inf, 8.0, 3.0)
TABLE = "I"
OVERFITTED = Design((784, 32, 10), rounds=2, steps=50, learning_rate=0.5)
ONE_ROUND = Design((784, 32, 10), steps=10, learning_rate=0.5)
ONE_STEP = Design((784, 64, 10))
AUDIT = auditing.Plan()
KINDS: dict[Kind, str] = {
    "analytic": "from the update, first layer",
    "update": "from the update, gradient inversion",
    "coordinator": "from sketch, output layer and prototypes",
    "prototypes": "from prototypes, linear decoder",
}


@dataclass(frozen=True)
class Sizes:
    """How much is done for each seed, and on which models.

    Attributes:
        overfitted: trained long on few records, so that it remembers them: membership.
        round: one round of a few steps: property inference.
        step: one step: reconstruction.
        pool: records of which each model for membership gets half.
        models: trained for membership, at each ε.
        silos: that property inference trains on and is tested on.
        images: reconstructed by each attack.
        public: records that the attacker has.
        audit: of the honest linear trainer.
    """

    overfitted: Design = OVERFITTED
    round: Design = ONE_ROUND
    step: Design = ONE_STEP
    pool: int = 200
    models: int = 16
    silos: tuple[int, int] = (80, 80)
    images: int = 4
    public: int = 5_000
    audit: auditing.Plan = AUDIT


def table_i(data: Dataset, seeds: Sequence[int], sizes: Sizes | None = None) -> Iterator[Row]:
    """All rows, attack by attack."""
    sizes = sizes or Sizes()
    for epsilon in EPSILONS:
        yield from _membership(data, seeds, sizes, epsilon)
    for epsilon in EPSILONS:
        yield from _properties(data, seeds, sizes, epsilon)
    for epsilon in EPSILONS:
        yield from _reconstruction(data, seeds, sizes, epsilon)
    yield _audit(seeds, sizes)


def _membership(data: Dataset, seeds: Sequence[int], sizes: Sizes, epsilon: float) -> Iterator[Row]:
    found = []
    for seed in seeds:
        task, model = task_at(epsilon, sizes.overfitted)
        random = np.random.default_rng(seed)
        pool = _part(data, random, sizes.pool)
        found.append(membership.infer(task, model, pool, sizes.models, random, OsEntropy()))
    name = f"membership (LiRA), {_shown(epsilon)}"
    bound = advantage_bound(epsilon, sizes.overfitted.delta)
    yield over_seeds(TABLE, name, "advantage", f"<= {bound:.3f}", [one.guesses.advantage for one in found])
    yield over_seeds(TABLE, name, "TPR at FPR 0.01", "", [one.true_positive_rate(0.01)[0] for one in found])
    if not math.isinf(epsilon):
        sharp = mechanism_bound(task_charges(task))
        yield Row(TABLE, name, "bound of the noise law", "", sharp, sharp, sharp)


def _properties(data: Dataset, seeds: Sequence[int], sizes: Sizes, epsilon: float) -> Iterator[Row]:
    what, found = properties.Property(), []
    for seed in seeds:
        task, model = task_at(epsilon, sizes.round)
        random = np.random.default_rng(seed)
        features, labels = _part(data, random, 2 * sizes.public)
        half = sizes.public
        parts = (features[:half], labels[:half]), (features[half:], labels[half:])
        found.append(properties.infer(task, model, parts, what, sizes.silos, random, OsEntropy()))
    for view in properties.VIEWS:
        name = f"class share from {view}, {_shown(epsilon)}"
        yield over_seeds(TABLE, name, "advantage", "", [one[view].advantage for one in found])


def _reconstruction(data: Dataset, seeds: Sequence[int], sizes: Sizes, epsilon: float) -> Iterator[Row]:
    task, model = task_at(epsilon, sizes.step)
    for kind, words in KINDS.items():
        attacked, plain = [], []
        for seed in seeds:
            random = np.random.default_rng(seed)
            features, labels = _part(data, random, sizes.public + 1_000)
            public, rest = features[1_000:], (features[:1_000], labels[:1_000])
            silos = [_alone(rest, place, kind) for place in range(sizes.images)]
            images = [reconstruction.attack(kind, task, model, own, 0, public, OsEntropy()) for own in silos]
            attacked.append(float(np.mean([one.attack for one in images])))
            plain.append(float(np.mean([one.mean for one in images])))
        goal = "" if math.isinf(epsilon) else f"<= {np.mean(plain):.1f}"
        name = f"image {words}, {_shown(epsilon)}"
        yield over_seeds(TABLE, name, "PSNR in dB", goal, attacked)
        yield over_seeds(TABLE, name, "mean image's PSNR", "", plain)


def _alone(data: tuple[Features, Labels], place: int, kind: Kind) -> tuple[Features, Labels]:
    """A silo whose first record is that at `place`: alone, or for prototypes among 60 of other classes."""
    features, labels = data
    others = np.flatnonzero(labels != labels[place])[:60] if kind == "prototypes" else np.empty(0, dtype=np.int64)
    own = np.concatenate([[place], others])
    return features[own], labels[own]


def _audit(seeds: Sequence[int], sizes: Sizes) -> Row:
    def build(records: Records, entropy: Entropy) -> LinearTrainer:
        return LinearTrainer(records.features.shape[1], auditing.CLASSES, records, entropy)

    verdicts = [auditing.audit(build, sizes.audit, OsEntropy(), seed) for seed in seeds]
    goal = f"<= {verdicts[0].accounted:.2f}"
    name = f"audit of the honest trainer, delta {sizes.audit.delta_nano / NANO:g}"
    return over_seeds(TABLE, name, "epsilon proved", goal, [one.proved for one in verdicts])


def _part(data: Dataset, random: np.random.Generator, number: int) -> tuple[Features, Labels]:
    chosen = random.permutation(len(data.labels))[:number]
    return data.features[chosen], data.labels[chosen]


def _shown(epsilon: float) -> str:
    return "no DP" if math.isinf(epsilon) else f"epsilon {epsilon:g}"
