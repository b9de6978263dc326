"""Rules that favour silos with a high loss: q-FedAvg and agnostic federated learning. They defend against nobody.

Both read losses, which no exhibit holds: of a round's model the log has noised evaluation *counts* after adoption, so
the share of errors is the loss that a federation could use, and a silo that wants weight need only claim errors.
The losses are therefore an argument, and a policy cannot name these rules.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import numpy as np

from defenses.evidence import Exhibit, Setting
from defenses.frames import Weighting
from defenses.sketches import Floats
from protos.task import MICRO

Losses: TypeAlias = Callable[[Setting], Sequence[Mapping[str, float]]]
"""Gives the noised losses per silo of all rounds before this one, oldest first; negative ones count as 0."""


def q_factors(losses: Floats, q: float) -> Floats:
    """`F_k^q` in units of the greatest (Li et al. 2020, q-FFL, equation 2 differentiated); 1 for all at loss 0.

    Args:
        losses: at least 0, float64[n].
    """
    most = losses.max(initial=0.0)
    return np.asarray((losses / most) ** q if most > 0 else np.ones_like(losses), dtype=np.float64)


def q_fedavg_step(updates: Floats, losses: Floats, q: float, lipschitz: float) -> Floats:
    """The whole step of q-FedAvg (Li et al. 2020, algorithm 2), which needs plaintext updates.

    With `D_k = F_k^q L u_k` and `h_k = q F_k^(q-1) |L u_k|² + L F_k^q` the model moves by `sum D_k / sum h_k`. Integer
    weights keep the direction of D and lose the length that h gives.

    Args:
        updates: u_k, new less old model, float64[n, d].
        losses: F_k > 0, float64[n].
        q: at least 0; 0 is the plain mean.
        lipschitz: L, the paper's 1 / learning rate.
    """
    moved = lipschitz * updates
    steps = losses[:, None] ** q * moved
    curvature = q * losses ** (q - 1) * np.square(moved).sum(axis=1) + lipschitz * losses**q
    return np.asarray(steps.sum(axis=0) / curvature.sum(), dtype=np.float64)


def simplex_projection(vector: Floats) -> Floats:
    """The nearest point of the probability simplex (Duchi et al. 2008, figure 1), float64[n]."""
    ranked = np.sort(vector)[::-1]
    excess = (np.cumsum(ranked) - 1) / np.arange(1, len(vector) + 1)
    return np.asarray(np.maximum(vector - excess[np.flatnonzero(ranked > excess)[-1]], 0.0), dtype=np.float64)


def agnostic_mixture(losses: Floats, rate: float) -> Floats:
    """The mixture after all rounds (Mohri et al. 2019, stochastic-AFL): `l = P(l + rate * F)`, from equal shares.

    Args:
        losses: one row per round, oldest first, float64[rounds, n].
        rate: step size of the mixture.

    Returns:
        Within the probability simplex, float64[n].
    """
    mixture = np.full(losses.shape[1], 1 / losses.shape[1])
    for row in losses:
        mixture = simplex_projection(mixture + rate * row)
    return mixture


class QFedAvg(Weighting):
    """Weights by count times `F^q` of the last known losses (Li et al. 2020, q-FFL).

    The direction of q-FedAvg without its step length. A silo without a loss gets the mean of those known.

    Args:
        losses: see `Losses`.
        q: 0 is federated averaging; greater is fairer.
    """

    name = "q-fedavg"
    by_count = True

    def __init__(self, losses: Losses, q: float = 1.0) -> None:
        self.losses = losses
        self.q = q

    def factors(self, setting: Setting, exhibits: Sequence[Exhibit]) -> Floats:
        """At least a millionth, so that nobody is left out."""
        rows = self.losses(setting)
        last = _row(rows[-1] if rows else {}, exhibits)
        known = last[~np.isnan(last)]
        filled = np.where(np.isnan(last), known.mean() if len(known) else 0.0, last)
        return np.asarray(np.maximum(q_factors(filled, self.q), 1 / MICRO), dtype=np.float64)


class Afl(Weighting):
    """Weights by the mixture of agnostic federated learning (Mohri et al. 2019), which goes for the worst silo.

    The mixture is computed afresh from all losses, so that the rule has no state. A round in which a silo has no loss
    moves it by the others' projection only.

    Args:
        losses: see `Losses`.
        rate: step size of the mixture.
    """

    name = "afl"

    def __init__(self, losses: Losses, rate: float = 0.1) -> None:
        self.losses = losses
        self.rate = rate

    def factors(self, setting: Setting, exhibits: Sequence[Exhibit]) -> Floats:
        """In units of the greatest, at least a millionth, so that nobody is left out."""
        rows = [np.nan_to_num(_row(row, exhibits)) for row in self.losses(setting)]
        mixture = agnostic_mixture(np.array(rows).reshape(len(rows), len(exhibits)), self.rate)
        return np.asarray(np.maximum(mixture / mixture.max(), 1 / MICRO), dtype=np.float64)


def _row(losses: Mapping[str, float], exhibits: Sequence[Exhibit]) -> Floats:
    return np.array([max(0.0, losses[one.silo]) if one.silo in losses else np.nan for one in exhibits])
