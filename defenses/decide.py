"""From exhibits to verdicts and weights: `decide = conclude(score(...))`.

`score` computes in floats, whose last bits may differ between machines, and records integers. `conclude` is exact:
verdicts, weights and reasons are a function of recorded scores, counts and rules. So an auditor checks the recorded
scores within a tolerance, and verdicts and weights to the bit (`reweigh`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from fractions import Fraction
from itertools import pairwise

from defenses import registry
from defenses.errors import DefenseError, WrongWeights
from defenses.evidence import Exhibit, History, Opinion, Rules, Scored, Setting, rules_of, verify_exhibit
from defenses.weights import integer_weights, verify_weights
from protos.records import Judgement, Score
from protos.task import MICRO

REASON_LENGTH = 400


def decide(
    setting: Setting,
    exhibits: Sequence[Exhibit],
    defense_name: str,
    convicted: Mapping[str, str],
    history: History | None = None,
) -> tuple[Judgement, ...]:
    """Judge a round.

    Args:
        setting: what is public about the round.
        exhibits: one per silo that opened, in any order.
        defense_name: as in the policy.
        convicted: reason per silo that a check convicted; its exhibit is evidence against nobody.
        history: earlier rounds, for rules that read them.

    Returns:
        One judgement per exhibit, sorted by silo. Where nobody is retained all weights are 0.

    Raises:
        UnknownDefense, MalformedExhibit, InfeasibleWeights: before anything is decided.
    """
    scored = score(setting, exhibits, defense_name, convicted, history)
    return conclude(scored, defense_name, rules_of(setting), convicted)


def score(
    setting: Setting,
    exhibits: Sequence[Exhibit],
    defense_name: str,
    convicted: Collection[str] = (),
    history: History | None = None,
) -> tuple[Scored, ...]:
    """Scores per exhibit, sorted by silo; a convicted silo has none and does not enter the others'."""
    ordered = sorted(exhibits, key=lambda one: one.silo)
    _verify_distinct([one.silo for one in ordered])
    for exhibit in ordered:
        verify_exhibit(setting, exhibit)
    trusted = [one for one in ordered if one.silo not in convicted]
    found = {one.silo: one for one in registry.get(defense_name).score(setting, trusted, history)}
    return tuple(found.get(one.silo, Scored(one.silo, one.count, ())) for one in ordered)


def conclude(
    scored: Sequence[Scored], defense_name: str, rules: Rules, convicted: Mapping[str, str]
) -> tuple[Judgement, ...]:
    """Verdicts, weights and reasons from recorded integers, sorted by silo.

    Raises:
        UnknownDefense: for a defence that this version does not know.
        InfeasibleWeights: where floor and cap leave no weights for the retained silos.
    """
    defense = registry.get(defense_name)
    ordered = sorted(scored, key=lambda one: one.silo)
    _verify_distinct([one.silo for one in ordered])
    trusted = [one for one in ordered if one.silo not in convicted]
    opinions = {opinion.silo: opinion for opinion in defense.opine(trusted, rules)}
    retained = [one for one in trusted if not opinions[one.silo].excluded]
    weights: dict[str, int] = {}
    if retained:
        floor, cap = limits(defense_name, rules, len(retained))
        suspicion = {one.silo: opinions[one.silo].suspicion for one in retained}
        weights = integer_weights(
            defense.base_weights(retained), suspicion, Fraction(floor, MICRO), Fraction(cap, MICRO), rules.total_weight
        )
    return tuple(_judgement(one, opinions.get(one.silo), weights.get(one.silo, 0), convicted) for one in ordered)


def reweigh(
    judgements: Sequence[Judgement], defense_name: str, rules: Rules, convicted: Mapping[str, str]
) -> tuple[Judgement, ...]:
    """What the recorded scores and counts lead to; equal to `judgements` for a decision made by the rules."""
    scored = [Scored(one.silo, one.count, one.scores) for one in judgements]
    return conclude(scored, defense_name, rules, convicted)


def verify_judgements(
    judgements: Sequence[Judgement], defense_name: str, rules: Rules, convicted: Mapping[str, str]
) -> None:
    """Check a recorded decision with integers only: verdicts, weights and reasons, then floor, cap and sum.

    Raises:
        WrongWeights: names the first silo whose verdict or weight does not follow from the recorded scores.
    """
    expected = reweigh(judgements, defense_name, rules, convicted)
    # Sorted by silo on both sides, so a judgement out of order differs too.
    for recorded, right in zip(judgements, expected, strict=True):
        if recorded != right:
            raise WrongWeights(
                f"{recorded.silo} is {recorded.verdict} with weight {recorded.weight} on record, but the scores make "
                f"{right.silo} {right.verdict} with weight {right.weight}; do not adopt the sum"
            )
    weights = {one.silo: one.weight for one in judgements if one.verdict in ("retained", "suspected")}
    if weights:
        verify_weights(weights, *limits(defense_name, rules, len(weights)), rules.total_weight)


def scores_differ(recorded: Sequence[Score], repeated: Sequence[Score], tolerance_micro: int = 100) -> str | None:
    """Name of the first score that two computations disagree about by more than the tolerance, or None.

    The default, a ten-thousandth, is far above float noise and far below what moves a verdict.
    """
    if [one.name for one in recorded] != [one.name for one in repeated]:
        return "the list of scores"
    for one, other in zip(recorded, repeated, strict=True):
        pairs = [(one.value_micro, other.value_micro), (one.evidence_micro, other.evidence_micro)]
        for mine, theirs in pairs:
            if (mine is None) != (theirs is None):
                return one.name
            if mine is not None and theirs is not None and abs(mine - theirs) > tolerance_micro:
                return one.name
    return None


def limits(defense_name: str, rules: Rules, retained: int) -> tuple[int, int]:
    """Scaled floor and cap that hold for a defence: the policy's, or for an unbounded one 0 and everything."""
    if registry.get(defense_name).bounded:
        return rules.floor_micro, rules.cap_micro
    return 0, retained * MICRO


def _judgement(scored: Scored, opinion: Opinion | None, weight: int, convicted: Mapping[str, str]) -> Judgement:
    if opinion is None:
        verdict, reason = "convicted", convicted[scored.silo]
    else:
        verdict = "excluded" if opinion.excluded else "suspected" if opinion.suspicion > 0 else "retained"
        reason = opinion.reason
    return Judgement(scored.silo, scored.count, scored.scores, verdict, reason[:REASON_LENGTH], weight)


def _verify_distinct(silos: Sequence[str]) -> None:
    for one, other in pairwise(silos):
        if one == other:
            raise DefenseError(f"{one} stands twice in one round; reject the second opening")
