"""The one privacy accountant: Rényi differential privacy of all channels of a task, composed.

Silos solve noise and keep their ledgers with it, the auditor recomputes every ε from the charges in the log. A charge
is the Gaussian mechanism behind a Poisson sample (rate below 1) or on all records (rate 1), for neighbours that differ
by one record added or removed. Counts, prototypes and evaluations use the discrete Gaussian, whose Rényi divergence at
integer shifts is at most the continuous one's for the same σ (Canonne, Kamath, Steinke 2020, Proposition 5), so the
same curve bounds them. Composition of the curves and conversion to (ε, δ) are dp-accounting's (Mironov 2017; Mironov,
Talwar, Zhang 2019). All figures are rounded up. Training and hold-out records are disjoint, but their charges are added
all the same: one number per silo then covers both.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from functools import lru_cache
from typing import TYPE_CHECKING

from protos.messages import Charge
from protos.task import MICRO, NANO, Budget, PrototypeRule, Task, Training

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MAX_TRAINING_NOISE_MICRO = 1_000 * MICRO
"""More noise than this teaches nothing, so that a target that needs it is called impossible."""

_MIN_TRAINING_NOISE_MICRO = MICRO // 10
# Between 1 and 3 the series of the sampled Gaussian often fails to converge; those orders matter only above ε = 12.
_ORDERS = (2.0, *(3 + i / 10 for i in range(80)), *range(11, 64), 128.0, 256.0, 512.0, 1024.0)

_MAX_EPSILON_MICRO = 2**53 - 1


class ImpossibleTarget(Exception):
    """Raised when no training noise meets the budget; raise ε to `least_epsilon_micro` or the other channels' noise."""

    def __init__(self, budget: Budget, least_epsilon_micro: int) -> None:
        least = math.ceil(least_epsilon_micro / 1000) / 1000  # three decimals, rounded up
        super().__init__(
            f"epsilon {budget.epsilon_micro / MICRO:g} at delta {budget.delta_nano / NANO:g} cannot be met: the least "
            f"possible epsilon of this task is {least:.3f}; raise epsilon, raise the noise of prototypes, evaluation "
            "or counts, or plan fewer rounds"
        )
        self.least_epsilon_micro = least_epsilon_micro


def epsilon(charges: Iterable[Charge], delta_nano: int) -> int:
    """The ε, in millionths and rounded up, that all `charges` together spend at δ.

    Args:
        charges: releases on the same records, in any order and of any channels.
        delta_nano: δ in billionths.
    """
    steps: dict[tuple[int, int], int] = {}
    for charge in charges:
        law = (charge.noise_micro, charge.sample_rate_micro)
        steps[law] = steps.get(law, 0) + charge.steps
    # Sorted, because the ledger and the auditor must add floats in the same order.
    return _epsilon(tuple(sorted(steps.items())), delta_nano)


def counts_charge(task: Task) -> Charge:
    """The charge of the enrolment counts, once per task."""
    return Charge("counts", task.counts_noise_micro, MICRO, 1)


def round_charges(
    training: Training, prototypes: PrototypeRule | None, evaluation_noise_micro: int | None
) -> tuple[Charge, ...]:
    """What one round costs a silo; prototypes and evaluation are None in rounds without (as in the plan)."""
    charges = [Charge("training", training.noise_micro, training.sample_rate_micro, training.steps)]
    if prototypes is not None:
        charges.append(Charge("prototypes", prototypes.noise_micro, MICRO, 1))
    if evaluation_noise_micro is not None:
        charges.append(Charge("evaluation", evaluation_noise_micro, MICRO, 1))
    return tuple(charges)


def prototypes_in_round(rule: PrototypeRule | None, number: int) -> PrototypeRule | None:
    """The rule of round `number` (from 1): rounds 1, 1 + every, 1 + 2·every and so on release prototypes."""
    return rule if rule is not None and (number - 1) % rule.every == 0 else None


def evaluation_in_round(task: Task, number: int) -> int | None:
    """The evaluation's noise multiplier, in millionths, in round `number` (from 1): rounds every, 2·every and so on."""
    return task.evaluation_noise_micro if number % task.evaluation_every == 0 else None


def task_charges(task: Task) -> tuple[Charge, ...]:
    """All charges of a silo that takes part in every round."""
    training = task.training
    charges = [
        counts_charge(task),
        Charge("training", training.noise_micro, training.sample_rate_micro, training.steps * task.rounds),
    ]
    evaluations = task.rounds // task.evaluation_every
    if evaluations:
        charges.append(Charge("evaluation", task.evaluation_noise_micro, MICRO, evaluations))
    if task.prototypes is not None:
        releases = -(-task.rounds // task.prototypes.every)
        charges.append(Charge("prototypes", task.prototypes.noise_micro, MICRO, releases))
    return tuple(charges)


def task_epsilon(task: Task) -> int:
    """The ε, in millionths and rounded up, of a silo that takes part in every round."""
    return epsilon(task_charges(task), task.budget.delta_nano)


def solve_noise(draft: Task) -> int:
    """The smallest training noise multiplier, in millionths, with which the whole task keeps its budget.

    Args:
        draft: the task; its own training noise is not read.

    Raises:
        ImpossibleTarget: no noise is enough; it says the least possible ε.
    """
    low, high = _MIN_TRAINING_NOISE_MICRO, MAX_TRAINING_NOISE_MICRO
    least = task_epsilon(_with_noise(draft, high))
    if least > draft.budget.epsilon_micro:
        raise ImpossibleTarget(draft.budget, least)
    while low < high:
        middle = (low + high) // 2
        if task_epsilon(_with_noise(draft, middle)) <= draft.budget.epsilon_micro:
            high = middle
        else:
            low = middle + 1
    return high


def _with_noise(task: Task, noise_micro: int) -> Task:
    return dataclasses.replace(task, training=dataclasses.replace(task.training, noise_micro=noise_micro))


@lru_cache(maxsize=4096)
def _epsilon(steps: tuple[tuple[tuple[int, int], int], ...], delta_nano: int) -> int:
    """`epsilon` of (noise_micro, sample_rate_micro) laws with how often each is composed."""
    from dp_accounting.rdp import compute_epsilon  # 1.2 s: only who accounts pays for it

    if not steps:
        return 0
    curve = sum(count * _curve(noise, rate) for (noise, rate), count in steps)
    value = float(compute_epsilon(_ORDERS, curve, delta_nano / NANO)[0])
    if not math.isfinite(value):
        return _MAX_EPSILON_MICRO
    return min(math.ceil(value * MICRO), _MAX_EPSILON_MICRO)


@lru_cache(maxsize=1024)
def _curve(noise_micro: int, sample_rate_micro: int) -> NDArray[np.float64]:
    """Rényi divergence of one step at each of `_ORDERS`, float64[orders]."""
    import dp_accounting
    from dp_accounting.rdp import RdpAccountant

    event = dp_accounting.GaussianDpEvent(noise_micro / MICRO)
    if sample_rate_micro < MICRO:
        event = dp_accounting.PoissonSampledDpEvent(sample_rate_micro / MICRO, event)
    relation = dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE
    curve: NDArray[np.float64] = RdpAccountant(_ORDERS, relation).compose(event).rdp
    return curve
