"""Update parts in numpy: what is sent instead of what was trained. Those that imitate others read `context.known`."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from scipy import stats

from redteam.attacks.parts import Amount, Context, Floats, Range, norm, unit
from redteam.errors import BadAttack


@dataclass(frozen=True)
class Scale:
    """γ times the update: explicit boosting (Bhagoji et al. 2019); γ = n/η is model replacement."""

    factor: float

    def send(self, update: Floats, context: Context) -> Floats:
        """See `Update.send`."""
        return self.factor * update


def model_replacement(silos: int, server_rate: float = 1.0, attackers: int = 1) -> Scale:
    """γ = n/η, so that the average becomes the attacker's model (Bagdasaryan et al. 2020, eq. 3).

    Several attackers share the factor. Equal weights are assumed; else the exact factor is W/w of the attacker.
    """
    return Scale(silos / server_rate / attackers)


@dataclass(frozen=True)
class SignFlip:
    """The honest update with its sign turned, times `factor` (Li et al. 2019, RSA, sign-flipping attack)."""

    factor: float = 1.0

    def send(self, update: Floats, context: Context) -> Floats:
        """See `Update.send`."""
        return -self.factor * update


@dataclass(frozen=True)
class GaussianUpdate:
    """Isotropic Gaussian noise instead of an update (Blanchard et al. 2017, deviation 200).

    With `relative`, `std` is in units that give the honest update's norm: quiet, and then mostly harmless.
    """

    std: Amount = 200.0
    relative: bool = False

    def send(self, update: Floats, context: Context) -> Floats:
        """See `Update.send`."""
        deviation = self.std * norm(update) / math.sqrt(update.size) if self.relative else self.std
        return context.random.normal(0.0, deviation, update.size)


@dataclass(frozen=True)
class InnerProduct:
    """-ε times the mean of the known honest updates: the inner product with it is negative (IPM: Xie et al. 2019).

    The paper's ε: 0.1 stays close to the others, 0.5, and 100 overturns a plain average.
    """

    epsilon: Amount = 0.5

    def send(self, update: Floats, context: Context) -> Floats:
        """See `Update.send`."""
        mean: Floats = context.known.mean(axis=0)
        return -self.epsilon * mean


@dataclass(frozen=True)
class LittleIsEnough:
    """μ - z σ, per coordinate over the known honest updates (LIE: Baruch, Baruch and Goldberg 2019, Algorithm 3).

    z = 1.5 is the paper's for CIFAR-10 and the usual one since; `lie_z` is its own formula.
    """

    z: float = 1.5

    def send(self, update: Floats, context: Context) -> Floats:
        """See `Update.send`."""
        known = _several(context)
        deviated: Floats = known.mean(axis=0) - self.z * known.std(axis=0)
        return deviated


def lie_z(silos: int, attackers: int) -> float:
    """LIE's z_max: with s = floor(n/2 + 1) - m supporters wanted, Φ(z) = (n - m - s) / (n - m) (its Algorithm 3).

    It is 0 for 10 silos with 2 attackers, and for any number of silos with few attackers small: hence z = 1.5.
    """
    supporters = silos // 2 + 1 - attackers
    share = (silos - attackers - supporters) / (silos - attackers)
    if not 0 < share < 1:
        raise BadAttack(f"{attackers} attackers of {silos} silos are no minority for which LIE's formula is meant")
    return float(stats.norm.ppf(share))


@dataclass(frozen=True)
class MinMax:
    """mean + γ p with the largest γ that keeps the distance to every known update within the largest among them.

    Shejwalkar and Houmansadr 2021, eq. 7 and Algorithm 1; p is minus the deviation ("std", the paper's best), the unit
    mean ("unit") or its sign ("sign"). γ is found by bisection up to a relative `tolerance`, from below.
    """

    perturbation: Literal["std", "unit", "sign"] = "std"
    tolerance: Annotated[float, Range(1e-12, 1)] = 1e-5

    def send(self, update: Floats, context: Context) -> Floats:
        """See `Update.send`."""
        known = _several(context)
        mean, direction = known.mean(axis=0), self._direction(known)
        limit = max(norm(a - b) for i, a in enumerate(known) for b in known[:i])

        def fits(gamma: float) -> bool:
            return max(norm(mean + gamma * direction - one) for one in known) <= limit

        sent: Floats = mean + self._largest(fits) * direction
        return sent

    def _direction(self, known: Floats) -> Floats:
        mean = known.mean(axis=0)
        directions: dict[str, Floats] = {"std": -known.std(axis=0), "unit": -unit(mean), "sign": -np.sign(mean)}
        return directions[self.perturbation]

    def _largest(self, fits: Callable[[float], bool]) -> float:
        low, high = 0.0, 1.0
        while fits(high) and high < 2.0**60:
            low, high = high, 2 * high
        while high - low > self.tolerance * high:
            middle = (low + high) / 2
            low, high = (middle, high) if fits(middle) else (low, middle)
        return low


def _several(context: Context) -> Floats:
    known = context.known
    if len(known) < 2:
        raise BadAttack("this attack imitates a spread of updates: give its ring at least two members")
    return known
