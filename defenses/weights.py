"""Integer weights under floor and cap, in exact arithmetic.

With m retained silos each weight lies within `ceil(floor*W/m)` and `floor(cap*W/m)` and all sum to W. Weights are
proportional to the noised counts as far as the bounds allow; suspicion s moves a silo's ceiling linearly from its
own share (s = 0) to the floor (s = 1), and the others take up what it leaves. Where they are all at the cap, the
suspects rise again towards their own shares, all by the same part of what they lost. Rounding is by largest
remainder, ties by name.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping
from fractions import Fraction

from defenses.errors import InfeasibleWeights, WrongWeights
from defenses.evidence import micro
from protos.task import MICRO


def bounds(silos: int, floor_micro: int, cap_micro: int, total_weight: int) -> tuple[int, int]:
    """Least and greatest integer weight of one of `silos` retained silos."""
    share = total_weight * floor_micro, silos * MICRO
    least = -(-share[0] // share[1])
    return least, min(total_weight, total_weight * cap_micro // share[1])


def integer_weights(
    base: Mapping[str, int | Fraction],
    suspicion: Mapping[str, float | Fraction],
    floor: float | Fraction,
    cap: float | Fraction,
    total: int,
) -> dict[str, int]:
    """Weights of the retained silos, sorted by name.

    Args:
        base: positive base weight per silo, such as its noised record count.
        suspicion: within 0 and 1 per silo; a silo that is not named has none.
        floor: least weight in units of the equal share.
        cap: greatest weight in the same unit.
        total: W.

    Raises:
        InfeasibleWeights: where no weights obey the bounds, or a base weight or suspicion is out of range.
    """
    names = sorted(base)
    if not names:
        raise InfeasibleWeights("no silo is retained, so there is nothing to weigh; let the round be void")
    least, greatest = bounds(len(names), micro(floor), micro(cap), total)
    if not least * len(names) <= total <= greatest * len(names):
        raise InfeasibleWeights(
            f"{len(names)} silos with weights of {least} to {greatest} cannot sum to {total}; widen floor and cap"
        )
    shares = {name: Fraction(base[name]) for name in names}
    doubts = {name: Fraction(suspicion.get(name, 0)) for name in names}
    if any(share <= 0 for share in shares.values()) or any(not 0 <= doubt <= 1 for doubt in doubts.values()):
        raise InfeasibleWeights("base weights must be positive and suspicions within 0 and 1; correct the defence")
    return _round(_suspect(shares, doubts, Fraction(least), Fraction(greatest), total), total)


def verify_weights(weights: Mapping[str, int], floor_micro: int, cap_micro: int, total_weight: int) -> None:
    """Check the weights of the retained silos; silo and auditor make the same check.

    Raises:
        WrongWeights: names the first silo, in order of names, whose weight breaks a bound, or the sum.
    """
    if not weights:
        raise WrongWeights("no silo has a weight; a round without a retained silo is void")
    least, greatest = bounds(len(weights), floor_micro, cap_micro, total_weight)
    for silo in sorted(weights):
        if weights[silo] < least:
            raise WrongWeights(f"weight {weights[silo]} of {silo} is below the floor of {least}; do not adopt the sum")
        if weights[silo] > greatest:
            raise WrongWeights(f"weight {weights[silo]} of {silo} is above the cap of {greatest}; do not adopt the sum")
    if sum(weights.values()) != total_weight:
        raise WrongWeights(f"weights sum to {sum(weights.values())}, not {total_weight}; do not adopt the sum")


Shares = dict[str, Fraction]


def _suspect(shares: Shares, doubts: Shares, least: Fraction, greatest: Fraction, total: int) -> Shares:
    plain = _fill(shares, dict.fromkeys(shares, greatest), least, total)
    if not any(doubts.values()):
        return plain
    ceilings = {
        name: least + (1 - doubt) * (plain[name] - least) if doubt else greatest for name, doubt in doubts.items()
    }
    missing = total - sum(ceilings.values())
    if missing <= 0:
        return _fill(shares, ceilings, least, total)
    # All shares without suspicion sum to W, so rising towards them always suffices, and nobody gains by suspicion.
    lost = {name: plain[name] - ceilings[name] if doubts[name] else Fraction(0) for name in shares}
    rise = Fraction(missing) / sum(lost.values())
    return {name: ceilings[name] + rise * lost[name] for name in shares}


def _fill(shares: Shares, ceilings: Shares, least: Fraction, total: int) -> Shares:
    """Water-filling: the one scale at which the shares, clamped to [least, ceiling], sum to `total`."""
    # In whole numbers, with one denominator for all shares and one for all bounds: fractions take most of the time.
    unit = math.lcm(least.denominator, *(ceiling.denominator for ceiling in ceilings.values()))
    parts = math.lcm(*(share.denominator for share in shares.values()))
    floor, wanted = _times(least, unit), total * unit
    pairs = [(_times(share, parts), _times(ceilings[name], unit)) for name, share in shares.items()]

    def at(kink: Fraction) -> list[int]:
        """What silos get at a scale, as multiples of one part of `unit * kink.denominator`."""
        scale, rest = kink.numerator, kink.denominator
        return [min(max(scale * share, rest * floor), rest * ceiling) for share, ceiling in pairs]

    # Fractions are compared only where their floats are equal; a quotient of integers is rounded rightly.
    bounded = {(bound, share) for share, ceiling in pairs for bound in (floor, ceiling)}
    kinks = [kink for _, kink in sorted((bound / share, Fraction(bound, share)) for bound, share in bounded)]
    place = bisect_left(kinks, True, key=lambda kink: sum(at(kink)) >= wanted * kink.denominator)
    upper = [Fraction(value, kinks[place].denominator * unit) for value in at(kinks[place])]
    surplus = sum(at(kinks[place])) - wanted * kinks[place].denominator
    if surplus == 0 or place == 0:
        return dict(zip(shares, upper, strict=True))
    # Between two kinks the sum is linear in the scale.
    lower = [Fraction(value, kinks[place - 1].denominator * unit) for value in at(kinks[place - 1])]
    part = Fraction(surplus, kinks[place].denominator * unit) / (sum(upper) - sum(lower))
    return {name: high - part * (high - low) for name, low, high in zip(shares, lower, upper, strict=True)}


def _times(value: Fraction, unit: int) -> int:
    """`value * unit`, which is a whole number."""
    return value.numerator * (unit // value.denominator)


def _round(ideal: Shares, total: int) -> dict[str, int]:
    whole = {name: int(value) for name, value in ideal.items()}
    by_remainder = sorted(ideal, key=lambda name: (whole[name] - ideal[name], name))
    for name in by_remainder[: total - sum(whole.values())]:
        whole[name] += 1
    return whole
