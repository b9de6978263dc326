"""What (ε, δ) allows an attacker, and what counts of right and wrong guesses prove. Values in, values out."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from protos.messages import Charge
from protos.task import MICRO


@dataclass(frozen=True)
class Guesses:
    """How often an attacker said "member": of `members` records that were in, and of `others` that were not."""

    true_positives: int
    members: int
    false_positives: int
    others: int

    @property
    def advantage(self) -> float:
        """True minus false positive rate."""
        return self.true_positives / self.members - self.false_positives / self.others

    def interval(self, miss: float = 0.05) -> tuple[float, float]:
        """Interval of the advantage that misses it with probability at most `miss`, for independent guesses."""
        true = clopper_pearson(self.true_positives, self.members, miss / 2)
        false = clopper_pearson(self.false_positives, self.others, miss / 2)
        return true[0] - false[1], true[1] - false[0]


def advantage_bound(epsilon: float, delta: float) -> float:
    """The greatest advantage of any membership attack on an (ε, δ)-private release: (e^ε - 1 + 2δ) / (e^ε + 1).

    From the region of errors that (ε, δ) leaves (Kairouz, Oh and Viswanath 2015, theorem 2.1).
    """
    if math.isinf(epsilon):
        return 1.0
    # Divided by e^ε, so that a large ε does not overflow.
    shrunk = math.exp(-epsilon)
    return min(1.0, (1 - shrunk + 2 * delta * shrunk) / (1 + shrunk))


def mechanism_bound(charges: Iterable[Charge]) -> float:
    """The greatest advantage on these releases together: their δ at ε = 0, which is their total variation distance.

    Sharper than `advantage_bound` of a single (ε, δ), as it knows the noise law. By privacy loss distributions
    (Doroshenko et al. 2022), pessimistic, so never below the truth.
    """
    import dp_accounting
    from dp_accounting.pld import PLDAccountant

    accountant = PLDAccountant(dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE, value_discretization_interval=1e-3)
    for charge in charges:
        event: dp_accounting.DpEvent = dp_accounting.GaussianDpEvent(charge.noise_micro / MICRO)
        if charge.sample_rate_micro < MICRO:
            event = dp_accounting.PoissonSampledDpEvent(charge.sample_rate_micro / MICRO, event)
        accountant.compose(event, charge.steps)
    return min(1.0, float(accountant.get_delta(0.0)))


def clopper_pearson(successes: int, trials: int, miss: float) -> tuple[float, float]:
    """Exact two-sided interval of a binomial's probability (Clopper and Pearson 1934); misses with at most `miss`."""
    from scipy import stats

    low = stats.beta.ppf(miss / 2, successes, trials - successes + 1) if successes else 0.0
    high = stats.beta.ppf(1 - miss / 2, successes + 1, trials - successes) if successes < trials else 1.0
    return float(low), float(high)


def epsilon_at_least(guesses: Guesses, delta: float, miss: float) -> float:
    """A lower bound on ε at this δ, wrong with probability at most `miss` (Jagielski, Ullman and Oprea 2020).

    Every (ε, δ)-private mechanism has TPR <= e^ε FPR + δ and 1 - FPR <= e^ε (1 - TPR) + δ.
    """
    true_low, _ = clopper_pearson(guesses.true_positives, guesses.members, miss / 2)
    _, false_high = clopper_pearson(guesses.false_positives, guesses.others, miss / 2)
    ratios = ((true_low - delta) / false_high, (1 - false_high - delta) / (1 - true_low))
    return max(0.0, *(math.log(ratio) for ratio in ratios if ratio > 0))
