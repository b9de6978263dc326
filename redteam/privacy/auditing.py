"""Audits of a trainer: does it leak more than the accountant says, and is its noise what the plan orders?

Canaries (Jagielski, Ullman and Oprea 2020; Nasr et al. 2023) are records whose gradients nobody else's touch: each has
a feature of its own, large enough that its gradient is clipped to the full norm C. Many fit into one run (Steinke, Nasr
and Jagielski 2023). The auditor sends two models under which a canary's gradient points in different directions, sees
the updates of both rounds, and guesses from two statistics who was in: the sum of the projections, which is the best
guess about an honest build, and the projection of their *difference*, in which noise that is used twice cancels.
From right and wrong guesses follows a lower bound on ε (Clopper and Pearson), to be compared with the accounted one.

The bound takes the guesses as independent. In an honest build they are: orthogonal gradients, independent noise. So an
honest build is accused with at most the stated probability.

Noise that repeats in every step of one round leaks *less* than accounted, as it adds up faster than honest noise: no
bound on ε finds it. `noise_evidence` does, from the law of the sum itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from audit.accounting import epsilon
from protos.messages import Charge
from protos.task import MICRO, NANO, Training
from redteam.attacks.parts import Floats
from redteam.privacy.bounds import Guesses, epsilon_at_least
from silo.data import Records
from silo.entropy import Entropy
from silo.trainer import Trainer

Build = Callable[[Records, Entropy], Trainer]
"""Makes the trainer under audit: of softmax regression from `CANARIES` inputs to three classes, flat as in
`silo.linear` (weight `[classes, inputs]`, then bias)."""

CLASSES = 3
LOUD = 30.0
"""The canaries' feature: its gradient is far longer than C, and only 1/30 of it points into the shared bias."""
_PUSH = 20.0
_COUNT = 1e6
"""Public count and rate keep the model where it is over the steps, so that a canary's gradient does not turn."""


@dataclass(frozen=True)
class Plan:
    """An audit's size: `canaries` in each of `runs` runs, each in or out by a coin; noise multiplier and steps.

    δ, in billionths, is large for a release but as good as any for an audit: the accountant claims its ε at every δ,
    and few guesses suffice to refute it at this one.
    """

    canaries: int = 1000
    runs: int = 50
    noise: float = 2.0
    steps: int = 1
    delta_nano: int = 3 * NANO // 100
    miss: float = 1e-5

    @property
    def training(self) -> Training:
        """Full batches, clip norm 1, and a rate at which the model stays put."""
        return Training(MICRO, self.steps, MICRO, MICRO, round(self.noise * MICRO))


@dataclass(frozen=True)
class Verdict:
    """What an audit found: the ε that two rounds prove, the one that is accounted for, by which statistic."""

    proved: float
    accounted: float
    statistic: str

    @property
    def caught(self) -> bool:
        """Whether the build leaks more than it says."""
        return self.proved > self.accounted


def audit(build: Build, plan: Plan, entropy: Entropy, seed: int) -> Verdict:
    """Audit a build over two rounds.

    Args:
        build: the trainer under audit.
        plan: sizes and noise.
        entropy: of the trainer's noise.
        seed: of the canaries' coins, which are the auditor's and no secret of the silo.
    """
    random = np.random.default_rng(seed)
    inside = random.random((plan.runs, plan.canaries)) < 0.5
    seen = [_statistics(build, plan, row, entropy) for row in inside]
    charge = Charge("training", plan.training.noise_micro, MICRO, 2 * plan.steps)
    accounted = epsilon((charge,), plan.delta_nano) / MICRO
    proofs = [
        (_proved(np.stack([one[place] for one in seen]), inside, plan, random), name)
        for place, name in enumerate(("sum", "difference"))
    ]
    proved, name = max(proofs)
    return Verdict(proved, accounted, name)


def noise_evidence(build: Build, plan: Plan, entropy: Entropy) -> float:
    """Two-sided p-value of the noise in one round without canaries: a chi-square over all weights."""
    from scipy import stats

    update = _update(build, plan, np.zeros(plan.canaries, dtype=bool), _models(plan)[0], entropy)
    # Without records every step adds noise alone: variance steps * (σC)² in units of lr / expected batch.
    power = float(np.square(update).sum()) / (plan.steps * plan.noise**2)
    below = float(stats.chi2.cdf(power, update.size))
    return min(1.0, 2 * min(below, 1 - below))


def _statistics(build: Build, plan: Plan, inside: NDArray[np.bool_], entropy: Entropy) -> tuple[Floats, Floats]:
    """Per canary the sum of projections and that of the difference, in units of C; float64[canaries] each."""
    first, second = (_update(build, plan, inside, model, entropy) for model in _models(plan))
    one, other = _direction(1), _direction(2)
    apart = (one - other) / np.linalg.norm(one - other)
    return one @ first + other @ second, apart @ (first - second)


def _update(
    build: Build, plan: Plan, inside: NDArray[np.bool_], model: NDArray[np.float32], entropy: Entropy
) -> Floats:
    """Minus the update in units of lr / expected batch: the noised sum of clipped gradients, float64[classes, inputs].

    The trainer is made afresh, as by a silo that restarts, on the canaries that are in and a record of zeros, since
    a silo has at least one record.
    """
    features = np.vstack([LOUD * np.eye(plan.canaries, dtype=np.float32)[inside], np.zeros((1, plan.canaries))])
    labels = np.zeros(len(features), dtype=np.int64)
    features = features.astype(np.float32)
    trainer = build(Records(features, labels, features[-1:], labels[-1:]), entropy)
    update = trainer.train(model, plan.training, round(_COUNT))
    weights: Floats = update[: CLASSES * plan.canaries].reshape(CLASSES, plan.canaries)
    return -weights * _COUNT


def _models(plan: Plan) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Two models that take every canary, whose class is 0, for a 1, and for a 2."""
    first, second = (np.zeros(CLASSES * (plan.canaries + 1), dtype=np.float32) for _ in range(2))
    first[-CLASSES + 1], second[-CLASSES + 2] = _PUSH, _PUSH
    return first, second


def _direction(taken: int) -> Floats:
    """Unit gradient of the scores of a canary that is taken for that class."""
    residual = np.zeros(CLASSES)
    residual[0], residual[taken] = -1.0, 1.0
    return residual / math.sqrt(2)


def _proved(values: Floats, inside: NDArray[np.bool_], plan: Plan, random: np.random.Generator) -> float:
    """The lower bound on ε from one statistic: the threshold is chosen on one half, the guesses are the other's."""
    half = random.random(values.shape) < 0.5
    grid = np.quantile(values[half], np.linspace(0.002, 0.998, 200))
    # Two statistics share the probability of a false accusation.
    bounds = [epsilon_at_least(_guesses(values[half], inside[half], t), plan.delta_nano / NANO, 0.1) for t in grid]
    threshold = float(grid[int(np.argmax(bounds))])
    guesses = _guesses(values[~half], inside[~half], threshold)
    return epsilon_at_least(guesses, plan.delta_nano / NANO, plan.miss / 2)


def _guesses(values: Floats, inside: NDArray[np.bool_], threshold: float) -> Guesses:
    said = values > threshold
    return Guesses(int((said & inside).sum()), int(inside.sum()), int((said & ~inside).sum()), int((~inside).sum()))
